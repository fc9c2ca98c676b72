"""Packing on the CPU: charts as runs of cells, in an atlas that knows the next used and next free cell of each."""

from __future__ import annotations

import math

import numpy as np
from numpy import ndarray

from ..kernel_cpu import cached_njit
from . import reference
from .reference import BUCKET_RATIO, BUCKETS, NOWHERE, TALL, Outlines

FAR = 1 << 40


def place_charts(
    outlines: Outlines,
    order: ndarray,
    turns: ndarray,
    scale: float,
    size: tuple[int, int],
    gutter: int,
) -> tuple[int, ndarray, ndarray]:
    """As `reference.place_charts`."""
    turn, place = np.zeros(len(order), np.int64), np.zeros((len(order), 2), np.int64)
    lines = outlines.start, outlines.end, outlines.first
    return place_all(*lines, order, turns, scale, *size, gutter, turn, place), turn, place


def trace_chart(outlines: Outlines, chart: int, turn: ndarray, scale: float) -> tuple[float, float, bool]:
    """As `reference.trace_chart`."""
    lines = slice(outlines.first[chart], outlines.first[chart + 1])
    return trace(outlines.start[lines], outlines.end[lines], *turn, scale)[3:]


def place_all(start, end, first, order, turns, scale, rows, width, gutter, turn, place):
    """Rows used, as `place_charts`; turn [K] and place [K, 2] int64 are written."""
    used = np.full((rows, width), width, np.int32)  # the next used cell to the right; the cell itself where used
    free = np.empty((rows, width), np.int32)  # likewise the next free one
    for x in range(width):
        free[:, x] = x
    room = np.full(rows, width, np.int64)  # the longest free run of a row
    reached = np.zeros((BUCKETS, BUCKETS), np.int64)
    top = 0
    for n in range(len(order)):
        chart = order[n]
        a, b = first[chart], first[chart + 1]
        best, best_top, best_x, best_turn = FAR, FAR, NOWHERE, NOWHERE
        best_runs = np.empty((0, 3), np.int32)
        for t in range(len(turns)):
            runs, high, wide = trace(start[a:b], end[a:b], turns[t, 0], turns[t, 1], scale)[:3]
            i, j = _bucket(wide), _bucket(high)
            y, x = _find(
                used, free, room, runs, wide, reached[i, j], min(rows - high, best_top - high), 1 + high // TALL
            )
            if y == NOWHERE:
                continue
            reached[i, j] = y
            if y + high < best_top or (y + high == best_top and y < best):
                best, best_top, best_x, best_turn, best_runs = y, y + high, x, t, runs
        if best_turn == NOWHERE:
            return NOWHERE
        turn[chart], place[chart, 0], place[chart, 1] = best_turn, best_x, best
        _use(used, free, room, best_runs, best_x, best, gutter)
        top = max(top, best_top)
    return top


def trace(start, end, cosine, sine, scale):
    """(runs [R, 3] int32, rows, columns, x, y, overlaps), as `reference.trace` and `reference.runs_of`."""
    line = np.empty((len(start), 4))
    low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
    for s in range(len(start)):
        line[s, 0] = (start[s, 0] * cosine - start[s, 1] * sine) * scale
        line[s, 1] = (start[s, 0] * sine + start[s, 1] * cosine) * scale
        line[s, 2] = (end[s, 0] * cosine - end[s, 1] * sine) * scale
        line[s, 3] = (end[s, 0] * sine + end[s, 1] * cosine) * scale
        low_x, high_x = min(low_x, line[s, 0], line[s, 2]), max(high_x, line[s, 0], line[s, 2])
        low_y, high_y = min(low_y, line[s, 1], line[s, 3]), max(high_y, line[s, 1], line[s, 3])
    wide, high = max(int(math.ceil(high_x - low_x)), 1), max(int(math.ceil(high_y - low_y)), 1)
    x, y = (wide - (high_x - low_x)) / 2 - low_x, (high - (high_y - low_y)) / 2 - low_y
    ends = np.zeros(high + 1, np.int64)
    for s in range(len(start)):
        line[s, 0], line[s, 1], line[s, 2], line[s, 3] = line[s, 0] + x, line[s, 1] + y, line[s, 2] + x, line[s, 3] + y
        low, top = min(line[s, 1], line[s, 3]), max(line[s, 1], line[s, 3])
        for row in range(min(int(low), high - 1), min(int(top), high - 1) + 1):
            ends[row + 1] += 1
    for row in range(high):
        ends[row + 1] += ends[row]
    spans, turns = _spans(line, ends, high, wide)
    runs, overlaps = _runs(spans, turns, ends, high)
    return runs, high, wide, x, y, overlaps


def _spans(line, ends, high, wide):
    """(spans [N, 2], turns [N, 2]) by row: the cells that a line meets, and where the winding changes by how much."""
    spans, turns = np.empty((ends[high], 2), np.int32), np.zeros((ends[high], 2), np.int32)
    upto = ends.copy()
    for s in range(len(line)):
        x0, y0, x1, y1, sign = line[s, 0], line[s, 1], line[s, 2], line[s, 3], -1
        if y0 > y1:
            x0, y0, x1, y1, sign = x1, y1, x0, y0, 1
        slope = (x1 - x0) / (y1 - y0) if y1 > y0 else 0.0
        for row in range(min(int(y0), high - 1), min(int(y1), high - 1) + 1):
            p = x0 + (max(y0, row) - y0) * slope if y1 > y0 else x0
            q = x0 + (min(y1, row + 1) - y0) * slope if y1 > y0 else x1
            n = upto[row]
            upto[row] += 1
            spans[n, 0], spans[n, 1] = min(max(int(min(p, q)), 0), wide - 1), min(max(int(max(p, q)), 0), wide - 1)
            if y0 <= row + 0.5 < y1:
                at = x0 + (row + 0.5 - y0) * slope
                turns[n, 0], turns[n, 1] = min(max(int(math.ceil(at - 0.5)), 0), wide), sign
    return spans, turns


