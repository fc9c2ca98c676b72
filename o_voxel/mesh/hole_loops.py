"""The closed loops in which a surface ends."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.mesh_clean import components
from .segments import Groups, precise
from .surface import Surface
from .topology import area_vectors, following, length, origins, unit


@dataclass(frozen=True, eq=False)
class Loops:
    """Loops around holes, on the CPU, each in the direction of the faces that would close it.

    vertex: [P] int64, the vertices of the loops, one loop after another.  start: [L + 1] int64.  points: [P, 3]
    float64, where they are.  rim: [P, 3] float64, the unit normal of the face beyond the edge from each to the next.
    turned: [L] bool, whether most faces around wind the other way than the surface.  joined: [B, 2] int64, rows of two
    points of one loop between which there is an edge.
    """

    vertex: Tensor
    start: Tensor
    points: Tensor
    rim: Tensor
    turned: Tensor
    joined: Tensor

    @property
    def loop(self) -> Tensor:
        """The loop [P] int64 of each point."""
        return torch.repeat_interleave(torch.arange(len(self.start) - 1), self.start.diff())

    @property
    def following(self) -> Tensor:
        """The row [P] int64 of the next point of the same loop."""
        rows = torch.arange(1, len(self.vertex) + 1)
        rows[self.start[1:] - 1] = self.start[:-1]
        return rows


def find_loops(
    vertices: Tensor, faces: Tensor, surface: Surface, shut: Tensor, max_perimeter: float, backend: str
) -> Loops:
    """The loops of at most `max_perimeter`, and of 3 edges or more, without the half-edges `shut`.

    Every vertex must belong to one fan of the surface, as after `split_corners`. Deterministic.
    """
    half = (surface.twin < 0).nonzero().squeeze(1)
    flipped = surface.flip[half // 3]
    ends = origins(faces)[half], origins(faces)[following(half)]
    begin, end = torch.where(flipped, ends[0], ends[1]), torch.where(flipped, ends[1], ends[0])
    rows = torch.arange(len(half), device=half.device)
    at = torch.zeros(len(vertices), dtype=torch.int64, device=half.device).scatter_(0, begin, rows)
    ahead = at[end]
    label, _ = components(len(half), rows, ahead, torch.zeros_like(flipped), backend=backend)
    groups = Groups.of_labels(label)
    closed = torch.zeros(3 * len(faces), dtype=torch.bool, device=half.device)
    closed[shut] = True
    size = length(precise(vertices[end]) - precise(vertices[begin]))
    perimeter = groups.sums(size[:, None])[:, 0]
    counts = torch.stack([torch.ones_like(label), closed[half], flipped], 1)
    number, barred, turned = groups.totals(counts.to(torch.int64)).unbind(1)
    chosen = (perimeter <= max_perimeter) & (number >= 3) & (barred == 0)
    rows = _in_order(label, ahead, chosen[groups.number])
    sizes = number[chosen]
    rim = unit(area_vectors(vertices, faces[half[rows] // 3])) * torch.where(flipped[rows], -1, 1)[:, None]
    start = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    joined = _joined(faces, begin[rows], torch.repeat_interleave(sizes), len(vertices))
    columns = (begin[rows], start, precise(vertices[begin[rows]]), rim, (turned * 2 > number)[chosen], joined)
    vertex, start, points, rim, turned, joined = (column.cpu() for column in columns)
    return Loops(vertex, start, points.double(), rim.double(), turned, joined)


def _in_order(label: Tensor, ahead: Tensor, chosen: Tensor) -> Tensor:
    """Rows in `chosen`, loop by loop from its label on, as `ahead` leads."""
    rows = chosen.nonzero().squeeze(1)
    number = chosen.cumsum(0) - 1
    ahead, label = number[ahead[rows]], number[label[rows]]
    here = torch.arange(len(rows), device=rows.device)
    before = torch.empty_like(here).scatter_(0, ahead, here)
    before = torch.where(label == here, here, before)
    rank = (label != here).to(torch.int64)
    while not torch.equal(before, label):
        rank, before = rank + rank[before], before[before]
    return rows[(label * (len(rows) + 1) + rank).argsort()]


def _joined(faces: Tensor, vertex: Tensor, loop: Tensor, vertex_count: int) -> Tensor:
    """[B, 2] rows of `vertex` [P] of one `loop` [P] that are two corners of a face."""
    place = torch.full((vertex_count,), -1, dtype=torch.int64, device=faces.device)
    place[vertex] = torch.arange(len(vertex), device=faces.device)
    near = (place >= 0)[faces]
    pairs = []
    for k in range(3):
        face = (near[:, k] & near[:, (k + 1) % 3]).nonzero().squeeze(1)
        pair = torch.stack([place[faces[face, k]], place[faces[face, (k + 1) % 3]]], 1)
        pairs.append(pair[loop[pair[:, 0]] == loop[pair[:, 1]]])
    return torch.cat(pairs)
