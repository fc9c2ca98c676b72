"""UV chart packing: rotates charts, scales them alike and places their cell masks (not boxes) in a square atlas.

Search: many greedy bottom-left packings ("sketches") on a coarse grid in perturbed orders, then the best of them at
the atlas's resolution at growing scales.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy import ndarray
from torch import device, float32, get_num_threads

from ...core.backend import Backend, always, numba_probe, resolve_backend
from ...core.progress import Progress, silent
from . import reference
from .reference import NOWHERE, Outlines, Traces, joined

BACKENDS = (Backend("numba", numba_probe), Backend("reference", always))

BOX_TURNS = 32  # angles per quarter turn in the search for a chart's smallest box; then finer ones about the best
TRACE_PARTS = 16
MOST_CELLS = 768  # target number of cells along a side; a cell is at most as wide as the gutter
START_FILL = 0.72
ROOM = 2.0  # rows of a sketch's grid, as a multiple of its columns
RESCALE = 1.15  # the first sketches are repeated at a smaller scale if their rows exceed this multiple of the columns
SPREAD = 7  # different column counts of sketches: first about a square, then up to the best sketch's side
NOISE = 0.05  # standard deviation of a chart's shift in the order, as a fraction of the number of charts
SLACKS = 10, 3, 30, 100  # sketch rows by which charts may be placed lower than in it; first alone, then all
FIRST_STEPS = 0.015 * np.arange(4)  # relative increases of the scale over the sketch's
STEPS = np.array([0.003, 0.006, 0.012])  # relative increases over the best scale so far
SHRINK = 0.95  # factor of the scale if nothing fits


@dataclass(frozen=True)
class Effort:
    """Search effort for up to `charts` charts. turns: rotations of each, over a full turn.  columns: of a sketch; 0: as
    the atlas.  rounds, sketches: number of rounds, and sketches in each.  finalists: sketches placed at the atlas's
    resolution.  enlargements: maximum number of scale increases after the charts fit, one after another.
    """

    charts: int
    turns: int
    columns: int
    rounds: int
    sketches: int
    finalists: int
    enlargements: int


EFFORTS = (
    Effort(64, 24, 384, 3, 24, 12, 64),
    Effort(256, 24, 256, 2, 16, 10, 64),
    Effort(2048, 4, 384, 1, 4, 2, 1),
    Effort(1 << 14, 4, 768, 1, 4, 2, 1),
    Effort(1 << 62, 4, 0, 1, 4, 2, 1),
)


@dataclass(frozen=True, eq=False)
class Packing:
    """Point p of chart k maps to p rotated by turn[k] (cosine, sine), times scale, plus offset[k], in texels from a
    corner. turn, offset: [K, 2] float64.  overlaps: [K] bool, charts that overlap themselves at a texel's centre.
    """

    scale: float
    turn: ndarray
    offset: ndarray
    overlaps: ndarray


def pack(
    outlines: Outlines,
    size: int,
    gutter: int,
    *,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Packing:
    """Packs K charts (outlines [B, 2]) into `size` x `size` texels at the largest common scale found.

    Texels of different charts are separated by at least `gutter` free ones, and by half as many from the borders. The
    square is divided into cells of one or more texels, at most `gutter`; charts occupy whole cells. They are placed
    greedily, large ones first, each in the rotation and position with the lowest upper end: many times on a coarse
    grid, in different orders; then at the atlas's resolution, in the order, rotations and about the rows of the best of
    those, at ever larger scales. On the CPU, in torch's threads, with a result independent of their number.
    Deterministic; both backends agree up to rounding; "reference" takes minutes.
    Raises ValueError if the charts do not fit at any scale.
    """
    chosen = resolve_backend(backend, BACKENDS, device("cpu"))
    charts = len(outlines.area)
    if not charts:
        return Packing(1.0, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, bool))
    cell = max(1, min(gutter, size // MOST_CELLS))
    gap, margin = -(-gutter // cell), -(-gutter // 2)
    side = (size - 2 * margin) // cell
    report = progress or silent
    with ThreadPoolExecutor(get_num_threads()) as pool:
        packer = _Packer(outlines, side, gap, chosen, pool.map)
        sketches = packer.sketches(report)
        best = packer.largest(sketches, report) if sketches else None
    if best is None:
        raise ValueError(
            f"size: expected room for {charts} charts with gutters of {gutter}, got {size} x {size} texels; a larger "
            "texture, a smaller gutter or fewer separate parts make room"
        )
    return Packing(best.scale * cell, best.turns, margin + cell * (best.place + best.origin), best.overlaps)


def compile_kernels() -> None:
    """Packs one square by the loops that numba compiles, if it is installed."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    if numba_probe(device("cpu"), float32) is None:
        pack(Outlines(corners, np.roll(corners, -1, axis=0), np.array([0, 4]), np.ones(1)), 64, 2)


