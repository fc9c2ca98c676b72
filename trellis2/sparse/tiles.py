"""A part of a voxel set, with the halo that a convolution on it reaches into."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .coords import CoordSet


@dataclass(frozen=True, eq=False)
class Part:
    """Rows start to stop of a voxel set: n of them, and H others that neighbour them.

    halo: [H] int64, rows of the set, ascending.  neighbors: [n, 27] int32, the neighbour map of the n rows into the
    n + H: the part's own rows, then the halo's.
    """

    start: int
    stop: int
    halo: Tensor
    neighbors: Tensor

    def extend(self, values: Tensor) -> Tensor:
        """[M, ...] of all rows to [n + H, ...]."""
        own = values[self.start : self.stop]
        return torch.cat([own, values[self.halo]]) if len(self.halo) else own


def cut(coords: CoordSet, start: int, stop: int) -> Part:
    """The part from row `start` to `stop`. Rows that follow each other should lie together, as those of
    `CoordSet.subdivide` and of sorted voxels do: then the halo is thin."""
    near = coords.some_neighbors(start, stop)
    outside = ((near < start) | (near >= stop)) & (near >= 0)
    halo, place = torch.unique(near[outside], return_inverse=True)
    # What stays below 0 is absent.
    local = torch.where(near < 0, near, near - start)
    local[outside] = (place + (stop - start)).to(torch.int32)
    return Part(start, stop, halo.long(), local)
