"""The occupied voxel nearest to an empty one, found in cells that double until something is near."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

REACH = 2


def nearest_rows(coords: Tensor, query: Tensor) -> Tensor:
    """Rows [Q] int64 of `coords` [N, 3] int, N >= 1, near each of `query` [Q, 3] int, both non-negative.

    Within two voxels it is the nearest, the lowest row among equals; farther off one representative a cell is
    compared, so that it is a near one. Deterministic. One host synchronisation a doubling.
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
    """Rows [Q] as above among cells of 2^shift voxels at most REACH cells away, -1 where all are empty."""
    limit = (torch.cat((coords, query)).amax(0) >> shift) + 2 * REACH + 1
    keys, rows = _keys((coords >> shift) + REACH, limit).sort(stable=True)
    cell = (query >> shift) + REACH
    best = torch.full((len(query),), -1, dtype=torch.int64, device=query.device)
    distance = torch.full_like(best, torch.iinfo(torch.int64).max)
    for offset in itertools.product(range(-REACH, REACH + 1), repeat=3):
        wanted = _keys(cell + torch.tensor(offset, device=cell.device), limit)
        place = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
        row = rows[place]
        squared = (coords[row] - query).square().sum(1)
        closer = (squared < distance) | ((squared == distance) & (row < best))
        closer &= keys[place] == wanted
        best, distance = torch.where(closer, row, best), torch.where(closer, squared, distance)
    return best


def _keys(cell: Tensor, limit: Tensor) -> Tensor:
    return (cell[:, 0] * limit[1] + cell[:, 1]) * limit[2] + cell[:, 2]
