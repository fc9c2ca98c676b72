"""Narrow-band sampling of the unsigned distance to a mesh on a grid, refined from coarse cells to exact points.

Distance is 1-Lipschitz, so one query at the centre of a cell bounds it in the whole cell: either the level set may
cross the cell, or all its points are on the same side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ...core.progress import Progress, silent
from ...ops.closest_point import MeshIndex, closest_point
from ...ops.flood_fill import POINTS, SIDE
from .sparse_sdf import SparseSDF

# Blocks along a side of the coarsest cells.
GROUP = 4
QUERIES_A_CHUNK = 1 << 21
# Safety margin, far above rounding, in grid units.
SLACK = 0.01
DIAGONAL = math.sqrt(3) + SLACK
# Distance from the centre of 2 x 2 x 2 points to the far end of a grid edge that starts at one of them.
EDGE_REACH = math.sqrt(1.5**2 + 0.5**2 + 0.5**2) + SLACK


def sample_narrow_band(
    index: MeshIndex,
    shape: tuple[int, int, int],
    level: float,
    *,
    wanted: Tensor | None = None,
    backend: str = "auto",
    report: Progress = silent,
) -> SparseSDF:
    """Samples (unsigned distance - level) on a grid of `shape` blocks; index: of a mesh in grid units.

    Values are exact at both ends of every grid edge with a sign change, and have the correct sign everywhere. The low
    corner of every cube of eight points with a sign change is in a stored block. wanted: mask [X, Y, Z] bool of the
    blocks to sample; signs elsewhere are arbitrary. report: called with the fraction done, may raise.
    """
    device = index.device

    def offsets(centers: Tensor, reach: float) -> Tensor:
        """Distance minus level [N] at `centers` [N, 3], infinite beyond `reach`."""
        parts = centers.split(QUERIES_A_CHUNK)
        found = []
        for part in parts:
            found.append(closest_point(index, part, level + reach, backend=backend).distance - level)
            report(len(found) / len(parts))
        return torch.cat(found)

    groups = tuple(-(-n // GROUP) for n in shape)
    cells = torch.cartesian_prod(*(torch.arange(n, dtype=torch.int32, device=device) for n in groups))
    coarse, kept = _near(offsets, cells, GROUP * SIDE, _cube_reach(GROUP * SIDE))
    children = _children(cells[kept], GROUP)
    fits = (children < torch.tensor(shape, device=device)).all(1)
    coords = children[fits]
    if wanted is not None:
        coords = coords[wanted[tuple(coords.long().unbind(1))]]
    fine, kept = _near(offsets, coords, SIDE, _cube_reach(SIDE))

    # Table row of a block: that of its coarse cell's side, overwritten by its own side's, then by its stored row.
    near = coords[kept]
    table = (torch.where(coarse > 0, 0, 1).to(torch.int32) + len(near)).reshape(groups)
    for axis in range(3):
        table = table.repeat_interleave(GROUP, axis)
    table = table[: shape[0], : shape[1], : shape[2]].contiguous()
    table[tuple(coords.long().unbind(1))] = torch.where(fine > 0, 0, 1).to(torch.int32) + len(near)
    table[tuple(near.long().unbind(1))] = torch.arange(len(near), dtype=torch.int32, device=device)
    return SparseSDF(table, near, _block_values(offsets, near))


def _cube_reach(side: int) -> float:
    """Distance from the centre of a cell of side^3 points to the far corner of a cube of eight that starts in it."""
    return (side + 1) / 2 * DIAGONAL


def _near(offsets: Callable[[Tensor, float], Tensor], cells: Tensor, side: int, reach: float) -> tuple[Tensor, Tensor]:
    """(offset [N] at the centre of each cell [N, 3] of side^3 points, rows [K] of cells with |offset| <= `reach`)."""
    found = offsets(cells * float(side) + (side - 1) / 2, reach)
    return found, (found.abs() <= reach).nonzero().squeeze(1)


def _children(cells: Tensor, count: int) -> Tensor:
    """Splits each of `cells` [N, 3] into count^3 children [N count^3, 3], in order."""
    steps = torch.cartesian_prod(*[torch.arange(count, dtype=cells.dtype, device=cells.device)] * 3)
    return (cells[:, None] * count + steps).reshape(-1, 3)


def _block_values(offsets: Callable[[Tensor, float], Tensor], coords: Tensor) -> Tensor:
    """Values [B + 2, 64] of the blocks `coords` [B, 3], exact at ends of crossed edges, and of the two uniform rows."""
    values = torch.empty(len(coords) + 2, POINTS, device=coords.device)
    values[-2], values[-1] = 1.0, -1.0
    octants = _children(coords, 2)
    middle, kept = _near(offsets, octants, 2, EDGE_REACH)
    # Columns [8, 8] of the points of a block's octants.
    corners = _children(_children(torch.zeros(1, 3, dtype=torch.int64, device=coords.device), 2), 2)
    columns = (corners * corners.new_tensor([16, 4, 1])).sum(1).reshape(8, 8)
    values[:-2].scatter_(1, columns.flatten().expand(len(coords), -1), middle.reshape(-1, 8).repeat_interleave(8, 1))
    slots = (kept // 8 * POINTS)[:, None] + columns[kept % 8]
    points = _children(octants[kept], 2).to(torch.float32)
    values.view(-1)[slots.flatten()] = offsets(points, EDGE_REACH + DIAGONAL)
    return values
