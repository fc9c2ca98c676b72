"""Sampling in plain torch, one corner at a time so that no [Q, 8, C] tensor exists."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ...values import Mesh
from ..closest_point import build_index, closest_point
from ..hash_grid import HashGrid


def trilinear(feats: Tensor, index: HashGrid, points: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (values [Q, C], reached [Q] bool: one of eight voxels exists) at `points` [Q, 3]. See `grid_sample`."""
    low = torch.floor(points - 0.5)
    fraction = points - 0.5 - low
    base = low.to(torch.int64)
    total = points.new_zeros(len(points), 1)
    out = points.new_zeros(len(points), feats.shape[1])
    reached = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for corner in itertools.product((0, 1), repeat=3):
        offset = torch.tensor(corner, device=points.device)
        row = index.find(base + offset)
        weight = torch.where(offset.bool(), fraction, 1 - fraction).prod(-1) * (row >= 0)
        out += weight[:, None] * feats[row.clamp_min(0)].float() if len(feats) else 0
        total += weight[:, None]
        reached |= row >= 0
    return (out / total.clamp_min(1e-12)).to(feats.dtype), reached & (total[:, 0] > 0)


def containing(feats: Tensor, index: HashGrid, points: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (values [Q, C], reached [Q] bool) of the voxels that contain `points` [Q, 3]."""
    row = index.find(torch.floor(points).to(torch.int64))
    reached = row >= 0
    if len(feats) == 0:
        return points.new_zeros(len(points), feats.shape[1]).to(feats.dtype), reached
    return torch.where(reached[:, None], feats[row.clamp_min(0)], 0), reached


def nearest_voxels(coords: Tensor, points: Tensor) -> Tensor:
    """Returns rows [Q] int64 of the voxels, among `coords` [N, 3], with the nearest centres to `points` [Q, 3]; of
    equally near ones the lowest."""
    corners = torch.arange(len(coords), dtype=torch.int32, device=coords.device)[:, None].expand(-1, 3)
    centers = Mesh(coords.to(torch.float32) + 0.5, corners.contiguous())  # each triangle is a point
    return closest_point(build_index(centers), points).face
