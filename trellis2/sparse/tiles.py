"""Tiles of a voxel set with the halo of neighbours that a 3x3x3 convolution on them reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .coords import CoordSet


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows start to stop of a voxel set, n of them, and the H other rows that neighbour them.

    halo: [H] int64, rows of the set, ascending.  neighbors: [n, 27] int32, the neighbour map of the n rows into the
    tile's n + H rows, interior before halo, -1 where there is no voxel.
    """

    start: int
    stop: int
    halo: Tensor
    neighbors: Tensor

    def extend(self, values: Tensor) -> Tensor:
        """Gathers the tile's rows: `values` [M, ...] of the whole set to [n + H, ...]."""
        interior = values[self.start : self.stop]
        return torch.cat([interior, values[self.halo]]) if len(self.halo) else interior


def with_halo(coords: CoordSet, start: int, stop: int) -> Tile:
    """Returns the tile of rows `start` to `stop`, with its halo.

    The halo is thin if consecutive rows are near each other, as those of `CoordSet.subdivide` and of sorted voxels are.
    """
    near = coords.some_neighbors(start, stop)
    outside = ((near < start) | (near >= stop)) & (near >= 0)
    halo, position = torch.unique(near[outside], return_inverse=True)
    local = torch.where(near < 0, near, near - start)  # -1 stays
    local[outside] = (position + (stop - start)).to(torch.int32)
    return Tile(start, stop, halo.long(), local)
