"""Edge collapses in rounds: each takes many cheap edges that do not touch, checks them, and collapses them at once.

A collapse moves the faces around an edge's ends. Two edges are taken together only where no face is around both, so
that what is checked for one holds whatever becomes of the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import ModuleType

import torch
from torch import Tensor

from ...core.progress import Progress
from .graph import LOCK, Graph
from .reference import rank

# Of the part of the faces that is still to go, this part of the edges is cheap enough for a round.
CHEAP, LEAST_CHEAP = 0.6, 0.15
SAMPLE = 1 << 16
# An edge that was refused waits so many rounds, twice as many each time.
WAIT, MOST_DOUBLINGS = 3, 6
# No limit to the error, in mean edges; its square times nothing is still nothing.
UNBOUNDED = 1e12
# It ends when so many rounds have removed less than these parts of the faces, and of the faces still to go.
PATIENCE, LEAST_PROGRESS, LEAST_SHARE = 12, 0.005, 0.25
# A round that removes less than this part of the faces is quiet. After WAIT, each doubles what the next may take: of
# the edges, and the cost of a small part; each round that is not quiet halves it.
QUIET, MOST_QUIET = 0.02, 13


@dataclass(frozen=True, eq=False)
class Pairs:
    """Edges from an end of a chosen edge to a vertex that both its ends have as a neighbour, two by two: C pairs.

    kept, dropped: [C] int64, edges that become one.  owner: [C] int64, the chosen edge.
    tip: [C] int64, the vertex; [0] in a round where all edges have two faces and no part may go.
    """

    kept: Tensor
    dropped: Tensor
    owner: Tensor
    tip: Tensor


@dataclass(frozen=True, eq=False)
class Fit:
    """What a collapse of each of S chosen edges does to how the surface is connected, [S] bool each; at most one holds.

    keeps: nothing, or a border or a curve moves inward.  closes: the hole of three open edges beside it closes.
    part: it is an edge of a triangle or of a closed piece of four faces, which can only be removed whole.
    """

    keeps: Tensor
    closes: Tensor
    part: Tensor


def run_rounds(graph: Graph, steps: ModuleType, target: int, max_error: float, progress: Progress | None) -> Graph:
    """Collapse until at most `target` faces are left, or too little more goes within `max_error` (mean edges).

    With a target, borders and curves of other than two faces are held by their planes alone, holes of three open edges
    close and parts of one or four faces go, where that is cheap enough; with 0 the surface stays connected as it is.
    steps: the module with `edge_costs`, `choose_edges`, `merge_edges` and `check_faces`. The sizes of what is left are
    read from the device at most eight times a round.
    """
    total, quiet, has_odd = len(graph.faces), 0, target > 0
    history = [total]
    max_error = min(max_error, UNBOUNDED)
    # Under an error bound it ends where nothing is left within the bound, however slowly.
    share = LEAST_SHARE if target and max_error == UNBOUNDED else 0.0
    while len(graph.faces) > target:
        # A closed surface stays closed: the pass over all edges ends with the last odd one.
        has_odd = has_odd and bool((graph.count != 2).any())
        widen = 2 ** max(0, quiet - WAIT)
        graph = _round(graph, steps, target, max_error, len(history), widen, has_odd)
        history.append(len(graph.faces))
        left = history[-1]
        quiet = min(quiet + 1, MOST_QUIET) if history[-2] - left <= QUIET * left else max(quiet - 1, 0)
        if progress is not None:
            progress(_part_done(total, max(left, target), target))
        if len(history) > PATIENCE and history[-1 - PATIENCE] - left <= max(
            LEAST_PROGRESS * left, share * (left - target)
        ):
            break
    return graph


def _part_done(total: int, left: int, target: int) -> float:
    """The part of the work that is done, 0 to 1.

    A round removes a part of the faces: their logarithm counts rounds, their number counts what rounds cost. Many
    rounds are short ones, so that either alone is wrong at one end.
    """
    by_faces = (total - left) / (total - target)
    return (by_faces + math.log(total / left) / math.log(total / target)) / 2 if target else by_faces


def _round(
    graph: Graph, steps: ModuleType, target: int, max_error: float, turn: int, wider: int, has_odd: bool
) -> Graph:
    """One round. wider: how many times more than at first it may take, where rounds have been quiet."""
    surplus = len(graph.faces) - target
    # To the steps, only what is locked is not free to move.
    free = replace(graph, degree=graph.degree & -LOCK) if target else graph
    cost = steps.edge_costs(free, turn, max_error)
    limit = _cheap(cost, max(LEAST_CHEAP * wider, CHEAP * surplus / len(graph.faces)))
    chosen = steps.choose_edges(graph, cost, limit, turn)
    label = torch.full((len(graph.position),), -1, dtype=torch.int32, device=chosen.device)
    label[graph.ends[chosen].long()] = torch.arange(len(chosen), dtype=torch.int32, device=chosen.device)[:, None]
    position, quadric = steps.merge_edges(free, chosen)
    spoils, star = steps.check_faces(graph, label, position, limit)
    count, price = graph.count[chosen], cost[chosen]
    pairs, fit = _link(graph, label, chosen, star, loose=target > 0, has_odd=has_odd)
    waits = torch.zeros_like(fit.part)
    has_parts = len(pairs.tip) > 0 and bool(fit.part.any())
    if has_parts:
        whole = _part_cost(graph, chosen, pairs, max_error)
        price = torch.where(fit.part, whole, price)
        waits = fit.part & ~(whole <= limit * wider)
        count = torch.where(fit.part, star, count)
    refused = ~fit.part & (spoils | ~(fit.keeps | fit.closes))
    removed = torch.where(refused | waits, 0, count)
    taken = ~refused & ~waits & _within(price, removed, surplus, len(graph.faces))
    graph = _delay(graph, chosen, refused, turn)
    gone = taken & fit.part
    parts = _part_labels(graph, chosen, pairs, gone) if has_parts else None
    taken = taken & ~fit.part
    holes = taken & fit.closes
    graph = _join_edges(_join_vertices(graph, chosen, taken, position, quadric), pairs, taken, holes)
    return graph if parts is None else _drop_parts(graph, parts)


def _cheap(cost: Tensor, part: float) -> Tensor:
    """A cost [] that about `part` of all the edges do not exceed; the largest finite one where so many have none."""
    sample = cost[:: max(1, len(cost) // SAMPLE)].sort().values
    place = sample.isfinite().sum().clamp_max(max(1, int(part * len(sample)))) - 1
    return sample[place.clamp_min(0)]


def _link(
    graph: Graph, label: Tensor, chosen: Tensor, star: Tensor, *, loose: bool, has_odd: bool
) -> tuple[Pairs, Fit]:
    """The pairs of edges that collapses of the `chosen` [S] make one, and what that does to the surface.

    It stays as it is connected where the neighbours that an edge's ends share are just the third corners of its faces,
    and no two edges of a curve become one: the link condition (Dey, Edelsbrunner, Guha and Nekhayev 1999). Without the
    second half no edge comes to have more faces than two that had not.
    star: [S] int32, the faces around an edge.  loose: whether curves may join, holes may close and parts may go.
    has_odd: whether `graph` has an edge of other than two faces.
    """
    count = graph.count[chosen]
    labels = label[graph.ends.long()]
    spokes = ((labels >= 0).sum(1) == 1).nonzero().flatten()
    inner = labels[spokes, 0] >= 0
    owner = labels[spokes].amax(1).long()
    outer = torch.where(inner, graph.ends[spokes, 1], graph.ends[spokes, 0]).long()
    keys, order = torch.sort(owner * len(graph.position) + outer, stable=True)
    second = (keys[1:] == keys[:-1]).nonzero().flatten() + 1
    spokes = spokes[order]
    pairs = Pairs(spokes[second - 1], spokes[second], owner[order[second]], second[:0])
    shared = torch.zeros_like(count).index_add_(0, pairs.owner, torch.ones_like(pairs.owner, dtype=count.dtype))
    curves = (graph.count[pairs.kept] != 2) & (graph.count[pairs.dropped] != 2)
    joined = torch.zeros_like(count).index_add_(0, pairs.owner, curves.to(count.dtype))
    degree = graph.degree[graph.ends[chosen].long()]
    # All that would be left of the smallest closed piece is two faces on each other.
    closed = (count == 2) & (degree == 0).all(1)
    left = star - count
    keeps = (shared == count) & (left > 2 * ((count == 2) if loose else closed))
    # Two borders do not meet across an edge, unless there are curves anyway.
    apart = (count != 2) | ~(degree & (LOCK - 1) > 0).all(1)
    keeps &= (joined == 0) | loose
    keeps &= apart | bool((graph.count > 2).any()) if loose and has_odd else True
    piece = closed & (shared == 2) & (left == 2)
    # Both are rare on a closed surface: most of its rounds skip what only holes and parts need.
    if not (loose and (has_odd or bool(piece.any()))):
        return pairs, Fit(keeps, torch.zeros_like(keeps), torch.zeros_like(keeps))
    pairs = replace(pairs, tip=keys[second] % len(graph.position))
    # No edge between two that must stay goes.
    lost = _open_pairs(graph, pairs) & (graph.degree[pairs.tip] >= LOCK)
    keeps = keeps.index_put((pairs.owner[lost],), torch.zeros_like(keeps[:1]))
    alone = torch.zeros_like(count).index_add_(0, pairs.owner, (graph.degree[pairs.tip] == 0).to(count.dtype))
    piece &= alone == 2
    # Ends with two open edges each: a triangle's, or two of which lead to the same vertex around a hole.
    rim = (count == 1) & (degree == 2).all(1) & (joined == 1)
    rim &= torch.zeros_like(count).index_add_(0, pairs.owner, _open_pairs(graph, pairs).to(count.dtype)) == 1
    closes = _not_faces(graph, label, pairs, rim & (shared == 2) & (left > 2))
    return pairs, Fit(keeps, closes, piece | rim & (shared == 1) & (star == 1))


def _open_pairs(graph: Graph, pairs: Pairs) -> Tensor:
    """Pairs [C] bool of two open edges."""
    return (graph.count[pairs.kept] == 1) & (graph.count[pairs.dropped] == 1)


def _not_faces(graph: Graph, label: Tensor, pairs: Pairs, wanted: Tensor) -> Tensor:
    """The `wanted` [S] whose pair of open edges is around a hole, not around the chosen edge's face: [S] bool."""
    if not bool(wanted.any()):
        return wanted
    labels = label[graph.faces.long()]
    found = wanted.clone()
    tip = torch.full_like(wanted, -1, dtype=torch.int64)
    open_pairs = _open_pairs(graph, pairs)
    tip[pairs.owner[open_pairs]] = pairs.tip[open_pairs]
    for corner in range(3):
        first, second = labels[:, corner], labels[:, corner - 1]
        rows = ((first >= 0) & (first == second)).nonzero().flatten()
        owner = first[rows].long()
        filled = graph.faces[rows, corner - 2] == tip[owner]
        found[owner[filled]] = False
    return found


