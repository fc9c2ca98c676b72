"""Depth map look-up in plain torch: a direction is blocked if a surface in its map is above the point's tangent plane.

A pixel's depth is compared with that of the tangent plane at the pixel's centre, not with the point's own, because a
slanted surface would otherwise shadow itself.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

# Smallest cosine used: closer to the tangent plane, pixel size dominates, and the weight is next to nothing.
MIN_COSINE = 0.1
# Least height of a blocker above the plane, in pixels, against self-shadowing of curved and faceted surfaces.
BIAS_PIXELS = 1.0


def ambient_occlusion_torch(
    depth: Tensor,
    axes: Tensor,
    center: Tensor,
    radius: Tensor,
    points: Tensor,
    normals: Tensor,
    flat: Tensor,
    reach: float,
) -> Tensor:
    """Returns the visible fraction [P] float32; arguments as `ambient_occlusion`, the fields of `DepthMaps` first.

    depth: [N, S, S].  axes: [N, 3, 3].  center: [3].  radius: [1].  points, normals, flat: [P, 3].
    """
    side = depth.shape[1]
    pixel = 2 * radius / side
    moved = points - center
    light, whole = torch.zeros_like(points[:, 0]), torch.zeros_like(points[:, 0])
    for picture, (right, up, towards) in zip(depth, axes, strict=True):
        cosine, steepness = _dot(normals, towards), _dot(flat, towards)
        x, y, z = _dot(moved, right) / radius, _dot(moved, up) / radius, _dot(moved, towards)
        column, row = (x + 1) * (side / 2) - 0.5, (1 - y) * (side / 2) - 0.5
        slope = pixel / steepness.clamp_min(MIN_COSINE)
        right_slope, down_slope = -_dot(flat, right) * slope, _dot(flat, up) * slope
        left, top = column.floor(), row.floor()
        seen = torch.zeros_like(z)
        for dx, dy in itertools.product((0, 1), repeat=2):
            px, py = left + dx, top + dy
            weight = (1 - (column - px).abs()) * (1 - (row - py).abs())
            inside = (px >= 0) & (py >= 0) & (px < side) & (py < side)
            where = torch.where(inside, py * side + px, 0).long()
            rise = picture.flatten()[where] - (z + (px - column) * right_slope + (py - row) * down_slope)
            seen += weight * ~(inside & (rise > BIAS_PIXELS * pixel) & (rise < reach))
        weight = torch.where(steepness > MIN_COSINE, cosine.clamp_min(0), 0.0)
        light += weight * seen
        whole += weight
    return torch.where(whole > 0, light / torch.where(whole > 0, whole, 1.0), 1.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Returns dot products [P] of [P, 3] with [3], without a matmul: TF32 on a GPU would round them."""
    return a[:, 0] * b[0] + a[:, 1] * b[1] + a[:, 2] * b[2]
