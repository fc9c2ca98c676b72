"""Boundary loops of a surface, by pointer jumping (parallel list ranking)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...core.exact_sums import precise, scatter_sums
from ...core.vectors import length, unit
from ..connectivity.surface import Surface
from ..connectivity.topology import area_vectors, following, origins

# Low bits of a packed position, which hold the distance along the loop.
BITS = 32


@dataclass(frozen=True, eq=False)
class Loops:
    """L boundary loops with P points, on the CPU, each in the winding of the faces that would fill it.

    vertex: [P] int64, mesh vertices, loop by loop.  start: [L + 1] int64, first row of each loop.  points: [P, 3]
    float64 positions.  rim: [P, 3] float64, unit normal of the face at the edge from each point to the next.  flipped:
    [L] bool, true if most adjacent faces have `surface.flip` set.  joined: [B, 2] int64, rows of points connected by a
    mesh edge.
    """

    vertex: Tensor
    start: Tensor
    points: Tensor
    rim: Tensor
    flipped: Tensor
    joined: Tensor

    @cached_property
    def sizes(self) -> Tensor:
        """Number of points [L] int64 of each loop."""
        return self.start.diff()

    @cached_property
    def loop(self) -> Tensor:
        """Loop index [P] int64 of each point."""
        return torch.repeat_interleave(self.sizes)

    @cached_property
    def following(self) -> Tensor:
        """Row [P] int64 of the next point along each loop."""
        rows = torch.arange(1, len(self.vertex) + 1)
        rows[self.start[1:] - 1] = self.start[:-1]
        return rows


def find_loops(vertices: Tensor, faces: Tensor, surface: Surface, skip: Tensor, max_perimeter: float) -> Loops:
    """Finds the boundary loops of 3 edges or more with a perimeter of at most `max_perimeter`.

    vertices: [V, 3] float32, each with a single fan of faces, as after `split_corners`.  faces: [F, 3] int64.  skip:
    [S] int64, half-edges whose loops are left out. Deterministic. Four host-device synchronisations: boundary
    half-edges, half-edges in loops, adjacent faces, and the copy.
    """
    half = (surface.twin < 0).nonzero().squeeze(1)
    flipped = surface.flip[half // 3]
    ends = origins(faces)[half], origins(faces)[following(half)]
    begin, end = torch.where(flipped, ends[0], ends[1]), torch.where(flipped, ends[1], ends[0])
    row_of_end = torch.zeros(len(vertices), dtype=torch.int64, device=half.device)
    position = _loop_positions(row_of_end.scatter_(0, end, torch.arange(len(half), device=half.device))[begin])
    label = position >> BITS
    skipped = torch.zeros(3 * len(faces), dtype=torch.bool, device=half.device)
    skipped.index_fill_(0, skip, True)
    counts = torch.stack([torch.ones_like(flipped), skipped[half], flipped], 1).to(torch.int64)
    number, excluded, flips = torch.zeros_like(counts).index_add_(0, label, counts).unbind(1)
    size = length(precise(vertices[end]) - precise(vertices[begin]))
    perimeter = scatter_sums(size[:, None], label, len(half))[:, 0]
    chosen = (perimeter <= max_perimeter) & (number >= 3) & (excluded == 0)
    rows = chosen[label].nonzero().squeeze(1)
    rows = rows[position[rows].argsort()]
    vertex = begin[rows]
    rim = unit(area_vectors(vertices, faces[half[rows] // 3])) * torch.where(flipped[rows], -1, 1)[:, None]
    majority = (flips * 2 > number)[label[rows]].to(torch.int64)
    corners = _adjacent_corners(faces, vertex, len(vertices))
    columns = vertex, position[rows], majority, corners, precise(vertices[vertex]), rim
    vertex, position, majority, corners, points, rim = _to_cpu(*columns)
    first = (position % (1 << BITS) == 0).nonzero().squeeze(1)
    joined = torch.stack([corners, corners.roll(-1, 1)], 2).flatten(0, 1)
    return Loops(
        vertex=vertex,
        start=torch.cat([first, first.new_tensor([len(vertex)])]),
        points=points.double(),
        rim=rim.double(),
        flipped=majority[first].bool(),
        joined=joined[(joined >= 0).all(1)],
    )


def _loop_positions(before: Tensor) -> Tensor:
    """Packed positions [N] int64: the lowest row of each row's loop, and, in the low `BITS`, the distance from it.

    before: [N] int64, the previous row, a permutation. Pointer jumping: each round doubles the distance covered.
    """
    position = torch.arange(len(before), device=before.device) << BITS
    for step in range(len(before).bit_length()):
        lower = torch.minimum(position, position[before] + (1 << step))
        # A device synchronisation would cost more than all rounds.
        if before.device.type == "cpu" and torch.equal(lower, position):
            break
        position, before = lower, before[before]
    return position


def _adjacent_corners(faces: Tensor, vertex: Tensor, vertex_count: int) -> Tensor:
    """Corners [K, 3], as rows of `vertex` [P] or -1, of the faces [F, 3] with two or three corners in `vertex`."""
    rows = torch.arange(len(vertex), device=faces.device)
    row = torch.full((vertex_count,), -1, dtype=torch.int64, device=faces.device).scatter_(0, vertex, rows)
    a, b, c = (row >= 0).gather(0, origins(faces)).reshape(-1, 3).unbind(1)
    return row[faces[(a & b | c & (a | b)).nonzero().squeeze(1)]]


def _to_cpu(*columns: Tensor) -> list[Tensor]:
    """Copies `columns` (widest dtype first) to the CPU in a single transfer."""
    flat = [column.contiguous().view(torch.uint8).flatten() for column in columns]
    parts = torch.cat(flat).cpu().split([len(part) for part in flat])
    return [part.view(column.dtype).view(column.shape) for part, column in zip(parts, columns, strict=True)]
