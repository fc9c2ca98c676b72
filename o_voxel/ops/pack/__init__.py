"""Charts turned, scaled alike and put into a square of texels, gutters between them; by their outlines, not boxes."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from torch import device

from ..backend import Choice, always, numba_probe, resolve_backend
from . import reference
from .reference import NOWHERE, Outlines

CHOICES = (Choice("numba", numba_probe), Choice("reference", always))

# Up to so many charts: turns of each over a full turn, scales that are tried, orders that each is tried in.
EFFORT = ((64, 16, 8, 3), (256, 12, 5, 2), (1 << 62, 8, 3, 1))
MOST_CELLS = 768  # along a side, where the gutter can be one cell
COARSE = 2  # cells of the atlas to one of those in which orders are compared
START_FILL = 0.72
STEP = 0.003  # of the scale, beyond what should just fit, up or down
SHRINK = 0.93  # of the scale, at least, when the trials are over


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
    progress: Callable[[float], None] | None = None,
) -> Packing:
    """Where each chart comes to lie in `size` x `size` texels, as large as it finds room for.

    Between texels that meet different charts are `gutter` free ones at least, at the borders half as many. The square
    is divided into cells of one or more texels, at most as many as the gutter; charts own whole cells. They are put
    one after another, large ones first, each in the turn and place that ends lowest, in several orders of which the
    best stays; the scale is raised or lowered until they fill the square. On the CPU. Deterministic; both backends
    give the same, up to how they round; "reference" takes minutes.
    Raises ValueError where the charts do not fit however small.
    """
    chosen = resolve_backend(backend, CHOICES, device("cpu"))
    if chosen == "numba":
        from .kernel_cpu import place_charts, trace_chart
    else:
        place_charts, trace_chart = reference.place_charts, reference.trace_chart
    charts = len(outlines.area)
    if not charts:
        return Packing(1.0, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, bool))
    cell = max(1, min(gutter, size // MOST_CELLS))
    gap, margin = -(-gutter // cell), -(-gutter // 2)
    side = (size - 2 * margin) // cell
    _, count, trials, finalists = next(effort for effort in EFFORT if charts <= effort[0])
    angle = np.arange(count) * (2 * math.pi / count)
    turns = np.stack((np.cos(angle), np.sin(angle)), axis=1)

    def place(order: ndarray, scale: float, coarse: int) -> tuple[float, ndarray, ndarray]:
        """(rows used, of those there are, turn, place); twice as many where not all fit."""
        across = side // coarse
        room = math.ceil(1.5 * across), across
        rows, *found = place_charts(outlines, order, turns, scale / coarse, room, -(-gap // coarse))
        return (2.0 if rows == NOWHERE else rows / across), *found

    scale = side * math.sqrt(START_FILL / float(outlines.area.sum()))
    best = None
    with ThreadPoolExecutor(4) as pool:
        orders = chart_orders(outlines)
        rows = list(pool.map(lambda order: place(order, scale, COARSE)[0], orders))
        orders = [orders[n] for n in np.argsort(rows, kind="stable")[:finalists]]
        for trial in range(64):
            if progress is not None:
                progress(min(0.2 + 0.13 * trial, 0.95))
            found = min(pool.map(lambda order, at=scale: place(order, at, 1), orders), key=lambda found: found[0])
            if found[0] <= 1 and (best is None or scale > best[0]):
                best = (scale, found)
            if best is not None and trial + 1 >= trials:
                break
            step = (1 + STEP if found[0] <= 1 else 1 - STEP) / math.sqrt(found[0])
            scale *= min(step, SHRINK) if trial > trials else step
            if best is not None:
                scale = max(scale, best[0] * (1 + STEP))
    if best is None:
        raise ValueError(
            f"size: expected room for {charts} charts with gutters of {gutter}, got {size} x {size} texels; a larger "
            "texture, a smaller gutter or fewer separate parts make room"
        )
    scale, (_, turn, corner) = best
    origin, overlaps = np.zeros((charts, 2)), np.zeros(charts, bool)
    for k in range(charts):
        origin[k, 0], origin[k, 1], overlaps[k] = trace_chart(outlines, k, turns[turn[k]], scale)
    return Packing(scale * cell, turns[turn], margin + cell * (corner + origin), overlaps)


def chart_orders(outlines: Outlines) -> list[ndarray]:
    """Orders [K] int64 that are worth a try: by longest side, by area, by both, by the box; large first."""
    first = outlines.first[:-1]
    low, high = np.minimum.reduceat(outlines.start, first), np.maximum.reduceat(outlines.start, first)
    box = high - low
    longest, area = box.max(axis=1), outlines.area
    keys = (longest, area, longest * np.sqrt(np.maximum(area, 0)), box.prod(axis=1))
    return [np.argsort(-key, kind="stable") for key in keys]


__all__ = ["CHOICES", "Outlines", "Packing", "pack"]
