"""Charts turned, scaled alike and put into a square of texels, gutters between them; by their outlines, not boxes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from torch import device, get_num_threads

from ...core.backend import Backend, always, numba_probe, resolve_backend
from ...core.progress import Progress, silent
from . import reference
from .reference import NOWHERE, Outlines, Traces, joined

BACKENDS = (Backend("numba", numba_probe), Backend("reference", always))

BOX_TURNS = 32  # over a quarter turn, of the boxes around a chart; then finer ones about the best
TRACE_PARTS = 16
MOST_CELLS = 768  # along a side, where the gutter can be one cell
START_FILL = 0.72
ROOM = 2.0  # rows of the grid on which charts are sketched, of its columns
RESCALE = 1.15  # rows of the first sketches, of the columns, beyond which the charts are sketched anew, smaller
SPREAD = 7  # different numbers of columns of sketches: first about those that make a square, then up to the best's
NOISE = 0.05  # of all places, by which a chart's place in the order is changed
SLACKS = 10, 3, 30, 100  # rows of a sketch that charts may come to lie lower than there; the first is tried first
FIRST_STEPS = 0.015 * np.arange(4)  # of the scale, beyond that of the sketch
STEPS = np.array([0.003, 0.006, 0.012])  # beyond the best so far
SHRINK = 0.95  # of the scale, where nothing fits


@dataclass(frozen=True)
class Effort:
    """What is spent on up to `charts` charts. turns: of each, over a full turn.  columns: of a sketch; 0: as the atlas.
    rounds, sketches: as many rounds of so many.  finalists: how many are drawn at the atlas's resolution.  redrawn: how
    often at most they are drawn larger once they fit, each time one after the other."""

    charts: int
    turns: int
    columns: int
    rounds: int
    sketches: int
    finalists: int
    redrawn: int


EFFORTS = (
    Effort(64, 24, 384, 3, 24, 12, 64),
    Effort(256, 24, 256, 2, 16, 10, 64),
    Effort(2048, 4, 384, 1, 4, 2, 1),
    Effort(1 << 14, 4, 768, 1, 4, 2, 1),
    Effort(1 << 62, 4, 0, 1, 4, 2, 1),
)


@dataclass(frozen=True, eq=False)
class Packing:
    """Point p of chart k comes to p turned by turn[k] (cosine, sine), times scale, plus offset[k], in texels from a
    corner. turn, offset: [K, 2] float64.  overlaps: [K] bool, charts that lie over themselves at a texel's centre.
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
    """Where each chart comes to lie in `size` x `size` texels, as large as it finds room for.

    Between texels that meet different charts are `gutter` free ones at least, at the borders half as many. The square
    is divided into cells of one or more texels, at most as many as the gutter; charts own whole cells. They are put
    one after another, large ones first, each in the turn and place that ends lowest: many times on a coarse grid, in
    different orders; then at the atlas's resolution, in the order, turns and about the rows of the best of those, at
    ever larger scales. On the CPU, in torch's threads, of which the result is independent. Deterministic; both
    backends give the same, up to how they round; "reference" takes minutes.
    Raises ValueError where the charts do not fit however small.
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


@dataclass(frozen=True, eq=False)
class _Sketch:
    """Charts put in `order` [K] on a coarse grid: rows and columns come to `side`. turns: [K, 2] as Packing.turn.
    low: [K] rows. scale: of the charts."""

    side: int
    order: ndarray
    turns: ndarray
    low: ndarray
    scale: float


@dataclass(frozen=True, eq=False)
class _Placed:
    """Charts put into the atlas, in cells: as Packing, but place [K, 2] is that of their boxes, origin [K, 2] their
    origins in them. rows: those used, of those there are; above 1 where they do not fit."""

    rows: float
    scale: float
    turns: ndarray
    place: ndarray
    origin: ndarray
    overlaps: ndarray


class _Packer:
    """The search for the largest scale at which `outlines` fit into side x side cells, `gap` free ones between them.

    share: `map`, which may run in threads.
    """

    def __init__(self, outlines: Outlines, side: int, gap: int, backend: str, share: Callable):
        if backend == "numba":
            from . import kernel_cpu as kernels
        else:
            kernels = reference
        self.outlines, self.side, self.gap, self.share = outlines, side, gap, share
        self.trace_charts, self.place_charts = kernels.trace_charts, kernels.place_charts
        self.effort = next(effort for effort in EFFORTS if len(outlines.area) <= effort.charts)
        self.columns = min(self.effort.columns or side, side)
        self.area = float(outlines.area.sum())

    def sketches(self, report: Progress) -> list[_Sketch]:
        """The best few sketches, the best first; none where the charts do not fit however small."""
        angle = upright(self.outlines)[:, None] + np.arange(self.effort.turns) * (2 * math.pi / self.effort.turns)
        turns = np.stack((np.cos(angle), np.sin(angle)), axis=2)
        scale = self.columns * math.sqrt(START_FILL / self.area)
        sizes = chart_sizes(self.outlines)
        firsts = [np.argsort(-size, kind="stable") for size in sizes]
        # A sketch's cells are as wide as some gutters; what a chart takes beyond its outline is enough there.
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
                orders.append(_shuffled(order, random) if done or n >= len(firsts) else order)
                columns.append(most - SPREAD + 1 + n % SPREAD)
            found += self.share(sketch, orders, columns)
        return sorted(found, key=lambda sketch: sketch.side)[: self.effort.finalists]

    def _traces(self, turns: ndarray, scale: float) -> Traces:
        """The traces of all charts in turns [K, T, 2], shared out."""
        parts = np.array_split(np.arange(len(turns)), min(len(turns), TRACE_PARTS))
        spans = [(int(part[0]), int(part[-1]) + 1) for part in parts]
        return joined(
            list(self.share(lambda s: self.trace_charts(self.outlines.span(*s), turns[slice(*s)], scale), spans))
        )

    def largest(self, sketches: list[_Sketch], report: Progress) -> _Placed | None:
        """The sketch and scale that fill the atlas best, at its resolution; None where none fits however small."""
        base, best = max(sketch.scale * self.side / sketch.side for sketch in sketches), None
        redrawn = 0
        for trial in range(64):
            report(min(0.6 + 0.08 * trial, 0.95))
            steps, slacks = (FIRST_STEPS, SLACKS[:1]) if best is None else (STEPS, SLACKS)
            scaled = list(itertools.product(sketches, base * (1 + steps)))
            traces = self.share(lambda job: self.trace_charts(self.outlines, job[0].turns[:, None], job[1]), scaled)
            jobs = [(*job, found, slack) for job, found in zip(scaled, traces, strict=True) for slack in slacks]
            placed = list(self.share(lambda job: self._drawn(*job), jobs))
            fitting = [(found.scale, n) for n, found in enumerate(placed) if found.rows <= 1]
            if fitting:
                if best is None:
                    sketches = self._promising(sketches, placed)
                else:
                    redrawn += 1
                base, n = max(fitting)
                best = placed[n]
                if redrawn == self.effort.redrawn:
                    break
            elif best is None:
                base *= SHRINK
            else:
                break
        return best

    def _drawn(self, sketch: _Sketch, scale: float, traces: Traces, slack: int) -> _Placed:
        """A sketch at the atlas's resolution, charts at most `slack` of its rows lower than they were there."""
        low = np.maximum(((sketch.low - slack) * (scale / sketch.scale)).astype(np.int64), 0)
        room = math.ceil(1.05 * self.side), self.side
        rows, _, place = self.place_charts(traces, sketch.order, room, self.gap, low)
        rows = math.inf if rows == NOWHERE else rows / self.side
        return _Placed(rows, scale, sketch.turns, place, traces.origin[:, 0], traces.overlaps[:, 0])

    @staticmethod
    def _promising(sketches: list[_Sketch], placed: list[_Placed]) -> list[_Sketch]:
        """The half of the sketches that fill the most where they are drawn, as many drawings of each in a row."""
        filled = (
            np.array([found.scale / max(found.rows, 1.0) for found in placed]).reshape(len(sketches), -1).max(axis=1)
        )
        return [sketches[n] for n in np.argsort(-filled, kind="stable")[: -(-len(sketches) // 2)]]


def _shuffled(order: ndarray, random: np.random.Generator) -> ndarray:
    """`order` [K] with every chart some places further up or down."""
    places = np.arange(len(order)) + NOISE * len(order) * random.standard_normal(len(order))
    return order[np.argsort(places, kind="stable")]


def upright(outlines: Outlines) -> ndarray:
    """Angles [K] that turn charts so that the boxes around them are about as small as can be."""
    first = outlines.first[:-1]
    owner = np.repeat(np.arange(len(first)), np.diff(outlines.first))
    x, y = outlines.start.T
    best, smallest = np.zeros(len(first)), np.full(len(first), np.inf)
    center, step = np.zeros(len(first)), math.pi / 2 / BOX_TURNS
    steps = np.arange(BOX_TURNS)
    for _ in range(3):
        for n in steps:
            angle = center + n * step
            cosine, sine = np.cos(angle)[owner], np.sin(angle)[owner]
            sides = [
                np.maximum.reduceat(v, first) - np.minimum.reduceat(v, first)
                for v in (x * cosine - y * sine, x * sine + y * cosine)
            ]
            area = sides[0] * sides[1]
            best, smallest = np.where(area < smallest, angle, best), np.minimum(area, smallest)
        center, step, steps = best, step / 8, np.arange(-7, 8)
    return best


def chart_sizes(outlines: Outlines) -> list[ndarray]:
    """Sizes [K] of charts in whose order it is worth putting them: longest side, area, both, the box."""
    first = outlines.first[:-1]
    low, high = np.minimum.reduceat(outlines.start, first), np.maximum.reduceat(outlines.start, first)
    box = high - low
    longest, area = box.max(axis=1), outlines.area
    return [longest, area, longest * np.sqrt(np.maximum(area, 0)), box.prod(axis=1)]


__all__ = ["CHOICES", "Outlines", "Packing", "pack"]
