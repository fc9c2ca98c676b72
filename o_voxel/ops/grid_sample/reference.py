"""Sampling in plain torch, one corner at a time so that no [Q, 8, C] tensor exists."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ..hash_grid import HashGrid

# Distances per step of the brute-force search on a GPU: 1 GiB.
SEARCH_PAIRS = 2**28


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
    """Returns rows [Q] int64 of the voxels, among `coords` [N, 3], with the nearest centres to `points` [Q, 3]."""
    centers = coords.to(torch.float32) + 0.5
    if points.device.type == "cpu":
        from scipy.spatial import cKDTree

        return torch.from_numpy(cKDTree(centers.numpy()).query(points.numpy())[1]).to(torch.int64)
    step = max(1, SEARCH_PAIRS // len(centers))
    parts = [
        torch.cdist(part, centers, compute_mode="donot_use_mm_for_euclid_dist").argmin(1) for part in points.split(step)
    ]
    return torch.cat(parts)
