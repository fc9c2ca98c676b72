"""Values on a regular grid of points that are kept only near a surface, in blocks of 4 x 4 x 4.

Positions are in grid units here: point (i, j, k) is at (i, j, k), and blocks start at multiples of 4. A table over all
blocks says where each is, so that a look-up is arithmetic and one read; at 1024 points a side it takes 64 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...ops.flood_fill import POINTS, SIDE, flood_fill

# Blocks that are worked on together; with 64 points each, and some tens of bytes a point.
BLOCKS_A_CHUNK = 1 << 15


@dataclass(frozen=True, eq=False)
class SparseSDF:
    """A field that is positive outside, and zero or negative inside; the surface is where it turns.

    table: [X, Y, Z] int32, the row of each block.  coords: [B, 3] int32, the block of each row but the last two.
    values: [B + 2, 64] float32; point (x, y, z) of a block is column 16 x + 4 y + z. Row B stands for all blocks that
    are outside throughout, row B + 1 for those that are inside; their values are +1 and -1, whatever the distance.
    """

    table: Tensor
    coords: Tensor
    values: Tensor

    @property
    def outside(self) -> int:
        """The row of what is outside throughout."""
        return len(self.coords)

    def slots(self, points: Tensor) -> Tensor:
        """Where in `values`, flattened, the points [..., 3] int64 of the grid are: [...] int64."""
        rows = self.table[tuple((points // SIDE).unbind(-1))].to(torch.int64)
        x, y, z = (points % SIDE).unbind(-1)
        return rows * POINTS + (x * 16 + y * 4 + z)

    def points(self, slots: Tensor) -> Tensor:
        """The points [N, 3] int64 at `slots` [N] int64 of rows that are one block's."""
        place = slots % POINTS
        within = torch.stack([place // 16, place // 4 % SIDE, place % SIDE], 1)
        return self.coords[slots // POINTS].to(torch.int64) * SIDE + within

    def inside_near(self, positions: Tensor) -> Tensor:
        """Whether the point of the grid nearest to each of `positions` [N, 3] float32 is inside: [N] bool."""
        last = torch.tensor(self.table.shape, device=positions.device) * SIDE - 1
        points = torch.minimum(positions.round().to(torch.int64).clamp_min(0), last)
        return self.values.view(-1)[self.slots(points)] <= 0


def flood_outside(field: SparseSDF, backend: str) -> Tensor:
    """Bits [X, Y, Z] int64 (see ops.flood_fill) of the outside points that a flood from the grid's border reaches.

    The blocks at the border have to be outside.
    """
    place = torch.arange(POINTS, device=field.values.device)
    free = [((part > 0).to(torch.int64) << place).sum(1) for part in field.values.split(BLOCKS_A_CHUNK)]
    free = torch.cat(free)[field.table]
    seeds = torch.zeros_like(free)
    for axis in range(3):
        seeds.movedim(axis, 0)[[0, -1]] = -1
    return flood_fill(free, seeds, backend=backend)


def reached_points(field: SparseSDF, reached: Tensor, rows: slice) -> Tensor:
    """[n, 64] bool of the points of those rows, from bits as `flood_outside` gives them."""
    bits = reached[tuple(field.coords[rows].to(torch.int64).unbind(1))]
    return (bits[:, None] >> torch.arange(POINTS, device=bits.device) & 1).bool()


def fill_unreached(field: SparseSDF, reached: Tensor) -> SparseSDF:
    """The field with all that the flood did not reach made inside."""
    values = field.values.clone()
    for start in range(0, len(field.coords), BLOCKS_A_CHUNK):
        rows = slice(start, min(start + BLOCKS_A_CHUNK, len(field.coords)))
        part = values[rows]
        values[rows] = torch.where(reached_points(field, reached, rows), part, -part.abs())
    closed = (field.table == field.outside) & (reached == 0)
    return replace(field, table=torch.where(closed, field.outside + 1, field.table), values=values)
