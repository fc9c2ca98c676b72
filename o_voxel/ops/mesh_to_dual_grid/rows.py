"""Enumeration of triangle rows (of grid edges and of cells) for the lanes of the Triton kernels.

A triangle has as many rows as it spans grid lines: none for most of a fine mesh, thousands for a large triangle.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .soup import Slab, Soup

ROWS_A_STEP = 1 << 22  # about 40 bytes of temporary memory per row


@dataclass(frozen=True, eq=False)
class DealtRows:
    """Rows start to start + count - 1 of `triangles`, total in all; ends: cumulative counts. All [T] int64."""

    triangles: Tensor
    start: Tensor
    count: Tensor
    ends: Tensor
    total: int

    def steps(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the triangle and grid line of each row, at most ROWS_A_STEP at a time, both [M] int32."""
        for first in range(0, self.total, ROWS_A_STEP):
            number = torch.arange(first, min(first + ROWS_A_STEP, self.total), device=self.ends.device)
            owner = torch.searchsorted(self.ends, number, right=True)
            place = (self.start + self.count - self.ends)[owner] + number
            yield self.triangles[owner].to(torch.int32), place.to(torch.int32)


def deal_rows(soup: Soup, slab: Slab) -> tuple[list[DealtRows], list[DealtRows]]:
    """Returns, by axis, the rows of grid edges that triangles cross, and of cells of triangles steepest along it."""
    corners, normals = soup.corners[slab.triangles], soup.normals[slab.triangles]
    size = normals.new_tensor(soup.voxel_size)
    first, end = normals.new_tensor([(slab.low, 0, 0), (slab.high, *soup.shape[1:])])
    low, high = corners.amin(dim=1) / size, corners.amax(dim=1) / size
    last = normals.new_tensor(soup.shape) - 1
    edges = [side.clamp(min=0).minimum(last).to(torch.int64) for side in (low, high)]
    edges[0][:, 0].clamp_(min=slab.low - 1)
    edges[1][:, 0].clamp_(max=slab.high)
    cells = low.maximum(first).minimum(end).floor(), high.minimum(end - 1).maximum(first - 1).floor() + 1
    cells = [side.to(torch.int64) for side in cells]
    steepest = torch.where((normals != 0).any(dim=1), normals.abs().argmax(dim=1), -1)
    starts, counts = [], []
    for start, stop, steep in ((*edges, None), (*cells, steepest)):
        for axis in range(3):
            b = (axis + 2) % 3
            count = (stop[:, b] - start[:, b]).clamp(min=0)
            starts.append(start[:, b])
            counts.append(count if steep is None else torch.where(steep == axis, count, 0))
    ends = [count.cumsum(0) for count in counts]
    totals = torch.stack([end[-1] for end in ends]).tolist()
    rows = [DealtRows(slab.triangles, *row) for row in zip(starts, counts, ends, totals, strict=True)]
    return rows[:3], rows[3:]
