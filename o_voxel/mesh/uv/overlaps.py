"""Which charts lie over themselves: told by their borders, where no face is turned over.

A connected layout without turned faces covers each point of the plane as often as its borders wind around it. Borders
that do not cross, one loop of them counter-clockwise around all the others, wind around no point twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.exact_sums import scatter_sums
from ...ops.connected_components import connected

CELL_LENGTHS = 1.5  # of a grid cell, in mean segment lengths of its chart
MOST_CELLS = 24  # that the longest segment may span
PAIRS_A_STEP = 1 << 22
LOW_BITS = 21
LEAST_AREA = 1e-12  # of a loop: less comes from rounding


def find_overlaps(position: Tensor, start: Tensor, end: Tensor, chart: Tensor, charts: int) -> Tensor:
    """Border segments [B] bool that make a chart lie over itself: they cross, or run around a second loop.

    position: [U, 2] float64, lengths about 1.  start, end: [B] int64, rows of `position`, each once.  chart: [B] int64,
    below 2^21. Of counter-clockwise loops the largest of a chart is its outline, any other a second one. O(B) where
    segments are about as long as their neighbours. Deterministic.
    """
    if not len(start):
        return torch.zeros_like(start, dtype=torch.bool)
    segment = torch.arange(len(start), device=start.device)
    by_start = torch.zeros(len(position), dtype=torch.int64, device=start.device).scatter_(0, start, segment)
    loop = connected(len(start), segment, by_start[end])
    p, q = position[start], position[end]
    area = scatter_sums((p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1])[:, None], loop, len(start))[loop, 0]
    largest = torch.zeros(charts, dtype=area.dtype, device=area.device).scatter_reduce_(0, chart, area, "amax")
    return crossing_segments(position, start, end, chart, charts) | ((area > LEAST_AREA) & (area < largest[chart]))


def crossing_segments(position: Tensor, start: Tensor, end: Tensor, chart: Tensor, charts: int) -> Tensor:
    """Segments [B] bool, B >= 1, that cross another of their chart without sharing an end. As `find_overlaps`."""
    found = torch.zeros_like(start, dtype=torch.bool)
    key, segment = _cells(position, start, end, chart, charts)
    key, order = key.sort(stable=True)
    segment = segment[order]
    row = torch.arange(len(key), device=key.device)
    later = torch.searchsorted(key, key, right=True) - row - 1
    ends = later.cumsum(0)
    total = int(ends[-1])
    for begin in range(0, total, PAIRS_A_STEP):
        item = torch.arange(begin, min(begin + PAIRS_A_STEP, total), device=key.device)
        first = torch.searchsorted(ends, item, right=True)
        second = first + 1 + item - (ends[first] - later[first])
        i, j = segment[first], segment[second]
        hit = _cross(position, start[i], end[i], start[j], end[j]).nonzero().squeeze(1)
        found[i[hit]] = found[j[hit]] = True
    return found


def _cells(position: Tensor, start: Tensor, end: Tensor, chart: Tensor, charts: int) -> tuple[Tensor, Tensor]:
    """(key of the cell, segment) [N] int64 for every cell of its chart's grid that a segment's box meets."""
    p, q = position[start], position[end]
    low, high = torch.minimum(p, q), torch.maximum(p, q)
    span = (high - low).amax(dim=1)
    longest = span.new_zeros(charts).scatter_reduce_(0, chart, span, "amax")
    fixed = (span / longest[chart].clamp(min=1e-300) * 2**32).to(torch.int64)
    total = torch.zeros(charts, dtype=torch.int64, device=chart.device).index_add_(0, chart, fixed)
    mean = longest * total.to(span.dtype) / 2**32 / torch.bincount(chart, minlength=charts).clamp(min=1)
    cell = torch.maximum(mean * CELL_LENGTHS, longest / MOST_CELLS).clamp(min=1e-300)[chart, None]
    corner = low.new_full((charts, 2), torch.inf).scatter_reduce_(0, chart[:, None].expand(-1, 2), low, "amin")[chart]
    first = ((low - corner) / cell).long().clamp(max=(1 << LOW_BITS) - 1)
    size = ((high - corner) / cell).long().clamp(max=(1 << LOW_BITS) - 1) - first + 1
    number = size.prod(dim=1)
    segment = torch.repeat_interleave(torch.arange(len(start), device=chart.device), number)
    offset = torch.arange(len(segment), device=chart.device) - (number.cumsum(0) - number)[segment]
    x, y = first[segment, 0] + offset % size[segment, 0], first[segment, 1] + offset // size[segment, 0]
    return (((chart[segment] << LOW_BITS) | x) << LOW_BITS) | y, segment


def _cross(position: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Whether segments a b and c d cross [N] bool; all [N] int64 rows of `position`."""
    apart = (a != c) & (a != d) & (b != c) & (b != d)
    p, q, r, s = (position[end] for end in (a, b, c, d))
    return apart & (_side(p, q, r) * _side(p, q, s) < 0) & (_side(r, s, p) * _side(r, s, q) < 0)


def _side(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Twice the signed area [N] of triangles a b c."""
    u, w = b - a, c - a
    return u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]
