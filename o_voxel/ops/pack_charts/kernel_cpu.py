"""Chart packing in numba: charts as runs of cells, the atlas as one bit per cell."""

from __future__ import annotations

import math

import numpy as np
from numpy import ndarray

from ...core.kernel_cpu import cached_njit
from . import reference
from .reference import BUCKET_RATIO, BUCKETS, NOWHERE, TALL, Outlines, Traces

FAR = 1 << 40
NONE, ONE, ALL = np.uint64(0), np.uint64(1), np.uint64(2**64 - 1)
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)  # all 64 windows of 6 bits differ
LOWEST_BIT = np.zeros(64, np.int64)
LOWEST_BIT[[(int(DE_BRUIJN) << bit) % 2**64 >> 58 for bit in range(64)]] = np.arange(64)


def trace_charts(outlines: Outlines, turns: ndarray, scale: float) -> Traces:
    """As `reference.trace_charts`: turns [K, T, 2] (cosine, sine)."""
    return Traces(*trace_all(outlines.start, outlines.end, outlines.first, turns, scale))


def place_charts(
    traces: Traces, order: ndarray, size: tuple[int, int], gutter: int, low: ndarray | None = None, most: int = FAR
) -> tuple[int, ndarray, ndarray]:
    """As `reference.place_charts`: (rows used, turn [K], place [K, 2])."""
    turn, place = np.zeros(len(order), np.int64), np.zeros((len(order), 2), np.int64)
    start = np.zeros(0, np.int64) if low is None else low
    runs = traces.runs, traces.first, traces.size
    return place_all(*runs, order, start, *size, gutter, most, turn, place), turn, place


def box_areas(outlines: Outlines, turns: ndarray) -> ndarray:
    """As `reference.box_areas`: [K, T], to the bit."""
    return box_areas_of(outlines.start, outlines.first, turns)


def box_areas_of(start, first, turns):
    """Returns the areas [K, T]."""
    charts, count = turns.shape[:2]
    areas = np.empty((charts, count))
    for k in range(charts):
        for t in range(count):
            cosine, sine = turns[k, t, 0], turns[k, t, 1]
            low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
            for s in range(first[k], first[k + 1]):
                x, y = start[s, 0] * cosine - start[s, 1] * sine, start[s, 0] * sine + start[s, 1] * cosine
                low_x, high_x = x if x < low_x else low_x, x if x > high_x else high_x
                low_y, high_y = y if y < low_y else low_y, y if y > high_y else high_y
            areas[k, t] = (high_x - low_x) * (high_y - low_y)
    return areas


def trace_all(start, end, first, turns, scale):
    """Returns the fields of Traces, of every chart in each of its rotations `turns` [K, T, 2]."""
    charts, count = turns.shape[:2]
    ends, size = np.zeros(charts * count + 1, np.int64), np.empty((charts, count, 2), np.int64)
    origin, overlaps = np.empty((charts, count, 2)), np.empty((charts, count), np.bool_)
    found = np.empty((1 << 14, 3), np.int32)
    for k in range(charts):
        a, b = first[k], first[k + 1]
        for t in range(count):
            runs, high, wide, x, y, twice = trace(start[a:b], end[a:b], turns[k, t, 0], turns[k, t, 1], scale)
            n = k * count + t
            ends[n + 1] = ends[n] + len(runs)
            if ends[n + 1] > len(found):
                more = np.empty((2 * ends[n + 1], 3), np.int32)
                _copy_rows(found, more, ends[n], 0)
                found = more
            _copy_rows(runs, found, len(runs), ends[n])
            size[k, t, 0], size[k, t, 1], origin[k, t, 0], origin[k, t, 1] = high, wide, x, y
            overlaps[k, t] = twice
    return found[: ends[-1]].copy(), ends, size, origin, overlaps


def _copy_rows(source, target, count, at):
    """Copies `count` rows of three. A slice is assigned as fast, but numba compiles its error message for seconds."""
    for i in range(count):
        target[at + i, 0], target[at + i, 1], target[at + i, 2] = source[i, 0], source[i, 1], source[i, 2]


def place_all(runs, first, size, order, start, rows, width, gutter, most, turn, place):
    """Returns rows used, as `place_charts`, and writes turn [K] and place [K, 2] int64. start: `low` [K], or empty."""
    used = np.zeros((rows, (width + 63) >> 6), np.uint64)  # one bit per cell
    room = np.full(rows, width, np.int64)  # the longest free run of a row
    reached = np.zeros((BUCKETS, BUCKETS), np.int64)
    count = size.shape[1]
    top = 0
    for n in range(len(order)):
        chart = order[n]
        best, best_top, best_x, best_turn = FAR, FAR, NOWHERE, NOWHERE
        for t in range(count):
            high, wide = size[chart, t, 0], size[chart, t, 1]
            i, j = _bucket(wide), _bucket(high)
            low = start[chart] if len(start) else reached[i, j]
            at = chart * count + t
            last, stride = min(rows - high, best_top - high), 1 + high // TALL
            y, x = _find(used, room, runs[first[at] : first[at + 1]], width, wide, low, last, stride)
            if y == NOWHERE:
                continue
            reached[i, j] = y
            if y + high < best_top or (y + high == best_top and y < best):
                best, best_top, best_x, best_turn = y, y + high, x, t
        if best_turn == NOWHERE or best_top > most:
            return NOWHERE
        turn[chart], place[chart, 0], place[chart, 1] = best_turn, best_x, best
        at = chart * count + best_turn
        _use(used, room, runs[first[at] : first[at + 1]], width, best_x, best, gutter)
        top = max(top, best_top)
    return top


