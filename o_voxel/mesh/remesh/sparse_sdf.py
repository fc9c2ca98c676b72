"""Sparse signed distance grid: values stored near the surface only, in blocks of 4 x 4 x 4 points.

Positions are in grid units: point (i, j, k) is at (i, j, k); blocks start at multiples of 4. A dense table maps blocks
to rows, so that a look-up is arithmetic and one read; at 1024 points a side it takes 64 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...ops.flood_fill import POINTS, SIDE, flood_fill

# Blocks per chunk, of 64 points each, with some tens of bytes per point.
BLOCKS_A_CHUNK = 1 << 15


@dataclass(frozen=True, eq=False)
class SparseSDF:
    """A scalar field, positive outside and zero or negative inside; the surface is at its sign changes.

    table: [X, Y, Z] int32, the row of each block.  coords: [B, 3] int32, the block of each row but the last two.
    values: [B + 2, 64] float32; point (x, y, z) of a block is column 16 x + 4 y + z. Row B is shared by all blocks
    entirely outside (values +1), row B + 1 by all blocks entirely inside (values -1).
    """

    table: Tensor
    coords: Tensor
    values: Tensor

    @property
    def outside(self) -> int:
        """The shared row of blocks entirely outside."""
        return len(self.coords)

    def slots(self, points: Tensor) -> Tensor:
        """Slots [...] int64, flat indices into `values`, of the grid points [..., 3] int64."""
        rows = self.table[tuple((points // SIDE).unbind(-1))].to(torch.int64)
        x, y, z = (points % SIDE).unbind(-1)
        return rows * POINTS + (x * 16 + y * 4 + z)

    def points(self, slots: Tensor) -> Tensor:
        """Grid points [N, 3] int64 at `slots` [N] int64, of stored blocks only."""
        column = slots % POINTS
        within = torch.stack([column // 16, column // 4 % SIDE, column % SIDE], 1)
        return self.coords[slots // POINTS].to(torch.int64) * SIDE + within

    def inside_near(self, positions: Tensor) -> Tensor:
        """Mask [N] bool: is the grid point nearest to each of `positions` [N, 3] float32 inside?"""
        last = torch.tensor(self.table.shape, device=positions.device) * SIDE - 1
        points = torch.minimum(positions.round().to(torch.int64).clamp_min(0), last)
        return self.values.view(-1)[self.slots(points)] <= 0


def flood_outside(field: SparseSDF, backend: str) -> Tensor:
    """Flood-fills the outside points from the grid's border: bits [X, Y, Z] int64 of reached points (ops.flood_fill).

    The border blocks must be outside.
    """
    column = torch.arange(POINTS, device=field.values.device)
    free = [((part > 0).to(torch.int64) << column).sum(1) for part in field.values.split(BLOCKS_A_CHUNK)]
    free = torch.cat(free)[field.table]
    seeds = torch.zeros_like(free)
    for axis in range(3):
        seeds.movedim(axis, 0)[[0, -1]] = -1
    return flood_fill(free, seeds, backend=backend)


def reached_points(field: SparseSDF, reached: Tensor, rows: slice) -> Tensor:
    """Unpacks flood bits `reached` [X, Y, Z] int64 of the blocks `rows` into a mask [n, 64] bool of points."""
    bits = reached[tuple(field.coords[rows].to(torch.int64).unbind(1))]
    return (bits[:, None] >> torch.arange(POINTS, device=bits.device) & 1).bool()


def fill_unreached(field: SparseSDF, reached: Tensor) -> SparseSDF:
    """Returns the field with all unreached points made inside; reached: flood bits [X, Y, Z] int64."""
    values = field.values.clone()
    for start in range(0, len(field.coords), BLOCKS_A_CHUNK):
        rows = slice(start, min(start + BLOCKS_A_CHUNK, len(field.coords)))
        part = values[rows]
        values[rows] = torch.where(reached_points(field, reached, rows), part, -part.abs())
    closed = (field.table == field.outside) & (reached == 0)
    return replace(field, table=torch.where(closed, field.outside + 1, field.table), values=values)


def union(first: SparseSDF, second: SparseSDF) -> SparseSDF:
    """The field that is inside where either of two fields on one grid is: values [B + 2, 64] of the blocks of both.

    Signs are exact everywhere, values at both ends of grid edges with a sign change, as in the two fields.
    """
    stored = (first.table < first.outside) | (second.table < second.outside)
    inside = (first.table == first.outside + 1) | (second.table == second.outside + 1)
    coords = (stored & ~inside).nonzero()
    place = tuple(coords.unbind(1))
    rows = [torch.cat([field.values[field.table[place].long()], field.values[-2:]]) for field in (first, second)]
    table = torch.where(inside, len(coords) + 1, len(coords)).to(torch.int32)
    table[place] = torch.arange(len(coords), dtype=torch.int32, device=table.device)
    return SparseSDF(table, coords.to(torch.int32), torch.minimum(*rows))
