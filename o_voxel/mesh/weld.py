"""Which vertices lie together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.mesh_clean import components
from .segments import precise
from .topology import dot

# Cells along an axis; three such numbers, with one cell to spare at either end, fit an int64.
CELLS = 1 << 20
ABOVE = [(x, y, z) for x in (0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)]


def close_vertices(vertices: Tensor, distance: float, *, backend: str = "auto") -> Tensor:
    """[V] int64: the lowest vertex that each reaches by steps of at most `distance`, in float64.

    Vertices share cells of a grid: those in the same cell are compared, and a vertex close to a wall with the cells
    behind it.
    """
    label = torch.arange(len(vertices), device=vertices.device)
    if len(vertices) < 2:
        return label
    points = precise(vertices)
    low = points.amin(0)
    extent = float((points.amax(0) - low).amax())
    side = _cell_side(extent, distance, len(vertices))
    place = (points - low) / side
    cell = place.floor()
    key, order = _keys(cell.to(torch.int64)).sort(stable=True)
    same = _merge_equal(points, key, order)
    label[order] = same
    if distance == 0:
        return label
    alone = same == order
    key, order = key[alone], order[alone]
    pairs = [_within(key, order), _across(key, order, place - cell, cell.to(torch.int64), distance / side)]
    first, second = (torch.cat(ends) for ends in zip(*pairs, strict=True))
    gap = points[first] - points[second]
    near = dot(gap, gap) <= distance * distance
    first, second = first[near], second[near]
    merged, _ = components(len(vertices), first, second, torch.zeros_like(near[near]), backend=backend)
    return merged[label]


def _cell_side(extent: float, distance: float, count: int) -> float:
    """Cells at least twice `distance` wide, and else about as wide as a surface's vertices stand apart."""
    spacing = extent / count**0.5 if distance > 0 else 0.0
    return max(2 * distance, spacing, extent / CELLS) or 1.0


def _keys(cell: Tensor) -> Tensor:
    x, y, z = (cell + 1).unbind(1)
    return (x << 42) | (y << 21) | z


def _merge_equal(points: Tensor, key: Tensor, order: Tensor) -> Tensor:
    """The lowest vertex [V] at the very place of each of `order`, which is sorted by `key` and then by row."""
    shared = torch.zeros_like(key, dtype=torch.bool)
    shared[1:] = key[1:] == key[:-1]
    shared[:-1] |= shared[1:].clone()
    rows = shared.nonzero().squeeze(1)
    for column in (2, 1, 0):
        rows = rows[points[order[rows], column].sort(stable=True).indices]
    rows = rows[key[rows].sort(stable=True).indices]
    here = points[order[rows]]
    begins = torch.ones_like(rows, dtype=torch.bool)
    begins[1:] = (here[1:] != here[:-1]).any(1) | (key[rows[1:]] != key[rows[:-1]])
    lowest = order[rows[begins]]
    same = order.clone()
    same[rows] = lowest[begins.cumsum(0) - 1]
    return same


def _within(key: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of vertices in one cell; `key` is sorted."""
    rows = torch.arange(len(key), device=key.device)
    return _pairs(order, order, rows + 1, torch.searchsorted(key, key, right=True))


def _across(key: Tensor, order: Tensor, inside: Tensor, cell: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Pairs of vertices in neighbouring cells, the first within `reach` (in cells) of the walls between."""
    inside, cell = inside[order], cell[order]
    near = {-1: inside <= reach, 0: torch.ones_like(inside, dtype=torch.bool), 1: inside >= 1 - reach}
    # Rounding may put a vertex a hair off its cell's wall.
    touches = torch.stack([torch.stack([near[d][:, a] for a, d in enumerate(step)], 1).all(1) for step in ABOVE])
    step, row = touches.nonzero(as_tuple=True)
    wanted = _keys(cell[row] + torch.tensor(ABOVE, device=cell.device)[step])
    ends = (torch.searchsorted(key, wanted, right=right) for right in (False, True))
    return _pairs(order[row], order, *ends)


def _pairs(first: Tensor, order: Tensor, begin: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Each of `first` with every vertex of `order` from `begin` to `end`."""
    count = (end - begin).clamp_min(0)
    which = torch.repeat_interleave(torch.arange(len(first), device=first.device), count)
    step = torch.arange(len(which), device=first.device) - (count.cumsum(0) - count)[which]
    return first[which], order[begin[which] + step]
