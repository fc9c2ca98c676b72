"""Trilinear and nearest texture sampling in plain torch, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from .tables import WRAP_CODES, TextureTable


def sample_bilinear(table: TextureTable, material: Tensor, uv: Tensor, lod: Tensor) -> Tensor:
    """Texels [P, C] float32 in [0, 1]; arguments as `texture_sample`, without checks."""
    lower = lod.floor()
    fraction = (lod - lower)[:, None]
    level = lower.to(torch.int64)
    fine = _bilinear(table, material, uv, level)
    coarse = _bilinear(table, material, uv, torch.where(fraction[:, 0] > 0, level + 1, level))
    return (1 - fraction) * fine + fraction * coarse


def _bilinear(table: TextureTable, material: Tensor, uv: Tensor, level: Tensor) -> Tensor:
    """[P, C] float32 in [0, 1] at `uv` [P, 2] on mip `level` [P] int64 of the textures of `material` [P]."""
    height, width = table.height[material, level], table.width[material, level]
    first = table.offset[material, level]
    nearest, wrap = table.nearest[material], table.wrap[material]
    x, x_weight = _taps(uv[:, 0] * width, width, wrap[:, 0], nearest)
    y, y_weight = _taps((1 - uv[:, 1]) * height, height, wrap[:, 1], nearest)
    total = None
    for row, row_weight in zip(y, y_weight, strict=True):
        start = first + row * width
        for column, column_weight in zip(x, x_weight, strict=True):
            part = (column_weight * row_weight)[:, None] * table.texels[start + column]
            total = part if total is None else total + part
    assert total is not None  # there are taps
    return total / 255.0


def _taps(
    position: Tensor, size: Tensor, wrap: Tensor, nearest: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The two texels [P] int64 around `position` [P], in texels along one axis, and their weights [P] float32.

    size: [P] int64, texels along the axis.  wrap: [P] int64 WRAP_CODES.  nearest: [P] bool; that texel has weight 1.
    """
    low = torch.where(nearest, position.floor(), (position - 0.5).floor())
    weight = torch.where(nearest, 0.0, position - low - 0.5)
    low = low.to(torch.int64)
    return (_wrapped(low, size, wrap), _wrapped(low + 1, size, wrap)), (1 - weight, weight)


def _wrapped(texel: Tensor, size: Tensor, wrap: Tensor) -> Tensor:
    """Texel indices [P] int64 wrapped into [0, size) by the mode `wrap` [P]."""
    repeated = texel % size
    mirrored = texel % (2 * size)
    mirrored = torch.minimum(mirrored, 2 * size - 1 - mirrored)
    clamped = torch.minimum(texel.clamp_min(0), size - 1)
    out = torch.where(wrap == WRAP_CODES["mirror"], mirrored, repeated)
    return torch.where(wrap == WRAP_CODES["clamp"], clamped, out)
