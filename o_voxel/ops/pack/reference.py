"""Packing in numpy: the rules that every backend follows, and the fallback; minutes where the kernel takes seconds.

Letters: K charts, B lines of outlines, T turns, W columns and H rows of the atlas in texels, R runs of texels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy import ndarray

THIN_TEXELS = 1.0  # faces less high than this may lie between texel centres, so their outline is marked all along
STEP_TEXELS = 0.5  # between such marks
BUCKET_RATIO = 1.25  # charts of sizes within this ratio do not look below each other
BUCKETS = 64
NOWHERE = -1


def trace(
    start: ndarray, end: ndarray, height: ndarray, turn: tuple[float, float], scale: float
) -> tuple[ndarray, tuple[float, float], bool]:
    """(mask [h, w] bool, (x, y) of the chart's origin in it, whether the outline winds twice around a texel's centre).

    One chart: start, end [B, 2], height [B] as `pack`. Turned by (cosine, sine), scaled, and put in the middle of its
    box, rounded up to whole texels. A texel is in the mask when the outline winds around its centre, or when it holds
    the start of a line, or a point of a line whose face is thinner than THIN_TEXELS.
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
        thin = height[s] * scale < THIN_TEXELS
        steps = max(math.ceil(max(abs(x1[s] - x0[s]), abs(y1[s] - y0[s])) / STEP_TEXELS), 1) if thin else 1
        share = np.arange(steps) / steps
        columns = np.clip((x0[s] + (x1[s] - x0[s]) * share).astype(np.int64), 0, wide - 1)
        mask[np.clip((y0[s] + (y1[s] - y0[s]) * share).astype(np.int64), 0, high - 1), columns] = True
    winding = winding.cumsum(axis=1)[:, :wide]
    return mask | (winding > 0), (x, y), bool((winding > 1).any())


def runs_of(mask: ndarray) -> ndarray:
    """Runs [R, 3] int64 of row, first and last texel of mask [h, w] bool."""
    edge = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, left = np.nonzero(edge == 1)
    return np.stack((row, left, np.nonzero(edge == -1)[1] - 1), axis=1)


def place_all(
    outlines: tuple[ndarray, ndarray, ndarray, ndarray],
    order: ndarray,
    turns: ndarray,
    scale: float,
    size: tuple[int, int],
    gutter: int,
) -> tuple[int, ndarray, ndarray]:
    """(rows used, turn [K], place [K, 2]) of charts put one after another as low, then as far left, as they fit.

    outlines: start, end, height, first as `pack`, first [K + 1] the first line of each chart.  order: [K].  turns:
    [T, 2] cosines and sines; of all turns the one with the lowest upper end is taken, then the one put lowest, then the
    first.  size: (H, W).  Rows used is NOWHERE where a chart does not fit.
    """
    start, end, height, first = outlines
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
            y, x = _find(count, runs_of(mask), wide, int(reached[bucket]), last)
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


def _find(count: ndarray, runs: ndarray, wide: int, low: int, high: int) -> tuple[int, int]:
    """The first row from low to high, and column, where the runs are free; count [H, W + 1]: used texels before each."""
    columns = count.shape[1] - wide
    for y in range(low, high + 1 if columns > 0 else low):
        fits = np.ones(columns, bool)
        for row, left, right in runs.tolist():
            line = count[y + row]
            fits &= line[right + 1 : right + 1 + columns] == line[left : left + columns]
            if not fits.any():
                break
        else:
            return y, int(fits.argmax())
    return NOWHERE, NOWHERE


def _use(used: ndarray, count: ndarray, best: tuple, gutter: int) -> None:
    """Mark the texels of the best place, and the gutter around them."""
    _, y, x, _, mask = best
    rows, width = used.shape
    for row, left, right in runs_of(mask).tolist():
        band = slice(max(y + row - gutter, 0), min(y + row + gutter + 1, rows))
        used[band, max(x + left - gutter, 0) : min(x + right + gutter + 1, width)] = True
    changed = slice(max(y - gutter, 0), min(y + len(mask) + gutter, rows))
    count[changed, 1:] = used[changed].cumsum(axis=1)