@dataclass(frozen=True, eq=False)
class _Sketch:
    """A packing on a coarse grid; its rows and columns reach `side`. order: [K], placement order. turns: [K, 2] as
    Packing.turn.  low: [K] rows.  scale: of the charts.
    """

    side: int
    order: ndarray
    turns: ndarray
    low: ndarray
    scale: float


@dataclass(frozen=True, eq=False)
class _Placed:
    """A packing into the atlas, in cells: as Packing, but place [K, 2] is the position of the boxes and origin [K, 2]
    the chart origins in them. rows: used rows as a fraction of the atlas's; above 1 if the charts do not fit.
    """

    rows: float
    scale: float
    turns: ndarray
    place: ndarray
    origin: ndarray
    overlaps: ndarray


class _Packer:
    """Searches the largest scale at which `outlines` fit into side x side cells, with `gap` free ones between them.

    share: `map`, possibly multithreaded.
    """

    def __init__(self, outlines: Outlines, side: int, gap: int, backend: str, share: Callable):
        kernels: ModuleType = reference
        if backend == "numba":
            from . import kernel_cpu

            kernels = kernel_cpu
        self.outlines, self.side, self.gap, self.share = outlines, side, gap, share
        self.trace_charts, self.place_charts = kernels.trace_charts, kernels.place_charts
        self.box_areas = kernels.box_areas
        self.effort = next(effort for effort in EFFORTS if len(outlines.area) <= effort.charts)
        self.columns = min(self.effort.columns or side, side)
        self.area = float(outlines.area.sum())

    def sketches(self, report: Progress) -> list[_Sketch]:
        """Returns the best sketches, best first; none if the charts do not fit at any scale."""
        angle = upright(self.outlines, self.box_areas, self.share)[:, None] + np.arange(self.effort.turns) * (
            2 * math.pi / self.effort.turns
        )
        turns = np.stack((np.cos(angle), np.sin(angle)), axis=2)
        scale = self.columns * math.sqrt(START_FILL / self.area)
        sizes = chart_sizes(self.outlines)
        firsts = [np.argsort(-size, kind="stable") for size in sizes]
        # A sketch's cell can be as wide as a gutter; the partly covered cells of a chart then suffice as one.
        gap = round(self.gap * self.columns / self.side)
        for trial in range(64):
            report(min(0.05 + 0.02 * trial, 0.3))
            traces = self._traces(turns, scale)

            def sketch(order: ndarray, columns: int, traces: Traces = traces, scale: float = scale) -> _Sketch:
                rows, turn, place = self.place_charts(traces, order, (int(ROOM * columns), columns), gap)
                side = int(ROOM * columns) if rows == NOWHERE else max(rows, columns)
                return _Sketch(side, order, turns[np.arange(len(turn)), turn], place[:, 1], scale)

            found = list(self.share(sketch, firsts, [self.columns] * len(firsts)))
            lowest = min(sketch.side for sketch in found)
            square = round(math.sqrt(lowest * self.columns))
            if lowest <= RESCALE * self.columns:
                break
            if traces.size.max() == 1:
                return []
            scale *= 1 / math.sqrt(lowest / self.columns)
        else:
            return []
        random = np.random.default_rng(0)
        for done in range(self.effort.rounds):
            report(0.3 + 0.3 * done / self.effort.rounds)
            best = sorted(found, key=lambda sketch: sketch.side)[: self.effort.finalists]
            orders, columns = [], []
            for n in range(self.effort.sketches):
                parent = best[n % len(best)]
                order, most = (
                    (parent.order, min(parent.side, square))
                    if done
                    else (firsts[n % len(firsts)], square + SPREAD // 2)
                )
                orders.append(_perturbed(order, random) if done or n >= len(firsts) else order)
                columns.append(most - SPREAD + 1 + n % SPREAD)
            found += self.share(sketch, orders, columns)
        return sorted(found, key=lambda sketch: sketch.side)[: self.effort.finalists]

    def _traces(self, turns: ndarray, scale: float) -> Traces:
        """Returns the traces of all charts in turns [K, T, 2], computed in parts."""
        spans = _spans(len(turns))
        return joined(
            list(self.share(lambda s: self.trace_charts(self.outlines.span(*s), turns[slice(*s)], scale), spans))
        )

    def largest(self, sketches: list[_Sketch], report: Progress) -> _Placed | None:
        """Returns the sketch and scale that fill the atlas best, at its resolution; None if none fits at any scale."""
        base, best = max(sketch.scale * self.side / sketch.side for sketch in sketches), None
        enlargements = 0
        for trial in range(64):
            report(min(0.6 + 0.08 * trial, 0.95))
            steps, slacks = (FIRST_STEPS, SLACKS[:1]) if best is None else (STEPS, SLACKS)
            scaled = list(itertools.product(sketches, base * (1 + steps)))
            traces = self.share(lambda job: self.trace_charts(self.outlines, job[0].turns[:, None], job[1]), scaled)
            jobs = [(*job, found, slack) for job, found in zip(scaled, traces, strict=True) for slack in slacks]
            placed = self._placed(jobs, best is None)
            fitting = [(found.scale, n) for n, found in enumerate(placed) if found is not None and found.rows <= 1]
            if fitting:
                if best is None:
                    sketches = self._better_half(sketches, placed)
                else:
                    enlargements += 1
                base, n = max(fitting)
                best = placed[n]
                if enlargements == self.effort.enlargements:
                    break
            elif best is None:
                base *= SHRINK
            else:
                break
        return best

    def _placed(self, jobs: list[tuple], every: bool) -> list[_Placed | None]:
        """Runs `_place_at_resolution` of `jobs`. every: to their ends; else only the largest that fit are sure to be
        there, and one is given up as soon as it needs more rows than there are, or another fits at a larger scale."""
        if every:
            return list(self.share(lambda job: self._place_at_resolution(*job), jobs))
        largest = [0.0]  # a lower bound: two threads may overwrite each other's

        def place(n: int) -> _Placed | None:
            sketch, scale, traces, slack = jobs[n]
            if scale < largest[0]:
                return None
            found = self._place_at_resolution(sketch, scale, traces, slack, self.side)
            if found.rows <= 1:
                largest[0] = max(largest[0], found.scale)
            return found

        order = sorted(range(len(jobs)), key=lambda n: -jobs[n][1])
        placed: list[_Placed | None] = [None] * len(jobs)
        for n, found in zip(order, self.share(place, order), strict=True):
            placed[n] = found
        return placed

    def _place_at_resolution(
        self, sketch: _Sketch, scale: float, traces: Traces, slack: int, most: int | None = None
    ) -> _Placed:
        """Places a sketch's charts at the atlas's resolution, at most `slack` of its rows lower than in the sketch.

        most: rows above which the packing is given up; None: 5 % more than the atlas has.
        """
        low = np.maximum(((sketch.low - slack) * (scale / sketch.scale)).astype(np.int64), 0)
        room = math.ceil(1.05 * self.side), self.side
        rows, _, place = self.place_charts(traces, sketch.order, room, self.gap, low, most or room[0])
        share = math.inf if rows == NOWHERE else rows / self.side
        return _Placed(share, scale, sketch.turns, place, traces.origin[:, 0], traces.overlaps[:, 0])

    @staticmethod
    def _better_half(sketches: list[_Sketch], placed: list[_Placed]) -> list[_Sketch]:
        """Returns the half of the sketches that fill the atlas best; `placed` has equally many trials per sketch."""
        filled = (
            np.array([found.scale / max(found.rows, 1.0) for found in placed]).reshape(len(sketches), -1).max(axis=1)
        )
        return [sketches[n] for n in np.argsort(-filled, kind="stable")[: -(-len(sketches) // 2)]]


def _perturbed(order: ndarray, random: np.random.Generator) -> ndarray:
    """Returns `order` [K] with every chart moved by a random number of positions."""
    places = np.arange(len(order)) + NOISE * len(order) * random.standard_normal(len(order))
    return order[np.argsort(places, kind="stable")]


def upright(outlines: Outlines, box_areas: Callable = reference.box_areas, share: Callable = map) -> ndarray:
    """Returns angles [K] that rotate each chart to about its smallest bounding box.

    box_areas: the backend's.  share: `map`, possibly multithreaded.
    """
    charts = len(outlines.area)
    best, smallest = np.zeros(charts), np.full(charts, np.inf)
    center, step = np.zeros(charts), math.pi / 2 / BOX_TURNS
    steps = np.arange(BOX_TURNS)
    spans = _spans(charts)
    for _ in range(3):
        angle = center[:, None] + steps * step
        turns = np.stack((np.cos(angle), np.sin(angle)), axis=2)
        area = np.concatenate(list(share(lambda s, turns=turns: box_areas(outlines.span(*s), turns[slice(*s)]), spans)))
        first = area.argmin(axis=1)[:, None]
        found = np.take_along_axis(area, first, 1)[:, 0]
        best = np.where(found < smallest, np.take_along_axis(angle, first, 1)[:, 0], best)
        smallest = np.minimum(found, smallest)
        center, step, steps = best, step / 8, np.arange(-7, 8)
    return best


def _spans(charts: int) -> list[tuple[int, int]]:
    """Divides `charts` into at most TRACE_PARTS spans."""
    parts = np.array_split(np.arange(charts), min(charts, TRACE_PARTS))
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]


def chart_sizes(outlines: Outlines) -> list[ndarray]:
    """Returns size measures [K] worth sorting charts by: longest side, area, both, the box."""
    first = outlines.first[:-1]
    low, high = np.minimum.reduceat(outlines.start, first), np.maximum.reduceat(outlines.start, first)
    box = high - low
    longest, area = box.max(axis=1), outlines.area
    return [longest, area, longest * np.sqrt(np.maximum(area, 0)), box.prod(axis=1)]


__all__ = ["BACKENDS", "Outlines", "Packing", "compile_kernels", "pack"]
