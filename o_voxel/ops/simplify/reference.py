"""The steps of a round in plain torch. Letters: E edges, S chosen edges, V vertices, F faces."""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import LOCK, Graph, face_normals

# Edges are taken by classes of cost, half an octave each; below this many under the limit they are all alike. Within
# a class chance decides: costs alone rise and fall so smoothly that few edges are the least around.
CLASS_BITS = 22
CLASSES = 6
NO_KEY = torch.iinfo(torch.int64).max
PASSES = 2
# What pulls a new vertex to the middle of its edge where its planes do not say: this part of their weight.
PULL = 1e-3
REACH = 2.0
# Squared length counts a little, so that what is flat goes shortest edge first.
LENGTH_WEIGHT = 1e-6
# A face may turn from how it was at first by this cosine. Below this shape (twice the area over the sum of squared
# sides; 0.29 for equal sides) it is thin, and costs this by the square of what its area would be with that shape,
# unless it was thinner. It is not forbidden: wires would keep their rings, and what they are fastened to pay for them.
LEAST_COSINE = 0.2
LEAST_SHAPE = 0.01
THIN = 1e-4


def edge_costs(graph: Graph, turn: int, max_error: float) -> Tensor:
    """What each edge's collapse costs, [E] float32, inf where it is not allowed in this `turn`."""
    target, quadric, way = merge(graph, graph.ends)
    error = quadric_at(quadric, target).clamp_min(0)
    weight = quadric[:, 0] + quadric[:, 3] + quadric[:, 5]
    cost = error + LENGTH_WEIGHT * way.square().sum(1)
    allowed = (graph.ready <= turn) & may_collapse(graph) & (error <= weight * (max_error * max_error))
    return torch.where(allowed & cost.isfinite(), cost, torch.inf)


def may_collapse(graph: Graph) -> Tensor:
    """Whether an edge [E] joins vertices that may become one: [E] bool.

    Two vertices of a curve (the border, or where other than two faces meet) only along it; never two of its ends.
    """
    start, end = (graph.degree[column] for column in graph.ends.long().unbind(1))
    across = (graph.count == 2) & (start > 0) & (end > 0)
    return ~across & ~((start > 2) & (end > 2))


def rank(degree: Tensor) -> Tensor:
    """Who moves to whom: 0 free, 1 on a curve, 2 an end of curves, 3 locked; equals meet between."""
    return torch.where(degree >= LOCK, 3, torch.where(degree == 2, 1, torch.where(degree > 0, 2, 0)))


