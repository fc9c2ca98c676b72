"""Edge collapses in rounds: each takes many cheap edges that do not touch, checks them, and collapses them at once.

A collapse moves the faces around an edge's ends. Two edges are taken together only where no face is around both, so
that what is checked for one holds whatever becomes of the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from ...core.progress import Progress
from .graph import Graph
from .reference import rank

# Of the part of the faces that is still to go, this part of the edges is cheap enough for a round.
CHEAP, LEAST_CHEAP = 0.6, 0.15
SAMPLE = 1 << 16
# An edge that was refused waits so many rounds, twice as many each time.
WAIT, MOST_DOUBLINGS = 3, 6
# No limit to the error, in mean edges; its square times nothing is still nothing.
UNBOUNDED = 1e12
# Rounds after which too little has come of it, and how much that is.
PATIENCE, LEAST_PROGRESS = 12, 0.005


@dataclass(frozen=True, eq=False)
class Pairs:
    """Edges from an end of a chosen edge to a vertex that both its ends have as a neighbour, two by two: C pairs.

    kept, dropped: [C] int64, edges that become one.  owner: [C] int64, the chosen edge.
    """

    kept: Tensor
    dropped: Tensor
    owner: Tensor


def run_rounds(graph: Graph, steps: ModuleType, target: int, max_error: float, progress: Progress | None) -> Graph:
    """Collapse until at most `target` faces are left, or nothing more can go within `max_error` (mean edges).

    steps: the module with `edge_costs`, `choose_edges`, `merge_edges` and `check_faces`. The sizes of what is left are
    read from the device five times a round.
    """
    total = len(graph.faces)
    history = [total]
    max_error = min(max_error, UNBOUNDED)
    while len(graph.faces) > target:
        graph = _round(graph, steps, target, max_error, len(history))
        history.append(len(graph.faces))
        if progress is not None:
            progress(min(1.0, (total - history[-1]) / (total - target)))
        if len(history) > PATIENCE and history[-1 - PATIENCE] - history[-1] <= LEAST_PROGRESS * history[-1]:
            break
    return graph


def _round(graph: Graph, steps: ModuleType, target: int, max_error: float, turn: int) -> Graph:
    surplus = len(graph.faces) - target
    cost = steps.edge_costs(graph, turn, max_error)
    limit = _cheap(cost, max(LEAST_CHEAP, CHEAP * surplus / len(graph.faces)))
    chosen = steps.choose_edges(graph, cost, limit, turn)
    label = torch.full((len(graph.position),), -1, dtype=torch.int32, device=chosen.device)
    label[graph.ends[chosen].long()] = torch.arange(len(chosen), dtype=torch.int32, device=chosen.device)[:, None]
    position, quadric = steps.merge_edges(graph, chosen)
    spoils, star = steps.check_faces(graph, label, position)
    pairs, fits = _link(graph, label, graph.count[chosen])
    # All that would be left of the smallest closed piece is two faces on each other.
    left = star - graph.count[chosen]
    refused = spoils | ~fits | (left <= 2 * (graph.count[chosen] == 2))
    taken = ~refused & _within(cost[chosen], torch.where(refused, 0, graph.count[chosen]), surplus)
    graph = _delay(graph, chosen, refused, turn)
    return _join_edges(_join_vertices(graph, chosen, taken, position, quadric), pairs, taken)


def _cheap(cost: Tensor, part: float) -> Tensor:
    """A cost [] that about `part` of all the edges do not exceed; the largest finite one where so many have none."""
    sample = cost[:: max(1, len(cost) // SAMPLE)].sort().values
    place = sample.isfinite().sum().clamp_max(max(1, int(part * len(sample)))) - 1
    return sample[place.clamp_min(0)]


def _link(graph: Graph, label: Tensor, count: Tensor) -> tuple[Pairs, Tensor]:
    """The pairs of edges that collapses make one, and whether [S] the surface stays as it is connected.

    It does where the neighbours that an edge's ends share are just the third corners of its faces, and no two edges
    of a curve become one: the link condition (Dey, Edelsbrunner, Guha and Nekhayev 1999).
    """
    labels = label[graph.ends.long()]
    spokes = ((labels >= 0).sum(1) == 1).nonzero().flatten()
    inner = labels[spokes, 0] >= 0
    owner = labels[spokes].amax(1).long()
    outer = torch.where(inner, graph.ends[spokes, 1], graph.ends[spokes, 0]).long()
    keys, order = torch.sort(owner * len(graph.position) + outer, stable=True)
    second = (keys[1:] == keys[:-1]).nonzero().flatten() + 1
    spokes = spokes[order]
    pairs = Pairs(spokes[second - 1], spokes[second], owner[order[second]])
    shared = torch.zeros_like(count).index_add_(0, pairs.owner, torch.ones_like(pairs.owner, dtype=count.dtype))
    curves = (graph.count[pairs.kept] != 2) & (graph.count[pairs.dropped] != 2)
    joined = torch.zeros_like(count).index_add_(0, pairs.owner, curves.to(count.dtype))
    return pairs, (shared == count) & (joined == 0)


def _within(cost: Tensor, removed: Tensor, surplus: int) -> Tensor:
    """Which [S] of the collapses, cheapest first, are needed to remove `surplus` faces; each removes `removed` [S]."""
    order = torch.argsort(cost, stable=True)
    removed = removed[order]
    needed = torch.empty_like(order, dtype=torch.bool)
    needed[order] = removed.cumsum(0) - removed < surplus
    return needed


def _delay(graph: Graph, chosen: Tensor, refused: Tensor, turn: int) -> Graph:
    """`graph` with the `refused` [S] of the `chosen` edges [S] put off."""
    strikes, ready = graph.strikes[chosen], graph.ready[chosen]
    ready = torch.where(refused, turn + (WAIT << strikes.clamp_max(MOST_DOUBLINGS)), ready)
    strikes = strikes + refused.to(torch.int32)
    return replace(
        graph, ready=graph.ready.index_copy(0, chosen, ready), strikes=graph.strikes.index_copy(0, chosen, strikes)
    )


def _join_vertices(graph: Graph, chosen: Tensor, taken: Tensor, position: Tensor, quadric: Tensor) -> Graph:
    """`graph` with the `taken` [S] of the `chosen` edges [S] shrunk to points; edges keep their rows.

    position: [S, 3], and quadric: [S, 10], as `merge_edges` gives them. The ends of chosen edges are all different.
    """
    start, end = graph.ends[chosen].long().unbind(1)
    stays = rank(graph.degree[start]) >= rank(graph.degree[end])
    keep, drop = torch.where(stays, start, end), torch.where(stays, end, start)
    renamed = torch.arange(len(graph.position), dtype=torch.int32, device=drop.device)
    renamed[drop] = torch.where(taken, keep, drop).to(torch.int32)
    degree = graph.degree[keep] + graph.degree[drop] - 2 * (graph.count[chosen] != 2).to(torch.int32)

    def moved(old: Tensor, new: Tensor) -> Tensor:
        mask = taken if old.ndim == 1 else taken[:, None]
        return old.index_copy(0, keep, torch.where(mask, new, old[keep]))

    faces = _rename(graph.faces, renamed)
    a, b, c = faces.unbind(1)
    full = ((a != b) & (b != c) & (c != a)).nonzero().flatten()
    return replace(
        graph,
        position=moved(graph.position, position),
        quadric=moved(graph.quadric, quadric),
        degree=moved(graph.degree, degree),
        faces=faces[full],
        facing=graph.facing[full],
        ends=_rename(graph.ends, renamed),
    )


def _join_edges(graph: Graph, pairs: Pairs, taken: Tensor) -> Graph:
    """`graph` without the edges that became points, and with one edge for both of each pair of the `taken` [S]."""
    done = taken[pairs.owner]
    kept, dropped = pairs.kept, pairs.dropped
    alive = graph.ends[:, 0] != graph.ends[:, 1]
    rows = alive.index_copy(0, dropped, alive[dropped] & ~done).nonzero().flatten()
    count = graph.count[kept] + torch.where(done, graph.count[dropped] - 2, 0)
    columns = graph.ends, graph.count.index_copy(0, kept, count)
    # An edge that was refused may go now: what is around it is not what it was.
    fresh = (x.index_copy(0, kept, torch.where(done, 0, x[kept])) for x in (graph.ready, graph.strikes))
    ends, count, ready, strikes = (column[rows] for column in (*columns, *fresh))
    return replace(graph, ends=ends, count=count, ready=ready, strikes=strikes)


def _rename(rows: Tensor, renamed: Tensor) -> Tensor:
    return renamed.index_select(0, rows.flatten()).view_as(rows)
