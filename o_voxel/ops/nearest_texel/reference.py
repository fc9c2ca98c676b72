"""Nearest-texel transform in plain torch: along the columns first, then along the rows.

Squared distances are separable, so the nearest texel is among the nearest of each column (Saito and Toriwaki, New
Algorithms for Euclidean Distance Transformation, 1994).
"""

from __future__ import annotations

import torch
from torch import Tensor

# Above any distance; its square plus that of the largest side still fits int32.
NOWHERE = 30_000


def nearest_rows(covered: Tensor) -> Tensor:
    """Returns rows [H, W] int32 of the nearest texel in the same column that is `covered` [H, W] bool; -1 if none."""
    height = len(covered)
    row = torch.arange(height, dtype=torch.int32, device=covered.device)[:, None]
    above = torch.where(covered, row, -NOWHERE).cummax(0).values
    below = torch.where(covered, row, NOWHERE).flip(0).cummin(0).values.flip(0)
    nearest = torch.where(row - above <= below - row, above, below)
    return torch.where((nearest >= 0) & (nearest < height), nearest, -1).to(torch.int32)


def nearest_columns(rows: Tensor) -> Tensor:
    """Returns `nearest_texel` [H, W] from `nearest_rows` [H, W]: scans columns outwards while they can be nearer."""
    height, width = rows.shape
    row = torch.arange(height, dtype=torch.int32, device=rows.device)[:, None]
    column = torch.arange(width, dtype=torch.int32, device=rows.device)
    gap = torch.where(rows < 0, NOWHERE, (rows - row).abs())
    here = gap * gap
    texel = torch.where(rows < 0, -1, rows * width + column)
    best, found = here.clone(), texel.clone()
    for step in range(1, width):
        if not bool((best > step * step).any()):
            break
        for to, source in ((slice(step, None), slice(None, -step)), (slice(None, -step), slice(step, None))):
            nearer = (here[:, source] + step * step < best[:, to]) & (texel[:, source] >= 0)
            best[:, to] = torch.where(nearer, here[:, source] + step * step, best[:, to])
            found[:, to] = torch.where(nearer, texel[:, source], found[:, to])
    return found
