"""The closed loops in which a surface ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...core.exact_sums import precise, scatter_sums
from ...core.vectors import length, unit
from ..connectivity.surface import Surface
from ..connectivity.topology import area_vectors, following, origins

# Of a row's place, those that count along its loop.
BITS = 32


@dataclass(frozen=True, eq=False)
class Loops:
    """Loops around holes, on the CPU, each in the direction of the faces that would close it.

    vertex: [P] int64, the vertices of the loops, one loop after another.  start: [L + 1] int64.  points: [P, 3]
    float64, where they are.  rim: [P, 3] float64, the unit normal of the face beyond the edge from each to the next.
    turned: [L] bool, whether most faces around wind the other way than the surface.  joined: [B, 2] int64, rows of two
    points between which there is an edge.
    """

    vertex: Tensor
    start: Tensor
    points: Tensor
    rim: Tensor
    turned: Tensor
    joined: Tensor

    @cached_property
    def sizes(self) -> Tensor:
        """How many points [L] int64 each loop has."""
        return self.start.diff()

    @cached_property
    def loop(self) -> Tensor:
        """The loop [P] int64 of each point."""
        return torch.repeat_interleave(self.sizes)

    @cached_property
    def following(self) -> Tensor:
        """The row [P] int64 of the next point of the same loop."""
        rows = torch.arange(1, len(self.vertex) + 1)
        rows[self.start[1:] - 1] = self.start[:-1]
        return rows


def find_loops(vertices: Tensor, faces: Tensor, surface: Surface, shut: Tensor, max_perimeter: float) -> Loops:
    """The loops of at most `max_perimeter`, and of 3 edges or more, without the half-edges `shut`.

    Every vertex must belong to one fan of the surface, as after `split_corners`. Deterministic. The host waits for the
    device four times: for the half-edges without a twin, for those in loops, for the faces at them, and for the copy.
    """
    half = (surface.twin < 0).nonzero().squeeze(1)
    flipped = surface.flip[half // 3]
    ends = origins(faces)[half], origins(faces)[following(half)]
    begin, end = torch.where(flipped, ends[0], ends[1]), torch.where(flipped, ends[1], ends[0])
    at = torch.zeros(len(vertices), dtype=torch.int64, device=half.device)
    place = _places(at.scatter_(0, end, torch.arange(len(half), device=half.device))[begin])
    label = place >> BITS
    closed = torch.zeros(3 * len(faces), dtype=torch.bool, device=half.device)
    closed.index_fill_(0, shut, True)
    counts = torch.stack([torch.ones_like(flipped), closed[half], flipped], 1).to(torch.int64)
    number, barred, turned = torch.zeros_like(counts).index_add_(0, label, counts).unbind(1)
    size = length(precise(vertices[end]) - precise(vertices[begin]))
    perimeter = scatter_sums(size[:, None], label, len(half))[:, 0]
    chosen = (perimeter <= max_perimeter) & (number >= 3) & (barred == 0)
    rows = chosen[label].nonzero().squeeze(1)
    rows = rows[place[rows].argsort()]
    vertex = begin[rows]
    rim = unit(area_vectors(vertices, faces[half[rows] // 3])) * torch.where(flipped[rows], -1, 1)[:, None]
    turned = (turned * 2 > number)[label[rows]].to(torch.int64)
    corners = _joined(faces, vertex, len(vertices))
    columns = vertex, place[rows], turned, corners, precise(vertices[vertex]), rim
    vertex, place, turned, corners, points, rim = _to_cpu(*columns)
    first = (place % (1 << BITS) == 0).nonzero().squeeze(1)
    joined = torch.stack([corners, corners.roll(-1, 1)], 2).flatten(0, 1)
    return Loops(
        vertex=vertex,
        start=torch.cat([first, first.new_tensor([len(vertex)])]),
        points=points.double(),
        rim=rim.double(),
        turned=turned[first].bool(),
        joined=joined[(joined >= 0).all(1)],
    )


def _places(before: Tensor) -> Tensor:
    """[N] int64: the lowest row of each row's loop, and, in the low `BITS`, how far along from there the row is.

    before: [N] int64, the row before each, a permutation. Each round doubles how far back a row sees.
    """
    place = torch.arange(len(before), device=before.device) << BITS
    for step in range(len(before).bit_length()):
        lower = torch.minimum(place, place[before] + (1 << step))
        # To wait for a device would take longer than all rounds.
        if before.device.type == "cpu" and torch.equal(lower, place):
            break
        place, before = lower, before[before]
    return place


def _joined(faces: Tensor, vertex: Tensor, vertex_count: int) -> Tensor:
    """[K, 3] rows of `vertex` [P], or -1, that are the corners of the faces with two or three of them."""
    rows = torch.arange(len(vertex), device=faces.device)
    row = torch.full((vertex_count,), -1, dtype=torch.int64, device=faces.device).scatter_(0, vertex, rows)
    a, b, c = (row >= 0).gather(0, origins(faces)).reshape(-1, 3).unbind(1)
    return row[faces[(a & b | c & (a | b)).nonzero().squeeze(1)]]


def _to_cpu(*columns: Tensor) -> list[Tensor]:
    """Copies of `columns`, the ones with the widest items first, in a single transfer."""
    flat = [column.contiguous().view(torch.uint8).flatten() for column in columns]
    parts = torch.cat(flat).cpu().split([len(part) for part in flat])
    return [part.view(column.dtype).view(column.shape) for part, column in zip(parts, columns, strict=True)]
