"""Packing in numpy: the rules that every backend follows, and the fallback; minutes where the kernel takes seconds.

Letters: K charts, B lines of outlines, T turns, W columns and H rows of the atlas in texels, R runs of texels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

THIN_TEXELS = 1.0  # faces less high than this may lie between texel centres, so their outline is marked all along
STEP_TEXELS = 0.5  # between such marks
NEAR = 2.0**-8  # of a texel: a centre this near to a line may come to lie on either side as coordinates are rounded
BUCKET_RATIO = 1.25  # charts of sizes within this ratio do not look below each other
BUCKETS = 64
NOWHERE = -1


@dataclass(frozen=True, eq=False)
class Outlines:
    """The borders of K charts in the plane, as B lines with the chart on their left.

    start, end: [B, 2] float64.  height: [B] float64, of the face at each line, over it.  first: [K + 1] int64, chart k
    has the lines first[k] to first[k + 1], at least one.  area: [K] float64.
    """

    start: ndarray
    end: ndarray
    height: ndarray
    first: ndarray
    area: ndarray


def trace(
    start: ndarray, end: ndarray, height: ndarray, turn: tuple[float, float], scale: float
) -> tuple[ndarray, tuple[float, float], bool]:
    """(mask [h, w] bool, (x, y) of the chart's origin in it, whether the outline winds twice around a texel's centre).

    One chart: start, end [B, 2], height [B] as `pack`. Turned by (cosine, sine), scaled, and put in the middle of its
    box, rounded up to whole texels. A texel is in the mask when the outline winds around its centre or is NEAR it, or
    when it holds the start of a line, or a point of a line whose face is thinner than THIN_TEXELS.
    """
    cosine, sine = turn
    x0, y0 = (start[:, 0] * cosine - start[:, 1] * sine) * scale, (start[:, 0] * sine + start[:, 1] * cosine) * scale
    x1, y1 = (end[:, 0] * cosine - end[:, 1] * sine) * scale, (end[:, 0] * sine + end[:, 1] * cosine) * scale
    low_x, high_x = min(x0.min(), x1.min()), max(x0.max(), x1.max())
    low_y, high_y = min(y0.min(), y1.min()), max(y0.max(), y1.max())
    wide, high = max(math.ceil(high_x - low_x), 1), max(math.ceil(high_y - low_y), 1)
    x, y = (wide - (high_x - low_x)) / 2 - low_x, (high - (high_y - low_y)) / 2 - low_y
    x0, x1, y0, y1 = x0 + x, x1 + x, y0 + y, y1 + y
    winding = np.zeros((high, wide + 1), np.int64)
    mask = np.zeros((high, wide), bool)
    for s in range(len(start)):
        first = max(math.ceil(min(y0[s], y1[s]) - 0.5), 0)
        row = np.arange(first, min(math.ceil(max(y0[s], y1[s]) - 0.5), high))
        if len(row):
            at = x0[s] + (row + 0.5 - y0[s]) * ((x1[s] - x0[s]) / (y1[s] - y0[s]))
            column = np.clip(np.ceil(at - 0.5), 0, wide).astype(np.int64)
            np.add.at(winding, (row, column), 1 if y1[s] < y0[s] else -1)
            near = np.floor(at).astype(np.int64)
            near, row = near[hit := np.abs(at - near - 0.5) < NEAR], row[hit]
            mask[row, np.clip(near, 0, wide - 1)] = True
        first = max(math.ceil(min(x0[s], x1[s]) - 0.5), 0)
        column = np.arange(first, min(math.ceil(max(x0[s], x1[s]) - 0.5), wide))
        if len(column):
            at = y0[s] + (column + 0.5 - x0[s]) * ((y1[s] - y0[s]) / (x1[s] - x0[s]))
            near = np.floor(at).astype(np.int64)
            near, column = near[hit := np.abs(at - near - 0.5) < NEAR], column[hit]
            mask[np.clip(near, 0, high - 1), column] = True
        thin = height[s] * scale < THIN_TEXELS
        steps = max(math.ceil(max(abs(x1[s] - x0[s]), abs(y1[s] - y0[s])) / STEP_TEXELS), 1) if thin else 1
        share = np.arange(steps) / steps
        columns = np.clip((x0[s] + (x1[s] - x0[s]) * share).astype(np.int64), 0, wide - 1)
        mask[np.clip((y0[s] + (y1[s] - y0[s]) * share).astype(np.int64), 0, high - 1), columns] = True
    winding = winding.cumsum(axis=1)[:, :wide]
    return mask | (winding > 0), (x, y), bool((winding > 1).any())


def trace_chart(outlines: Outlines, chart: int, turn: ndarray, scale: float) -> tuple[float, float, bool]:
    """(x, y, whether the chart lies over itself) as `trace`."""
    lines = slice(outlines.first[chart], outlines.first[chart + 1])
    _, (x, y), overlaps = trace(outlines.start[lines], outlines.end[lines], outlines.height[lines], turn, scale)
    return x, y, overlaps


def runs_of(mask: ndarray) -> ndarray:
    """Runs [R, 3] int64 of row, first and last texel of mask [h, w] bool."""
    edge = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, left = np.nonzero(edge == 1)
    return np.stack((row, left, np.nonzero(edge == -1)[1] - 1), axis=1)


def place_charts(
    outlines: Outlines,
    order: ndarray,
    turns: ndarray,
    scale: float,
    size: tuple[int, int],
    gutter: int,
    stride: int,
) -> tuple[int, ndarray, ndarray]:
    """(rows used, turn [K], place [K, 2]) of charts put one after another as low, then as far left, as they fit.

    order: [K].  turns: [T, 2] cosines and sines; of all turns the one with the lowest upper end is taken, then the one put lowest, then the
    first.  size: (H, W).  stride: every so manieth row is tried, then the ones below it at the same column.  Rows used
    is NOWHERE where a chart does not fit.
    """
    start, end, height, first = outlines.start, outlines.end, outlines.height, outlines.first
    rows, width = size
    used = np.zeros((rows, width), bool)
    count = np.zeros((rows, width + 1), np.int64)
    turn, place = np.zeros(len(order), np.int64), np.zeros((len(order), 2), np.int64)
    reached = np.zeros((BUCKETS, BUCKETS), np.int64)
    top = 0
    for chart in order.tolist():
        lines = slice(first[chart], first[chart + 1])
        best = None
        for t in range(len(turns)):
            mask = trace(start[lines], end[lines], height[lines], tuple(turns[t]), scale)[0]
            high, wide = mask.shape
            bucket = tuple(min(int(math.log(n) / math.log(BUCKET_RATIO)), BUCKETS - 1) for n in (wide, high))
            last = rows - high if best is None else min(rows - high, best[0] - high)
            y, x = _find(count, runs_of(mask), wide, int(reached[bucket]), last, stride)
            if y == NOWHERE:
                continue
            reached[bucket] = y
            if best is None or (y + high, y) < best[:2]:
                best = (y + high, y, x, t, mask)
        if best is None:
            return NOWHERE, turn, place
        turn[chart], place[chart] = best[3], (best[2], best[1])
        _use(used, count, best, gutter)
        top = max(top, best[0])
    return top, turn, place


def _find(count: ndarray, runs: ndarray, wide: int, low: int, high: int, stride: int) -> tuple[int, int]:
    """The row from low to high, and column, where the runs are free; count [H, W + 1]: used texels before each."""
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
    """Whether the runs are free at row y and each of `columns` columns from x on."""
    fits = np.ones(columns, bool)
    for row, left, right in runs.tolist():
        line = count[y + row]
        fits &= line[x + right + 1 : x + right + 1 + columns] == line[x + left : x + left + columns]
        if not fits.any():
            break
    return fits


def _use(used: ndarray, count: ndarray, best: tuple, gutter: int) -> None:
    """Mark the texels of the best place, and the gutter around them."""
    _, y, x, _, mask = best
    rows, width = used.shape
    for row, left, right in runs_of(mask).tolist():
        band = slice(max(y + row - gutter, 0), min(y + row + gutter + 1, rows))
        used[band, max(x + left - gutter, 0) : min(x + right + gutter + 1, width)] = True
    changed = slice(max(y - gutter, 0), min(y + len(mask) + gutter, rows))
    count[changed, 1:] = used[changed].cumsum(axis=1)
