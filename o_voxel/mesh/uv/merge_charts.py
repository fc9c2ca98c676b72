"""Greedy merging of UV charts: a neighbour is rigidly aligned along a shared seam, sewn on, and relaxed.

Unfolding across a sharp crease adds no stretch, so merging continues where segmentation by normals stops: it unrolls
tubes and opens folded sheets. A union is rejected if it flips a face, crosses its own border, exceeds the stretch
limit, or needs more atlas area than its two parts.

Letters: F faces, E edges, K charts, S open seam edges, R runs (connected seams between two charts), N faces of trial
unions, n UV vertices of those. Lengths are shares of the side of a full atlas.
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

MISFIT = 0.25  # maximum RMS distance of two aligned borders, relative to their length and the smaller chart's side
SEWN_MISFIT = 0.7  # maximum distance between the ends of a sewn edge, relative to its length
SEWN_RUN_MISFIT = 0.1  # or relative to the length of its run
BOX_SHARE = 0.4  # weight of the bounding box in a chart's atlas area; the outline has the rest
SCORE_STEPS = 2**20
SWEEPS = 5


@dataclass(frozen=True)
class MergeLimits:
    """extent: maximum side of a chart's box.  max_stretch: upper bound of the L2 stretch of all but STRETCHED_SHARE of
    a chart's area.  gutter: space between charts.  rounds: maximum number of rounds."""

    extent: float
    max_stretch: float
    gutter: float
    rounds: int = 16


@dataclass(frozen=True, eq=False)
class _Charts:
    """Per-chart area [K] float64, perimeter [K] int64 in LENGTH_UNIT, bounding box sides [K, 2] float64."""

    area: Tensor
    perimeter: Tensor
    box: Tensor

    def room(self, gutter: float) -> Tensor:
        """Estimated atlas area [K] of each chart with half a gutter around it."""
        outline = self.area + self.perimeter.to(torch.float64) * (LENGTH_UNIT * gutter / 2)
        return BOX_SHARE * (self.box + gutter).prod(dim=1) + (1 - BOX_SHARE) * outline


