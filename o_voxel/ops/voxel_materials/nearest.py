"""Nearest occupied voxel by search in grid cells of doubling size."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

REACH = 2


def nearest_rows(coords: Tensor, query: Tensor) -> Tensor:
    """Returns rows [Q] int64 of `coords` [N, 3] int, N >= 1, near each of `query` [Q, 3] int, both non-negative.

    Within two voxels this is the nearest, the lowest row among equals; beyond, only one representative per cell is
    compared, so the result is near but not always nearest. Deterministic. One host synchronisation per doubling.
    """
    coords, query = coords.to(torch.int64), query.to(torch.int64)
    best = torch.full((len(query),), -1, dtype=torch.int64, device=query.device)
    left = torch.arange(len(query), device=query.device)
    for shift in range(64):
        if len(left) == 0:
            break
        best[left] = _nearest_in_cells(coords, query[left], shift)
        left = left[best[left] < 0]
    return best


def _nearest_in_cells(coords: Tensor, query: Tensor, shift: int) -> Tensor:
    """Returns rows [Q] as `nearest_rows`, among cells of 2^shift voxels within REACH cells, -1 if all are empty."""
    limit = (torch.cat((coords, query)).amax(0) >> shift) + 2 * REACH + 1
    keys, rows = _keys((coords >> shift) + REACH, limit).sort(stable=True)
    cell = (query >> shift) + REACH
    best = torch.full((len(query),), -1, dtype=torch.int64, device=query.device)
    distance = torch.full_like(best, torch.iinfo(torch.int64).max)
    for offset in itertools.product(range(-REACH, REACH + 1), repeat=3):
        wanted = _keys(cell + torch.tensor(offset, device=cell.device), limit)
        slot = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
        row = rows[slot]
        squared = (coords[row] - query).square().sum(1)
        closer = (squared < distance) | ((squared == distance) & (row < best))
        closer &= keys[slot] == wanted
        best, distance = torch.where(closer, row, best), torch.where(closer, squared, distance)
    return best


def _keys(cell: Tensor, limit: Tensor) -> Tensor:
    return (cell[:, 0] * limit[1] + cell[:, 1]) * limit[2] + cell[:, 2]