def merge(graph: Graph, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the `ends` [E, 2] of edges meet, [E, 3], their joint quadric [E, 10], and the way to the second, [E, 3].

    All about the position of the first.
    """
    start, end = ends.long().unbind(1)
    way = graph.position[end] - graph.position[start]
    quadric = graph.quadric[start] + recenter(graph.quadric[end], -way)
    target = _least(quadric, way / 2)
    off = (target - way / 2).square().sum(1) > (REACH * REACH) * way.square().sum(1)
    target = torch.where(off[:, None], way / 2, target)
    first, second = rank(graph.degree[start])[:, None], rank(graph.degree[end])[:, None]
    target = torch.where(first > second, 0.0, torch.where(second > first, way, target))
    return target, quadric, way


def merge_edges(graph: Graph, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Where the ends of the `chosen` edges [S] meet, [S, 3], and their joint quadric [S, 10] about that."""
    ends = graph.ends[chosen]
    target, quadric, _ = merge(graph, ends)
    start, end = ends.long().unbind(1)
    first, second = (rank(graph.degree[row])[:, None] for row in (start, end))
    # To the bit where one end stays: there and back again would be rounded.
    position = torch.where(first < second, graph.position[end], graph.position[start] + target)
    return torch.where(first > second, graph.position[start], position), recenter(quadric, target)


def recenter(quadric: Tensor, step: Tensor) -> Tensor:
    """A quadric [E, 10] about its origin + `step` [E, 3]."""
    matrix, vector, constant = quadric[:, :6], quadric[:, 6:9], quadric[:, 9:]
    moved = _times(matrix, step)
    constant = constant + ((2 * vector + moved) * step).sum(1, keepdim=True)
    return torch.cat([matrix, vector + moved, constant], dim=1)


def quadric_at(quadric: Tensor, point: Tensor) -> Tensor:
    """The value [E] of quadrics [E, 10] at `point` [E, 3]."""
    return ((_times(quadric[:, :6], point) + 2 * quadric[:, 6:9]) * point).sum(1) + quadric[:, 9]


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    """Symmetric matrices [E, 6] times vectors [E, 3]."""
    xx, xy, xz, yy, yz, zz = matrix.unbind(1)
    a, b, c = x.unbind(1)
    return torch.stack([xx * a + xy * b + xz * c, xy * a + yy * b + yz * c, xz * a + yz * b + zz * c], dim=1)


def _least(quadric: Tensor, middle: Tensor) -> Tensor:
    """The point [E, 3] with the least value, pulled to `middle`: an L D L^T solution, which float32 bears."""
    xx, xy, xz, yy, yz, zz, *vector = quadric[:, :9].unbind(1)
    pull = PULL * (xx + yy + zz) + 1e-12
    r0, r1, r2 = (pull * m - b for m, b in zip(middle.unbind(1), vector, strict=True))
    xx, yy, zz = xx + pull, yy + pull, zz + pull
    l10, l20 = xy / xx, xz / xx
    d1, rest = yy - l10 * xy, yz - l10 * xz
    l21 = rest / d1
    d2 = zz - l20 * xz - l21 * rest
    r1 = r1 - l10 * r0
    z = (r2 - l20 * r0 - l21 * r1) / d2
    y = r1 / d1 - l21 * z
    return torch.stack([r0 / xx - l10 * y - l20 * z, y, z], dim=1)


def choose_edges(graph: Graph, cost: Tensor, limit: Tensor, turn: int) -> Tensor:
    """Edges [S] int64, ascending, of at most `limit` [] float32, no two of which share a face with an end of each.

    An edge is chosen when its key is the least among those at its ends and at their neighbours; a second pass finds
    more among the edges that the first left untouched.
    """
    start, end = ends = graph.ends.long().unbind(1)
    keys = _keys(cost, limit, turn)
    chosen = torch.zeros_like(keys, dtype=torch.bool)
    for _ in range(PASSES):
        least = torch.full((len(graph.position),), NO_KEY, device=keys.device)
        for rows in ends:
            least.scatter_reduce_(0, rows, keys, "amin")
        around = least.clone()
        for rows, other in (ends, ends[::-1]):
            around.scatter_reduce_(0, rows, least[other], "amin")
        chosen |= (keys != NO_KEY) & (around[start] == keys) & (around[end] == keys)
        taken = torch.zeros_like(least, dtype=torch.bool)
        taken[graph.ends[chosen].flatten().long()] = True
        near = taken.clone()
        near[graph.ends[taken[start] | taken[end]].flatten().long()] = True
        keys = torch.where(near[start] | near[end], NO_KEY, keys)
    return chosen.nonzero().flatten()


def _keys(cost: Tensor, limit: Tensor, turn: int) -> Tensor:
    """Keys [E] int64: the class of the cost above, a permutation of the edges' numbers below."""
    top = limit.view(torch.int32) >> CLASS_BITS
    classes = torch.maximum(cost.view(torch.int32) >> CLASS_BITS, top - CLASSES).long()
    x = torch.arange(len(cost), device=cost.device) * 0x9E3779B1 + turn * 0x85EBCA6B & 0xFFFFFFFF
    x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
    return torch.where((cost <= limit) & cost.isfinite(), classes << 32 | x ^ x >> 16, NO_KEY)


def check_faces(graph: Graph, label: Tensor, target: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a collapse would turn a face, or thin it for more than `limit` [], [S] bool, and how many faces its ends
    have, [S] int32.

    label: [V] int32, the chosen edge of which a vertex is an end, or -1.  target: [S, 3], where its ends meet.
    """
    labels = label[graph.faces.long()]
    edge = labels.amax(1)
    rows = (edge >= 0).nonzero().flatten()
    labels, edge = labels[rows], edge[rows].long()
    moving = labels >= 0
    before = graph.position[graph.faces[rows].long()]
    after = torch.where(moving[..., None], target[edge][:, None], before)
    old_area, new = face_normals(before).norm(dim=1), face_normals(after)
    new_area, facing = new.norm(dim=1), graph.facing[rows]
    turned = (new * facing).sum(1) < LEAST_COSINE * new_area * facing.square().sum(1)
    sides = _squared_sides(after)
    old_shape, new_shape = old_area / _squared_sides(before), new_area / sides
    thinned = (new_shape < LEAST_SHAPE) & (new_shape < old_shape) & (THIN * LEAST_SHAPE * sides.square() > limit)
    spoiled = (moving.sum(1) == 1) & (turned | thinned)
    spoils = torch.zeros(len(target), dtype=torch.bool, device=target.device)
    spoils[edge[spoiled]] = True
    star = torch.zeros(len(target), dtype=torch.int32, device=target.device)
    return spoils, star.index_add_(0, edge, torch.ones_like(edge, dtype=torch.int32))


def _squared_sides(corners: Tensor) -> Tensor:
    return (corners - corners.roll(1, 1)).square().sum((1, 2)).clamp_min(1e-30)