def _part_cost(graph: Graph, chosen: Tensor, pairs: Pairs, max_error: float) -> Tensor:
    """What it costs [S] to remove the part that is all around a chosen edge: its area, about, by its extent squared.

    inf where the extent is more than `max_error`.
    """
    start, end = graph.position[graph.ends[chosen].long()].unbind(1)
    way = end - start
    beside = graph.position[pairs.tip] - start[pairs.owner]
    area = torch.zeros_like(way[:, 0])
    area.index_add_(0, pairs.owner, torch.linalg.cross(way[pairs.owner], beside).norm(dim=1))
    extent = way.square().sum(1).scatter_reduce(0, pairs.owner, beside.square().sum(1), "amax")
    return torch.where(extent <= max_error * max_error, area * extent, torch.inf)


def _part_labels(graph: Graph, chosen: Tensor, pairs: Pairs, gone: Tensor) -> Tensor:
    """[V] int64, which of the chosen edges [S] that are `gone` is a vertex's part's, or -1."""
    labels = torch.full((len(graph.position),), -1, device=gone.device)
    rows = gone.nonzero().flatten()
    labels[graph.ends[chosen[rows]].long()] = rows[:, None]
    tips = gone[pairs.owner].nonzero().flatten()
    labels[pairs.tip[tips]] = pairs.owner[tips]
    return labels


