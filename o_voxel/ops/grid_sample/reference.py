"""Trilinear sampling in plain torch, one corner at a time so that no [Q, 8, C] tensor exists."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ..hash_grid import HashGrid


def trilinear(feats: Tensor, index: HashGrid, points: Tensor) -> Tensor:
    """See `grid_sample`."""
    low = torch.floor(points - 0.5)
    fraction = points - 0.5 - low
    base = low.to(torch.int64)
    total = points.new_zeros(len(points), 1)
    out = points.new_zeros(len(points), feats.shape[1])
    for corner in itertools.product((0, 1), repeat=3):
        offset = torch.tensor(corner, device=points.device)
        row = index.find(base + offset)
        weight = torch.where(offset.bool(), fraction, 1 - fraction).prod(-1) * (row >= 0)
        out += weight[:, None] * feats[row.clamp_min(0)].float() if len(feats) else 0
        total += weight[:, None]
    return (out / total.clamp_min(1e-12)).to(feats.dtype)