def _runs(spans, turns, ends, high):
    """Runs [R, 3] int32 of the cells that are met or wound around, and whether one is wound around twice."""
    runs = np.empty((2 * len(spans), 3), np.int32)
    count, overlaps = 0, False
    for row in range(high):
        first, last = ends[row], ends[row + 1]
        _sort(spans, first, last)
        _sort(turns, first, last)
        begin, n, winding, left = count, first, 0, 0
        # Two lists by their left ends, merged: spans, and stretches between two turns where the winding is positive.
        for t in range(first, last + 1):
            while n < last and (t == last or spans[n, 0] <= turns[t, 0]):
                count = _append(runs, begin, count, row, spans[n, 0], spans[n, 1])
                n += 1
            if t < last:
                if winding > 0 and turns[t, 0] > left:
                    count = _append(runs, begin, count, row, left, turns[t, 0] - 1)
                    overlaps |= winding > 1
                winding, left = winding + turns[t, 1], turns[t, 0]
    return runs[:count].copy(), overlaps


def _append(runs, begin, count, row, left, right):
    """Add left to right to the runs of a row, which start at `begin`; the last ones grow where they touch it."""
    while count > begin and left <= runs[count - 1, 2] + 1:
        count -= 1
        left, right = min(left, runs[count, 1]), max(right, runs[count, 2])
    runs[count, 0], runs[count, 1], runs[count, 2] = row, left, right
    return count + 1


def _sort(pairs, first, last):
    for i in range(first + 1, last):
        a, b = pairs[i, 0], pairs[i, 1]
        j = i - 1
        while j >= first and pairs[j, 0] > a:
            pairs[j + 1, 0], pairs[j + 1, 1] = pairs[j, 0], pairs[j, 1]
            j -= 1
        pairs[j + 1, 0], pairs[j + 1, 1] = a, b


def _bucket(size):
    return min(int(math.log(size) / math.log(BUCKET_RATIO)), BUCKETS - 1)


def _find(used, free, room, runs, wide, low, high, stride):
    """The row from low to high, and column, where the runs are free."""
    count, width = len(runs), used.shape[1]
    widest = 0
    for k in range(count):
        if runs[k, 2] - runs[k, 1] > runs[widest, 2] - runs[widest, 1]:
            widest = k
    for y in range(low, high + 1, stride):
        if room[y + runs[widest, 0]] <= runs[widest, 2] - runs[widest, 1]:
            continue
        k, free_runs, x = widest, 0, 0
        while x + wide <= width:
            row = y + runs[k, 0]
            blocked = used[row, x + runs[k, 1]]
            if blocked <= x + runs[k, 2]:
                # Nothing fits until this run is past what blocks it; it is the likeliest to be blocked again.
                x, free_runs = free[row, blocked] - runs[k, 1], 0
                continue
            free_runs += 1
            if free_runs == count:
                while y > low and _free(used, runs, x, y - 1):
                    y -= 1
                return y, x
            k = k + 1 if k + 1 < count else 0
    return NOWHERE, NOWHERE


def _free(used, runs, x, y):
    """Whether the runs are free at (x, y)."""
    k = 0
    while k < len(runs) and used[y + runs[k, 0], x + runs[k, 1]] > x + runs[k, 2]:
        k += 1
    return k == len(runs)


def _use(used, free, room, runs, x, y, gutter):
    """Mark the runs at (x, y) as used, and the gutter around them."""
    rows, width = used.shape
    for k in range(len(runs)):
        left, right = max(x + runs[k, 1] - gutter, 0), min(x + runs[k, 2] + gutter, width - 1)
        for row in range(max(y + runs[k, 0] - gutter, 0), min(y + runs[k, 0] + gutter + 1, rows)):
            _fill(used[row], free[row], left, right)
    for row in range(max(y - gutter, 0), min(y + runs[-1, 0] + gutter + 1, rows)):
        longest, at = 0, 0
        while at < width:
            blocked = used[row, at]
            longest = max(longest, blocked - at)
            at = free[row, blocked] if blocked < width else width
        room[row] = longest


def _fill(used, free, left, right):
    """Mark the cells left to right of one row as used."""
    width = len(used)
    after = right + 1
    if after < width:
        after = free[after]
    for x in range(left, right + 1):
        used[x], free[x] = x, after
    x = left - 1
    while x >= 0 and used[x] == x:
        free[x] = after
        x -= 1
    if x == left - 1:
        while x >= 0 and used[x] != x:
            used[x] = left
            x -= 1


_sort = cached_njit(_sort, reference)
_append = cached_njit(_append, reference)
_spans = cached_njit(_spans, reference)
_runs = cached_njit(_runs, reference)
_bucket = cached_njit(_bucket, reference)
_free = cached_njit(_free, reference)
_find = cached_njit(_find, reference)
_fill = cached_njit(_fill, reference)
_use = cached_njit(_use, reference)
trace = cached_njit(trace, reference)
place_all = cached_njit(place_all, reference)
