"""Chart packing in numpy: the rules of every backend, and the fallback (minutes where the kernel takes seconds).

Letters: K charts, B outline segments, T rotations, W columns and H rows of the atlas in cells, R runs of cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

BUCKET_RATIO = 1.1  # a chart is not tried below the last one whose size is within this ratio
BUCKETS = 96
TALL = 32  # chart height from which only every second row is tried; every third from twice that, and so on
NOWHERE = -1


@dataclass(frozen=True, eq=False)
class Outlines:
    """The outlines of K charts in the plane, as B directed segments with the chart on their left.

    start, end: [B, 2] float64.  first: [K + 1] int64, chart k has the segments first[k] to first[k + 1], at least one.
    area: [K] float64.
    """

    start: ndarray
    end: ndarray
    first: ndarray
    area: ndarray

    def span(self, begin: int, end: int) -> Outlines:
        """Returns the charts from `begin` up to `end`."""
        lines = slice(self.first[begin], self.first[end])
        first = self.first[begin : end + 1] - self.first[begin]
        return Outlines(self.start[lines], self.end[lines], first, self.area[begin:end])


@dataclass(frozen=True, eq=False)
class Traces:
    """The cell masks of K charts in T rotations each, as runs.

    runs: [R, 3] int32 row, first and last cell.  first: [K T + 1] int64, chart k in rotation t has the runs first[n] to
    first[n + 1], n = k T + t.  size: [K, T, 2] int64 rows and columns.  origin: [K, T, 2] float64 (x, y) of the
    chart's origin in cells.  overlaps: [K, T] bool, the outline winds twice around a cell's centre.
    """

    runs: ndarray
    first: ndarray
    size: ndarray
    origin: ndarray
    overlaps: ndarray


def box_areas(outlines: Outlines, turns: ndarray) -> ndarray:
    """Areas [K, T] of the bounding boxes of K charts, each in T rotations `turns` [K, T, 2] (cosine, sine)."""
    first = outlines.first[:-1]
    owner = np.repeat(np.arange(len(first)), np.diff(outlines.first))
    x, y = outlines.start.T
    areas = np.empty(turns.shape[:2])
    for t in range(turns.shape[1]):
        cosine, sine = turns[owner, t].T
        sides = [
            np.maximum.reduceat(v, first) - np.minimum.reduceat(v, first)
            for v in (x * cosine - y * sine, x * sine + y * cosine)
        ]
        areas[:, t] = sides[0] * sides[1]
    return areas


def joined(parts: list[Traces]) -> Traces:
    """Concatenates traces (runs [R, 3]) of one or more sets of charts with the same number of rotations."""
    counts = np.concatenate([np.diff(part.first) for part in parts])
    fields = ([getattr(part, name) for part in parts] for name in ("runs", "size", "origin", "overlaps"))
    runs, size, origin, overlaps = (np.concatenate(field) for field in fields)
    return Traces(runs, np.concatenate(([0], np.cumsum(counts))), size, origin, overlaps)


def trace_charts(outlines: Outlines, turns: ndarray, scale: float) -> Traces:
    """Returns the traces of all charts, each in its own rotations `turns` [K, T, 2] (cosine, sine)."""
    charts, count = turns.shape[:2]
    masks = [[trace(outlines, k, turns[k, t], scale) for t in range(count)] for k in range(charts)]
    found = [runs_of(mask) for row in masks for mask, _, _ in row]
    first = np.concatenate(([0], np.cumsum([len(runs) for runs in found])))
    size = np.array([[mask.shape for mask, _, _ in row] for row in masks])
    origin = np.array([[point for _, point, _ in row] for row in masks])
    return Traces(np.concatenate(found), first, size, origin, np.array([[twice for *_, twice in row] for row in masks]))


def trace(outlines: Outlines, chart: int, turn: ndarray, scale: float) -> tuple[ndarray, tuple[float, float], bool]:
    """Returns (mask [h, w] bool, (x, y) of the chart's origin in it, True if a cell centre has a winding number > 1).

    The chart is rotated by (cosine, sine), scaled, and centred in its box, rounded up to whole cells. A cell is in the
    mask if a segment passes it or the outline winds around its centre.
    """
    lines = slice(outlines.first[chart], outlines.first[chart + 1])
    start, end = outlines.start[lines], outlines.end[lines]
    cosine, sine = turn
    x0, y0 = (start[:, 0] * cosine - start[:, 1] * sine) * scale, (start[:, 0] * sine + start[:, 1] * cosine) * scale
    x1, y1 = (end[:, 0] * cosine - end[:, 1] * sine) * scale, (end[:, 0] * sine + end[:, 1] * cosine) * scale
    low_x, high_x = min(x0.min(), x1.min()), max(x0.max(), x1.max())
    low_y, high_y = min(y0.min(), y1.min()), max(y0.max(), y1.max())
    wide, high = max(math.ceil(high_x - low_x), 1), max(math.ceil(high_y - low_y), 1)
    x, y = (wide - (high_x - low_x)) / 2 - low_x, (high - (high_y - low_y)) / 2 - low_y
    winding = np.zeros((high, wide + 1), np.int64)
    mask = np.zeros((high, wide), bool)
    for ax, ay, bx, by in zip(x0 + x, y0 + y, x1 + x, y1 + y, strict=True):
        if ay > by:
            ax, ay, bx, by, sign = bx, by, ax, ay, 1
        else:
            sign = -1
        slope = (bx - ax) / (by - ay) if by > ay else 0.0
        for row in range(min(int(ay), high - 1), min(int(by), high - 1) + 1):
            p = ax + (max(ay, row) - ay) * slope if by > ay else ax
            q = ax + (min(by, row + 1) - ay) * slope if by > ay else bx
            left, right = min(max(int(min(p, q)), 0), wide - 1), min(max(int(max(p, q)), 0), wide - 1)
            mask[row, left : right + 1] = True
            if ay <= row + 0.5 < by:
                at = ax + (row + 0.5 - ay) * slope
                winding[row, min(max(math.ceil(at - 0.5), 0), wide)] += sign
    winding = winding.cumsum(axis=1)[:, :wide]
    return mask | (winding > 0), (x, y), bool((winding > 1).any())


def runs_of(mask: ndarray) -> ndarray:
    """Returns runs [R, 3] int64 of row, first and last texel of mask [h, w] bool."""
    edge = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, left = np.nonzero(edge == 1)
    return np.stack((row, left, np.nonzero(edge == -1)[1] - 1), axis=1)


def place_charts(
    traces: Traces,
    order: ndarray,
    size: tuple[int, int],
    gutter: int,
    low: ndarray | None = None,
    most: int = 1 << 40,
) -> tuple[int, ndarray, ndarray]:
    """Places charts one after another, as low and then as far left as they fit: (rows used, turn [K], place [K, 2]).

    order: [K].  Takes the rotation with the lowest upper end, then the lowest position, then the first rotation.
    size: (H, W).  gutter: free cells between charts.  low: [K], lowest row of each chart; None: charts are not tried
    below the last one of their size.  most: rows above which the packing is given up.
    Rows used is NOWHERE if a chart does not fit, or ends above `most`.
    """
    rows, width = size
    used = np.zeros((rows, width), bool)
    count = np.zeros((rows, width + 1), np.int64)
    turn, place = np.zeros(len(order), np.int64), np.zeros((len(order), 2), np.int64)
    reached = np.zeros((BUCKETS, BUCKETS), np.int64)
    turns = traces.size.shape[1]
    top = 0
    for chart in order.tolist():
        best = None
        for t in range(turns):
            at = chart * turns + t
            runs = traces.runs[traces.first[at] : traces.first[at + 1]]
            high, wide = traces.size[chart, t].tolist()
            bucket = tuple(min(int(math.log(n) / math.log(BUCKET_RATIO)), BUCKETS - 1) for n in (wide, high))
            first = int(reached[bucket] if low is None else low[chart])
            last = rows - high if best is None else min(rows - high, best[0] - high)
            y, x = _find(count, runs, wide, first, last, 1 + high // TALL)
            if y == NOWHERE:
                continue
            reached[bucket] = y
            if best is None or (y + high, y) < best[:2]:
                best = (y + high, y, x, t, runs)
        if best is None or best[0] > most:
            return NOWHERE, turn, place
        turn[chart], place[chart] = best[3], (best[2], best[1])
        _use(used, count, best, gutter)
        top = max(top, best[0])
    return top, turn, place


def _find(count: ndarray, runs: ndarray, wide: int, low: int, high: int, stride: int) -> tuple[int, int]:
    """Returns the first row from low to high by stride, and column, where the runs are free; then moves down.

    count: [H, W + 1], used cells before each.
    """
    columns = count.shape[1] - wide
    for y in range(low, high + 1 if columns > 0 else low, stride):
        fits = _free(count, runs, y, 0, columns)
        if fits.any():
            x = int(fits.argmax())
            while y > low and _free(count, runs, y - 1, x, 1)[0]:
                y -= 1
            return y, x
    return NOWHERE, NOWHERE


def _free(count: ndarray, runs: ndarray, y: int, x: int, columns: int) -> ndarray:
    """Returns flags [columns]: the runs are free at row y and each column from x on."""
    fits = np.ones(columns, bool)
    for row, left, right in runs.tolist():
        line = count[y + row]
        fits &= line[x + right + 1 : x + right + 1 + columns] == line[x + left : x + left + columns]
        if not fits.any():
            break
    return fits


def _use(used: ndarray, count: ndarray, best: tuple, gutter: int) -> None:
    """Marks the cells of the best position, and the gutter around them."""
    _, y, x, _, runs = best
    rows, width = used.shape
    for row, left, right in runs.tolist():
        band = slice(max(y + row - gutter, 0), min(y + row + gutter + 1, rows))
        used[band, max(x + left - gutter, 0) : min(x + right + gutter + 1, width)] = True
    changed = slice(max(y - gutter, 0), min(y + runs[-1, 0] + 1 + gutter, rows))
    count[changed, 1:] = used[changed].cumsum(axis=1)