def _drop_parts(graph: Graph, parts: Tensor) -> Graph:
    """`graph` without the edges and faces all of whose vertices have one number in `parts` [V]; -1 is none."""
    first, second = parts[graph.ends.long()].unbind(1)
    dropped = (first >= 0) & (first == second)
    odd = graph.ends[dropped & (graph.count != 2)].flatten().long()
    degree = graph.degree.index_add(0, odd, torch.full_like(odd, -1, dtype=torch.int32))
    edges = (~dropped).nonzero().flatten()
    a, b, c = parts[graph.faces.long()].unbind(1)
    faces = (~((a >= 0) & (a == b) & (b == c))).nonzero().flatten()
    columns = {name: getattr(graph, name)[edges] for name in ("ends", "count", "ready", "strikes")}
    return replace(graph, degree=degree, faces=graph.faces[faces], facing=graph.facing[faces], **columns)


def _within(cost: Tensor, removed: Tensor, surplus: int, faces: int) -> Tensor:
    """Which [S] of the collapses, cheapest first, are needed to remove `surplus` of `faces`; each removes `removed`.

    They never remove all faces.
    """
    order = torch.argsort(cost, stable=True)
    removed = removed[order]
    needed = torch.empty_like(order, dtype=torch.bool)
    total = removed.cumsum(0)
    needed[order] = (total - removed < surplus) & (total < faces)
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

    position: [S, 3], and quadric: [S, 10], as `merge_edges` gives them.
    The ends of chosen edges are all different.
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


