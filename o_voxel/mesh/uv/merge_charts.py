"""Charts sewn together in the plane: a neighbour is laid against a chart's border, sewn on and relaxed.

Laying flat costs nothing across a fold, however sharp, so this goes on where growing by normals stops: tubes are
rolled out and folded sheets opened. Whatever does not fit is undone: a union must neither turn a face over, nor
cross its own border, nor stretch too far, nor need more of the atlas than its two parts.

Letters: F faces, E edges, K charts, S seams (edges that may be sewn), R runs (connected seams between two charts),
N faces of charts on trial, n UV vertices of those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.exact_sums import scatter_sums
from ...core.progress import Progress
from ...ops.connected_components import connected
from ...ops.parameterize import relax
from ..connectivity.topology import following
from .overlaps import find_overlaps
from .parameterize import Layout, UnwrapMesh, badly_shaped, chart_sums, open_halves
from .segment import LENGTH_UNIT, oriented_box

MISFIT = 0.25  # most distance between two borders, of their length and of the smaller chart's side
SEWN_MISFIT = 0.7  # most distance between the ends of an edge that is sewn, of its length
SEWN_RUN_MISFIT = 0.1  # or of the length of its run
BOX_SHARE = 0.4  # of a chart's room in the atlas: its box counts so much, its outline the rest
SCORE_STEPS = 2**20
SWEEPS = 5


@dataclass(frozen=True)
class MergeLimits:
    """extent: longest side of a chart's box, of the side of a full atlas.  max_stretch: L2 stretch that all but
    STRETCHED_SHARE of a chart keeps below.  gutter: between charts, of the side of a full atlas.  rounds: at most."""

    extent: float
    max_stretch: float
    gutter: float
    rounds: int = 16


@dataclass(frozen=True, eq=False)
class _Charts:
    """What is kept of each chart: area [K] float64, perimeter [K] int64 in LENGTH_UNIT, sides of its box [K, 2]."""

    area: Tensor
    perimeter: Tensor
    box: Tensor

    def room(self, gutter: float) -> Tensor:
        """Area [K] of the atlas that each chart needs, about, with half a gutter around it."""
        outline = self.area + self.perimeter.to(torch.float64) * (LENGTH_UNIT * gutter / 2)
        return BOX_SHARE * (self.box + gutter).prod(dim=1) + (1 - BOX_SHARE) * outline


@dataclass(frozen=True, eq=False)
class _Runs:
    """Connected seams between two charts, and the motion that lays the second chart against the first.

    keep, move: [R] the charts.  length: [R] int64, in LENGTH_UNIT.  turn: [R, 2] cosine and sine.  source, target:
    [R, 2] the point of the moved chart that turns, and where it goes.  misfit: [R], root mean square, in lengths.
    edge: [S], row of the cloth's edges.  run: [S].  sewable: [S] bool.
    """

    keep: Tensor
    move: Tensor
    length: Tensor
    turn: Tensor
    source: Tensor
    target: Tensor
    misfit: Tensor
    edge: Tensor
    run: Tensor
    sewable: Tensor


@dataclass(frozen=True, eq=False)
class _Trial:
    """Unions on trial, cut out of the layout: faces [N] and their corners [N, 3], rows of position [n, 2].

    chart: [N], which is the kept chart's for both parts.  owner: [n], its chart.  row: [n], its row of the layout.
    """

    face: Tensor
    corner: Tensor
    chart: Tensor
    position: Tensor
    owner: Tensor
    row: Tensor


def merge_charts(
    unwrap_mesh: UnwrapMesh,
    layout: Layout,
    limits: MergeLimits,
    *,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Layout:
    """`layout` with charts sewn together wherever that fits the limits. Its charts must not be broken.

    In each round every chart picks the run of seams along which it fits a neighbour best, and those that pick the same
    run are tried together. A run that failed is not tried again. Deterministic for each backend; backends differ by
    rounding, which can decide whether a union fits. progress(fraction) is called after every round and may raise.
    """
    charts = _measure_charts(unwrap_mesh, layout)
    graph = unwrap_mesh.graph
    tried = layout.sewn
    for done in range(limits.rounds):
        open_ = (~tried & (layout.chart[graph.first] != layout.chart[graph.second])).nonzero().squeeze(1)
        if not len(open_):
            break
        runs = _fit_runs(unwrap_mesh, layout, open_)
        chosen = _choose(runs, charts, limits)
        if not bool(chosen.any()):
            break
        sewn, merged = _sewn_edges(runs, chosen, len(charts.area))
        trial = _lay(unwrap_mesh, layout, runs, chosen, merged, sewn, backend)
        layout, charts, failed = _judge(unwrap_mesh, layout, charts, limits, trial, sewn, merged)
        tried = layout.sewn | tried
        tried[runs.edge[chosen[runs.run] & failed[merged[runs.keep]][runs.run]]] = True
        if progress is not None:
            progress((done + 1) / limits.rounds)
    return layout


def _measure_charts(unwrap_mesh: UnwrapMesh, layout: Layout) -> _Charts:
    """The charts of a layout."""
    charts = int(layout.chart.max()) + 1
    face = torch.arange(len(layout.chart), device=layout.chart.device)
    half = open_halves(unwrap_mesh, layout, face)
    sides = (
        (
            unwrap_mesh.points[unwrap_mesh.faces.flatten()[half]]
            - unwrap_mesh.points[unwrap_mesh.faces.flatten()[following(half)]]
        )
        ** 2
    ).sum(1)
    fixed = (sides.sqrt() / LENGTH_UNIT).round().to(torch.int64)
    perimeter = torch.zeros(charts, dtype=torch.int64, device=half.device)
    perimeter.index_add_(0, layout.chart[half // 3], fixed)
    area = chart_sums(unwrap_mesh.geometry.area, layout.chart, charts)
    box = oriented_box(layout.position[layout.corner.flatten()[half]], layout.chart[half // 3], charts)
    return _Charts(area, perimeter, box)


def _fit_runs(unwrap_mesh: UnwrapMesh, layout: Layout, edge: Tensor) -> _Runs:
    """The runs that the open edges `edge` [S] form, and how they fit."""
    a, b = unwrap_mesh.half[edge].unbind(dim=1)
    swap = layout.chart[a // 3] > layout.chart[b // 3]
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    keep, move = layout.chart[a // 3], layout.chart[b // 3]
    run, count = _run_numbers(unwrap_mesh, keep, move, a)
    size = torch.zeros(count, dtype=torch.int64, device=run.device).index_add_(0, run, unwrap_mesh.length[edge])
    weight = unwrap_mesh.length[edge].double() / size.clamp(min=1)[run]
    corner = layout.corner.flatten()
    target = layout.position[torch.stack((corner[a], corner[following(a)]), dim=1)]
    source = layout.position[torch.stack((corner[following(b)], corner[b]), dim=1)]
    middles = torch.cat((target.mean(dim=1), source.mean(dim=1)), dim=1) * weight[:, None]
    to, frm = scatter_sums(middles, run, count).split(2, dim=1)
    unit = (size.double() * LENGTH_UNIT).clamp(min=1e-300)
    p, q = ((part - at[run, None]) / unit[run, None, None] for part, at in ((target, to), (source, frm)))
    cosine, sine = (p * q).sum(dim=(1, 2)), (q[..., 0] * p[..., 1] - q[..., 1] * p[..., 0]).sum(dim=1)
    turn = scatter_sums(torch.stack((cosine, sine), dim=1) * weight[:, None], run, count)
    norm = turn.square().sum(dim=1, keepdim=True).sqrt()
    turn = torch.where(norm > 0, turn / norm, turn.new_tensor([1.0, 0.0]))
    apart = (p - _turned(q, turn[run, None])).square().sum(dim=2)
    misfit = scatter_sums((apart.mean(dim=1) * weight)[:, None], run, count)[:, 0].sqrt()
    worst = apart.amax(dim=1).sqrt()
    sewable = (worst < SEWN_MISFIT * weight) | (worst < SEWN_RUN_MISFIT)
    first = torch.full_like(size, len(edge)).scatter_reduce_(0, run, torch.arange(len(edge), device=run.device), "amin")
    return _Runs(keep[first], move[first], size, turn, frm, to, misfit, edge, run, sewable)


def _turned(points: Tensor, turn: Tensor) -> Tensor:
    """Points [..., 2] turned by (cosine, sine) [..., 2]."""
    x, y = points.unbind(dim=-1)
    cosine, sine = turn.unbind(dim=-1)
    return torch.stack((x * cosine - y * sine, x * sine + y * cosine), dim=-1)


def _run_numbers(unwrap_mesh: UnwrapMesh, keep: Tensor, move: Tensor, half: Tensor) -> tuple[Tensor, int]:
    """The run [S] of each seam, and how many there are: seams of the same two charts that meet at a vertex."""
    seams, vertices = len(keep), len(unwrap_mesh.points)
    _, pair = (keep * (int(move.max()) + 1) + move).unique(return_inverse=True)
    corner = unwrap_mesh.faces.flatten()
    ends = torch.cat((pair * vertices + corner[half], pair * vertices + corner[following(half)]))
    places, place = ends.unique(return_inverse=True)
    seam = torch.arange(seams, device=keep.device)
    lowest = connected(seams + len(places), torch.cat((seam, seam)), seams + place)[:seams]
    number = (lowest == seam).cumsum(0) - 1
    return number[lowest], int(number[-1]) + 1


def _choose(runs: _Runs, charts: _Charts, limits: MergeLimits) -> Tensor:
    """Runs [R] bool that both their charts like best: a long shared border, and one that fits."""
    size = runs.length.double() * LENGTH_UNIT
    smaller = torch.minimum(charts.area[runs.keep], charts.area[runs.move]).sqrt()
    shared = runs.length.double() / torch.minimum(charts.perimeter[runs.keep], charts.perimeter[runs.move]).clamp(min=1)
    any_sewable = torch.zeros_like(runs.keep, dtype=torch.bool)
    any_sewable[runs.run[runs.sewable]] = True
    fits = any_sewable & (runs.misfit < MISFIT) & (runs.misfit * size < MISFIT * smaller)
    number = torch.arange(len(runs.keep), device=runs.keep.device)
    score = ((2 - shared + runs.misfit).clamp(0, 4) * SCORE_STEPS).to(torch.int64) * len(number) + number
    worst = 8 * SCORE_STEPS * len(number)
    score = torch.where(fits, score, worst)
    best = torch.full((len(charts.area),), worst, dtype=torch.int64, device=score.device)
    best.scatter_reduce_(0, runs.keep, score, "amin").scatter_reduce_(0, runs.move, score, "amin")
    return fits & (best[runs.keep] == score) & (best[runs.move] == score)


def _sewn_edges(runs: _Runs, chosen: Tensor, charts: int) -> tuple[Tensor, Tensor]:
    """Rows of the edges that the chosen runs sew, and the chart [charts] that each becomes part of."""
    merged = torch.arange(charts, device=chosen.device)
    picked = chosen.nonzero().squeeze(1)
    merged[runs.move[picked]] = runs.keep[picked]
    return runs.edge[chosen[runs.run] & runs.sewable], merged


def _lay(
    unwrap_mesh: UnwrapMesh, layout: Layout, runs: _Runs, chosen: Tensor, merged: Tensor, sewn: Tensor, backend: str
) -> _Trial:
    """The unions of the chosen runs: moved, sewn and relaxed."""
    picked = chosen.nonzero().squeeze(1)
    involved = torch.zeros(len(merged), dtype=torch.bool, device=chosen.device)
    involved[runs.keep[picked]] = involved[runs.move[picked]] = True
    motion = torch.full_like(merged, -1).scatter_(0, runs.move[picked], picked)
    face = involved[layout.chart].nonzero().squeeze(1)
    used = torch.zeros(len(layout.position), dtype=torch.bool, device=face.device)
    used[layout.corner[face].flatten()] = True
    row = used.nonzero().squeeze(1)
    number = used.cumsum(0) - 1
    corner = number[layout.corner[face]]
    owner = torch.empty_like(row).scatter_(0, corner.flatten(), layout.chart[face].repeat_interleave(3))
    position, by = layout.position[row], motion[owner]
    moved = _turned(position - runs.source[by], runs.turn[by]) + runs.target[by]
    position = torch.where((by >= 0)[:, None], moved, position)
    a, b = unwrap_mesh.half[sewn].unbind(dim=1)
    ends = layout.corner.flatten()
    first, second = number[ends[torch.cat((a, following(a)))]], number[ends[torch.cat((following(b), b))]]
    lowest = connected(len(row), first, second)
    highest = torch.arange(len(row), device=face.device)
    highest = highest.scatter_reduce(0, lowest, highest, "amax")
    kept = (lowest == torch.arange(len(row), device=face.device)).nonzero().squeeze(1)
    corner = ((lowest == torch.arange(len(row), device=face.device)).cumsum(0) - 1)[lowest][corner]
    position = (position[kept] + position[highest[kept]]) / 2
    owner, row = merged[owner[kept]], row[kept]
    color = unwrap_mesh.color[layout.source[row]]
    position = relax(position, corner, unwrap_mesh.rest[face], color, owner, SWEEPS, backend=backend)
    return _Trial(face, corner, merged[layout.chart[face]], position, owner, row)


def _judge(
    unwrap_mesh: UnwrapMesh,
    layout: Layout,
    charts: _Charts,
    limits: MergeLimits,
    trial: _Trial,
    sewn: Tensor,
    merged: Tensor,
) -> tuple[Layout, _Charts, Tensor]:
    """The layout and charts with the unions that are good, and which charts [K] bool are kept charts of bad ones."""
    count = len(merged)
    touched = torch.zeros(count, dtype=torch.bool, device=merged.device)
    touched[trial.chart] = True
    union = _united(unwrap_mesh, charts, merged, sewn, layout)
    after = replace(layout, sewn=layout.sewn.scatter(0, sewn, True))
    half = open_halves(unwrap_mesh, after, trial.face)
    place = torch.empty_like(layout.chart).scatter_(0, trial.face, torch.arange(len(trial.face), device=half.device))
    local = 3 * place[half // 3] + half % 3
    start, end = trial.corner.flatten()[local], trial.corner.flatten()[following(local)]
    chart = trial.chart[local // 3]
    box = oriented_box(trial.position[start], chart, count)
    union = replace(union, box=torch.where(touched[:, None], box, charts.box))
    parts, moved = charts.room(limits.gutter), (merged != _own(merged)).nonzero().squeeze(1)
    parts = parts.index_add(0, merged[moved], parts[moved])
    shape = trial.position, trial.corner, trial.chart, trial.face
    bad = badly_shaped(unwrap_mesh, *shape, count, limits.max_stretch)
    bad |= (union.room(limits.gutter) > parts) | (union.box.amax(dim=1) > limits.extent)
    bad[chart[find_overlaps(trial.position, start, end, chart, count)]] = True
    good = touched & ~bad
    return _commit(layout, trial, sewn, merged, good, unwrap_mesh), _pick(charts, union, good), touched & bad


def _own(merged: Tensor) -> Tensor:
    return torch.arange(len(merged), device=merged.device)


def _united(unwrap_mesh: UnwrapMesh, charts: _Charts, merged: Tensor, sewn: Tensor, layout: Layout) -> _Charts:
    """The charts with every merged one added to the one that keeps it; boxes as before."""
    moved = (merged != _own(merged)).nonzero().squeeze(1)
    area = charts.area.index_add(0, merged[moved], charts.area[moved])
    keeper = merged[layout.chart[unwrap_mesh.half[sewn, 0] // 3]]
    perimeter = charts.perimeter.index_add(0, merged[moved], charts.perimeter[moved])
    return _Charts(area, perimeter.index_add_(0, keeper, -2 * unwrap_mesh.length[sewn]), charts.box)


def _pick(before: _Charts, after: _Charts, good: Tensor) -> _Charts:
    return _Charts(
        torch.where(good, after.area, before.area),
        torch.where(good, after.perimeter, before.perimeter),
        torch.where(good[:, None], after.box, before.box),
    )


def _commit(
    layout: Layout, trial: _Trial, sewn: Tensor, merged: Tensor, good: Tensor, unwrap_mesh: UnwrapMesh
) -> Layout:
    """The layout with the unions whose kept chart is in `good` [K] bool."""
    kept = good[trial.chart].nonzero().squeeze(1)
    moved = good[trial.owner].nonzero().squeeze(1)
    sewn = sewn[good[merged[layout.chart[unwrap_mesh.half[sewn, 0] // 3]]]]
    return replace(
        layout,
        position=layout.position.index_copy(0, trial.row[moved], trial.position[moved]),
        corner=layout.corner.index_copy(0, trial.face[kept], trial.row[trial.corner[kept]]),
        chart=layout.chart.index_copy(0, trial.face[kept], trial.chart[kept]),
        sewn=layout.sewn.scatter(0, sewn, True),
    )