def trace(start, end, cosine, sine, scale):
    """Returns (runs [R, 3] int32, rows, columns, x, y, overlaps), as `reference.trace` and `reference.runs_of`."""
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
    """Returns (spans [N, 2], turns [N, 2]) by row: cells met by a segment; column and change of the winding number."""
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
    """Returns runs [R, 3] int32 of the cells met or wound around, and True if one is wound around twice."""
    runs = np.empty((2 * len(spans), 3), np.int32)
    count, overlaps = 0, False
    for row in range(high):
        first, last = ends[row], ends[row + 1]
        _sort(spans, first, last)
        _sort(turns, first, last)
        begin, n, winding, left = count, first, 0, 0
        # Merges two sorted lists: spans, and intervals between two changes where the winding number is positive.
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
    """Appends left to right to the runs of a row, which start at `begin`, merging with the last ones it touches."""
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


def _find(used, room, runs, width, wide, low, high, stride):
    """Returns the first row from low to high by stride, and column, where the runs are free; then moves down."""
    count = len(runs)
    widest = 0
    for k in range(count):
        if runs[k, 2] - runs[k, 1] > runs[widest, 2] - runs[widest, 1]:
            widest = k
    for y in range(low, high + 1, stride):
        if room[y + runs[widest, 0]] <= runs[widest, 2] - runs[widest, 1]:
            continue
        k, free_runs, x = widest, 0, 0
        while x + wide <= width:
            row, right = y + runs[k, 0], x + runs[k, 2]
            blocked = _next(used, row, x + runs[k, 1], right, NONE)
            if blocked <= right:
                # Skip until this run is past the blocking cells, and test it first: it is likely to be blocked again.
                x, free_runs = _next(used, row, blocked, width - 1, ALL) - runs[k, 1], 0
                continue
            free_runs += 1
            if free_runs == count:
                while y > low and _free(used, runs, x, y - 1):
                    y -= 1
                return y, x
            k = k + 1 if k + 1 < count else 0
    return NOWHERE, NOWHERE


def _next(used, row, left, right, flip):
    """Returns the first used cell of a row from left to right, or free one if flip is ALL; right + 1: none."""
    at = left >> 6
    # Unsigned indices: others are tested for being below zero.
    line = np.uint64(row)
    word = (used[line, np.uint64(at)] ^ flip) & (ALL << np.uint64(left & 63))
    while word == NONE:
        at += 1
        if at << 6 > right:
            return right + 1
        word = used[line, np.uint64(at)] ^ flip
    lowest = LOWEST_BIT[((word & (~word + ONE)) * DE_BRUIJN) >> np.uint64(58)]
    return min((at << 6) + lowest, right + 1)


def _free(used, runs, x, y):
    """Returns whether the runs are free at (x, y)."""
    for k in range(len(runs)):
        right = x + runs[k, 2]
        if _next(used, y + runs[k, 0], x + runs[k, 1], right, NONE) <= right:
            return False
    return True


def _use(used, room, runs, width, x, y, gutter):
    """Marks the runs at (x, y) as used, and the gutter around them."""
    rows = len(used)
    for k in range(len(runs)):
        left, right = max(x + runs[k, 1] - gutter, 0), min(x + runs[k, 2] + gutter, width - 1)
        for row in range(max(y + runs[k, 0] - gutter, 0), min(y + runs[k, 0] + gutter + 1, rows)):
            for at in range(left >> 6, (right >> 6) + 1):
                word = ALL
                if at == left >> 6:
                    word &= ALL << np.uint64(left & 63)
                if at == right >> 6:
                    word &= ALL >> np.uint64(63 - (right & 63))
                used[row, at] |= word
    for row in range(max(y - gutter, 0), min(y + runs[-1, 0] + gutter + 1, rows)):
        longest, at = 0, 0
        while at < width:
            blocked = _next(used, row, at, width - 1, NONE)
            longest = max(longest, blocked - at)
            at = _next(used, row, blocked, width - 1, ALL) if blocked < width else width
        room[row] = longest


_copy_rows = cached_njit(_copy_rows, reference)
_sort = cached_njit(_sort, reference)
_append = cached_njit(_append, reference)
_spans = cached_njit(_spans, reference)
_runs = cached_njit(_runs, reference)
_bucket = cached_njit(_bucket, reference)
_next = cached_njit(_next, reference)
_free = cached_njit(_free, reference)
_find = cached_njit(_find, reference)
_use = cached_njit(_use, reference)
box_areas_of = cached_njit(box_areas_of, reference)
trace = cached_njit(trace, reference)
trace_all = cached_njit(trace_all, reference)
place_all = cached_njit(place_all, reference)