def _join_edges(graph: Graph, pairs: Pairs, taken: Tensor, holes: Tensor) -> Graph:
    """`graph` without the edges that became points, and with one edge for both of each pair of the `taken` [S].

    holes: [S] bool, of those, the ones that close a hole; the open edges of their pair have no face in common.
    """
    done = taken[pairs.owner]
    kept, dropped = pairs.kept, pairs.dropped
    both = 2 * (~(holes[pairs.owner] & _open_pairs(graph, pairs))).to(torch.int32) if len(pairs.tip) else 2
    count = graph.count[kept] + torch.where(done, graph.count[dropped] - both, 0)
    alive = graph.ends[:, 0] != graph.ends[:, 1]
    alive = alive.index_copy(0, dropped, alive[dropped] & ~done)
    degree = graph.degree
    if len(pairs.tip):
        # Two open edges of one face go with it.
        alive = alive.index_copy(0, kept, alive[kept] & (count > 0))
        odd = [(n != 2).to(torch.int32) for n in (count, graph.count[kept], graph.count[dropped])]
        change = torch.where(done, torch.where(count > 0, odd[0], 0) - odd[1] - odd[2], 0)
        for end in graph.ends[kept].long().unbind(1):
            degree = degree.index_add(0, end, change)
    rows = alive.nonzero().flatten()
    columns = graph.ends, graph.count.index_copy(0, kept, count)
    # An edge that was refused may go now: what is around it is not what it was.
    fresh = (x.index_copy(0, kept, torch.where(done, 0, x[kept])) for x in (graph.ready, graph.strikes))
    ends, count, ready, strikes = (column[rows] for column in (*columns, *fresh))
    return replace(graph, degree=degree, ends=ends, count=count, ready=ready, strikes=strikes)


def _rename(rows: Tensor, renamed: Tensor) -> Tensor:
    return renamed.index_select(0, rows.flatten()).view_as(rows)