@dataclass(frozen=True, eq=False)
class _Runs:
    """Connected seams between two charts, and the rigid motion that aligns the second chart with the first.

    keep, move: [R] int64, the fixed and the moved chart.  length: [R] int64, in LENGTH_UNIT.  turn: [R, 2] cosine and
    sine.  source, target: [R, 2] rotation centre in the moved chart, and its image.  misfit: [R], RMS distance over
    length.  edge: [S] int64, rows of `UnwrapMesh.half`.  run: [S] int64.  sewable: [S] bool.
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
    """Trial unions, extracted from the layout.

    face: [N] int64.  corner: [N, 3] int64, rows of position [n, 2] float64.  chart: [N] int64, the kept chart of each
    union.  owner: [n] int64, the chart of each UV vertex.  row: [n] int64, its row in the layout.
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
    """Merges the charts of a valid `layout` (position [U, 2], corner [F, 3]) within `limits`; returns the new layout.

    In each round every chart selects its best-fitting run of seams; runs selected by both their charts are tried. A
    failed run is not tried again. Deterministic per backend; backends differ by rounding, which can decide whether a
    union is accepted. progress: called with the fraction done after every round; may raise.
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
        trial = _build_trial(unwrap_mesh, layout, runs, chosen, merged, sewn, backend)
        layout, charts, failed = _accept_unions(unwrap_mesh, layout, charts, limits, trial, sewn, merged)
        tried = layout.sewn | tried
        tried[runs.edge[chosen[runs.run] & failed[merged[runs.keep]][runs.run]]] = True
        if progress is not None:
            progress((done + 1) / limits.rounds)
    return layout


def _measure_charts(unwrap_mesh: UnwrapMesh, layout: Layout) -> _Charts:
    """Computes area, perimeter and bounding box of the charts of a layout."""
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
    """Groups open edges `edge` [S] int64 into runs; aligns their charts by least-squares rigid motion (Procrustes)."""
    half = unwrap_mesh.half[edge]
    chart = layout.chart[half // 3]
    half = torch.where(chart[:, :1] > chart[:, 1:], half.flip(1), half).T
    keep, move = chart.amin(1), chart.amax(1)
    ahead = following(half)
    run, count = _run_numbers(unwrap_mesh, keep, move, half[0], ahead[0])
    lengths = unwrap_mesh.length[edge]
    size = torch.zeros(count, dtype=torch.int64, device=run.device).index_add_(0, run, lengths)
    weight = lengths.double() / size.clamp(min=1)[run]
    # [2, S, 2, 2]: the ends of each edge in the fixed chart, and the same ends in the moved one.
    corners = torch.stack((half[0], ahead[0], ahead[1], half[1])).view(2, 2, -1).transpose(1, 2)
    ends = layout.position[layout.corner.flatten()[corners]]
    centers = ends.mean(dim=2).transpose(0, 1).reshape(-1, 4) * weight[:, None]
    middle = scatter_sums(centers, run, count).view(-1, 2, 2).transpose(0, 1)
    to, frm = middle
    unit = (size.double() * LENGTH_UNIT).clamp(min=1e-300)
    p, q = (ends - middle[:, run, None]) / unit[run, None, None]
    cosine, sine = (p * q).sum(dim=(1, 2)), (q[..., 0] * p[..., 1] - q[..., 1] * p[..., 0]).sum(dim=1)
    turn = scatter_sums(torch.stack((cosine, sine), dim=1) * weight[:, None], run, count)
    norm = turn.square().sum(dim=1, keepdim=True).sqrt()
    turn = torch.where(norm > 0, turn / norm, torch.arange(1, -1, -1, dtype=turn.dtype, device=turn.device))
    distance = (p - _rotate(q, turn[run, None])).square().sum(dim=2)
    misfit = scatter_sums((distance.mean(dim=1) * weight)[:, None], run, count)[:, 0].sqrt()
    worst = distance.amax(dim=1).sqrt()
    sewable = (worst < SEWN_MISFIT * weight) | (worst < SEWN_RUN_MISFIT)
    first = torch.full_like(size, len(edge)).scatter_reduce_(0, run, torch.arange(len(edge), device=run.device), "amin")
    return _Runs(keep[first], move[first], size, turn, frm, to, misfit, edge, run, sewable)


def _rotate(points: Tensor, turn: Tensor) -> Tensor:
    """Rotates points [..., 2] by (cosine, sine) [..., 2]."""
    x, y = points.unbind(dim=-1)
    cosine, sine = turn.unbind(dim=-1)
    return torch.stack((x * cosine - y * sine, x * sine + y * cosine), dim=-1)


def _run_numbers(
    unwrap_mesh: UnwrapMesh, keep: Tensor, move: Tensor, half: Tensor, ahead: Tensor
) -> tuple[Tensor, int]:
    """(run [S] int64 of each seam, number of runs): connects seams of the same two charts that share a vertex.

    half, ahead: [S] int64, a half-edge of each seam and the `following` one.
    """
    seams, vertices = len(keep), len(unwrap_mesh.points)
    _, pair = (keep * (int(move.max()) + 1) + move).unique(return_inverse=True)
    corner = unwrap_mesh.faces.flatten()
    ends = pair * vertices + corner[torch.stack((half, ahead))]
    keys, key = ends.flatten().unique(return_inverse=True)
    seam = torch.arange(seams, device=keep.device)
    lowest = connected(seams + len(keys), torch.cat((seam, seam)), seams + key)[:seams]
    number = (lowest == seam).cumsum(0) - 1
    return number[lowest], int(number[-1]) + 1


def _choose(runs: _Runs, charts: _Charts, limits: MergeLimits) -> Tensor:
    """Mask [R] bool of runs with the best score for both their charts: long shared border, low misfit."""
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
    """(rows of the edges sewn by the chosen runs, chart [charts] int64 that each chart is merged into)."""
    merged = torch.arange(charts, device=chosen.device)
    picked = chosen.nonzero().squeeze(1)
    merged[runs.move[picked]] = runs.keep[picked]
    return runs.edge[chosen[runs.run] & runs.sewable], merged


def _build_trial(
    unwrap_mesh: UnwrapMesh, layout: Layout, runs: _Runs, chosen: Tensor, merged: Tensor, sewn: Tensor, backend: str
) -> _Trial:
    """Builds the trial unions of the chosen runs [R] bool: aligns, sews (averages seam vertices) and relaxes them."""
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
    moved = _rotate(position - runs.source[by], runs.turn[by]) + runs.target[by]
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


def _accept_unions(
    unwrap_mesh: UnwrapMesh,
    layout: Layout,
    charts: _Charts,
    limits: MergeLimits,
    trial: _Trial,
    sewn: Tensor,
    merged: Tensor,
) -> tuple[Layout, _Charts, Tensor]:
    """Accepts valid unions: (new layout, new charts, mask [K] bool of the kept charts of rejected unions)."""
    count = len(merged)
    touched = torch.zeros(count, dtype=torch.bool, device=merged.device)
    touched[trial.chart] = True
    union = _merge_stats(unwrap_mesh, charts, merged, sewn, layout)
    after = replace(layout, sewn=layout.sewn.scatter(0, sewn, True))
    half = open_halves(unwrap_mesh, after, trial.face)
    row = torch.empty_like(layout.chart).scatter_(0, trial.face, torch.arange(len(trial.face), device=half.device))
    local = 3 * row[half // 3] + half % 3
    start, end = trial.corner.flatten()[local], trial.corner.flatten()[following(local)]
    chart = trial.chart[local // 3]
    box = oriented_box(trial.position[start], chart, count)
    union = replace(union, box=torch.where(touched[:, None], box, charts.box))
    parts, moved = charts.room(limits.gutter), (merged != _identity(merged)).nonzero().squeeze(1)
    parts = parts.index_add(0, merged[moved], parts[moved])
    shape = trial.position, trial.corner, trial.chart, trial.face
    bad = badly_shaped(unwrap_mesh, *shape, count, limits.max_stretch)
    bad |= (union.room(limits.gutter) > parts) | (union.box.amax(dim=1) > limits.extent)
    bad[chart[find_overlaps(trial.position, start, end, chart, count)]] = True
    good = touched & ~bad
    return _commit(layout, trial, sewn, merged, good, unwrap_mesh), _select_charts(charts, union, good), touched & bad


def _identity(merged: Tensor) -> Tensor:
    return torch.arange(len(merged), device=merged.device)


def _merge_stats(unwrap_mesh: UnwrapMesh, charts: _Charts, merged: Tensor, sewn: Tensor, layout: Layout) -> _Charts:
    """Adds each merged chart's area and perimeter to the chart it joins; boxes are unchanged. merged: [K] int64."""
    moved = (merged != _identity(merged)).nonzero().squeeze(1)
    area = charts.area.index_add(0, merged[moved], charts.area[moved])
    keeper = merged[layout.chart[unwrap_mesh.half[sewn, 0] // 3]]
    perimeter = charts.perimeter.index_add(0, merged[moved], charts.perimeter[moved])
    return _Charts(area, perimeter.index_add_(0, keeper, -2 * unwrap_mesh.length[sewn]), charts.box)


def _select_charts(before: _Charts, after: _Charts, good: Tensor) -> _Charts:
    return _Charts(
        torch.where(good, after.area, before.area),
        torch.where(good, after.perimeter, before.perimeter),
        torch.where(good[:, None], after.box, before.box),
    )


def _commit(
    layout: Layout, trial: _Trial, sewn: Tensor, merged: Tensor, good: Tensor, unwrap_mesh: UnwrapMesh
) -> Layout:
    """Writes the unions with their kept chart in `good` [K] bool into the layout."""
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
