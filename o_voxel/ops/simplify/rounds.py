"""Edge collapses in rounds: each takes many cheap edges that do not touch, checks them, and collapses them at once.

A collapse moves the faces around an edge's ends. Two edges are taken together only where no face is around both, so
that what is checked for one holds whatever becomes of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from .graph import Graph
from .reference import merge, rank, recenter

# Of the part of the faces that is still to go, this part of the edges is cheap enough for a round.
CHEAP, LEAST_CHEAP = 0.6, 0.15
SAMPLE = 1 << 16
# An edge that was refused waits so many rounds, twice as many each time.
WAIT, MOST_DOUBLINGS = 3, 6
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


def run_rounds(
    graph: Graph, steps: ModuleType, target: int, max_error: float, progress: Callable[[float], None] | None
) -> Graph:
    """Collapse until at most `target` faces are left, or nothing more can go within `max_error` (mean edges).

    steps: the module with `edge_costs`, `choose_edges` and `check_faces`. Waits for the device a few times a round.
    """
    total = len(graph.faces)
    history = [total]
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
    ends = graph.ends[chosen]
    label = torch.full((len(graph.position),), -1, dtype=torch.int32, device=chosen.device)
    label[ends.long()] = torch.arange(len(chosen), dtype=torch.int32, device=chosen.device)[:, None]
    place, quadric, _ = merge(graph, ends)
    spoils, star = steps.check_faces(graph, label, graph.position[ends[:, 0].long()] + place)
    pairs, fits = _link(graph, label, graph.count[chosen])
    # All that would be left of the smallest closed piece is two faces on each other.
    left = star - graph.count[chosen]
    refused = spoils | ~fits | (left <= 2 * (graph.count[chosen] == 2))
    taken = ~refused & _within(cost[chosen], torch.where(refused, 0, graph.count[chosen]), surplus)
    graph = _delay(graph, chosen[refused], turn)
    return _collapse(graph, chosen, taken, (place, quadric), pairs)


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
    fits = shared == count
    fits[pairs.owner[(graph.count[pairs.kept] != 2) & (graph.count[pairs.dropped] != 2)]] = False
    return pairs, fits


def _within(cost: Tensor, removed: Tensor, surplus: int) -> Tensor:
    """Which [S] of the collapses, cheapest first, are needed to remove `surplus` faces; each removes `removed` [S]."""
    order = torch.argsort(cost, stable=True)
    removed = removed[order]
    needed = torch.empty_like(order, dtype=torch.bool)
    needed[order] = removed.cumsum(0) - removed < surplus
    return needed


def _delay(graph: Graph, refused: Tensor, turn: int) -> Graph:
    strikes = graph.strikes[refused]
    ready = turn + (WAIT << strikes.clamp_max(MOST_DOUBLINGS))
    return replace(
        graph, ready=graph.ready.index_copy(0, refused, ready), strikes=graph.strikes.index_copy(0, refused, strikes + 1)
    )


def _collapse(graph: Graph, chosen: Tensor, taken: Tensor, merged: tuple[Tensor, Tensor], pairs: Pairs) -> Graph:
    """`graph` with the `taken` [S] of the `chosen` edges [S] made points. merged: as `merge` gives it."""
    start, end = graph.ends[chosen[taken]].long().unbind(1)
    stays = rank(graph.degree[start]) >= rank(graph.degree[end])
    keep, drop = torch.where(stays, start, end), torch.where(stays, end, start)
    place, quadric = (x[taken] for x in merged)
    degree = graph.degree[keep] + graph.degree[drop] - 2 * (graph.count[chosen[taken]] != 2).to(torch.int32)
    renamed = torch.arange(len(graph.position), dtype=torch.int32, device=drop.device)
    renamed[drop] = keep.to(torch.int32)

    faces = _rename(graph.faces, renamed)
    a, b, c = faces.unbind(1)
    full = ((a != b) & (b != c) & (c != a)).nonzero().flatten()

    done = taken[pairs.owner]
    kept, dropped = pairs.kept[done], pairs.dropped[done]
    count = graph.count.index_copy(0, kept, graph.count[kept] + graph.count[dropped] - 2)
    fresh = torch.zeros_like(kept, dtype=torch.int32)
    ready, strikes = graph.ready.index_copy(0, kept, fresh), graph.strikes.index_copy(0, kept, fresh)
    ends = _rename(graph.ends, renamed)
    alive = ends[:, 0] != ends[:, 1]
    alive[dropped] = False
    rows = alive.nonzero().flatten()
    return Graph(
        graph.position.index_copy(0, keep, graph.position[start] + place),
        graph.quadric.index_copy(0, keep, recenter(quadric, place)),
        graph.degree.index_copy(0, keep, degree),
        faces[full],
        graph.facing[full],
        *(column[rows] for column in (ends, count, ready, strikes)),
    )


def _rename(rows: Tensor, renamed: Tensor) -> Tensor:
    return renamed.index_select(0, rows.flatten()).view_as(rows)
