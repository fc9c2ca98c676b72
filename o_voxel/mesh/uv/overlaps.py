"""Self-overlap detection of UV charts from their borders, for charts without flipped faces.

The winding number of its borders gives how often a chart without flipped faces covers a point. It is at most one if the
borders do not cross and there is a single counter-clockwise loop, around all others.

Letters: B border segments, U UV vertices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.exact_sums import scatter_sums
from ...ops.connected_components import connected

CELL_LENGTHS = 1.5  # side of a grid cell, in mean segment lengths of its chart
MOST_CELLS = 24  # cells spanned by the longest segment, at most
PAIRS_A_STEP = 1 << 22
LOW_BITS = 21
LEAST_AREA = 1e-12  # loop areas below this are rounding errors


def find_overlaps(position: Tensor, start: Tensor, end: Tensor, chart: Tensor, charts: int) -> Tensor:
    """Mask [B] bool of border segments that make their chart overlap itself: crossing, or in a second outer loop.

    position: [U, 2] float64, lengths about 1.  start, end: [B] int64, rows of `position`, each once.  chart: [B] int64,
    below 2^21. The largest counter-clockwise loop of a chart is its outline; any other one is an overlap. O(B) if
    adjacent segments have similar lengths. Deterministic.
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
    """Mask [B] bool, B >= 1, of segments that cross another one of their chart without a common end (uniform grid).

    Arguments as `find_overlaps`: position [U, 2] float64; start, end, chart [B] int64.
    """
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
    """(cell key [N], segment [N]) int64 for every cell of its chart's grid that a segment's bounding box overlaps."""
    ends = position[torch.stack((start, end))]
    low, high = ends.amin(0), ends.amax(0)
    span = (high - low).amax(dim=1)
    longest = span.new_zeros(charts).scatter_reduce_(0, chart, span, "amax")
    fixed = (span / longest[chart].clamp(min=1e-300) * 2**32).to(torch.int64)
    total = torch.zeros(charts, dtype=torch.int64, device=chart.device).index_add_(0, chart, fixed)
    mean = longest * total.to(span.dtype) / 2**32 / torch.bincount(chart, minlength=charts).clamp(min=1)
    cell = torch.maximum(mean * CELL_LENGTHS, longest / MOST_CELLS).clamp(min=1e-300)[chart, None]
    corner = low.new_full((charts, 2), torch.inf).scatter_reduce_(0, chart[:, None].expand(-1, 2), low, "amin")[chart]
    first, last = ((torch.stack((low, high)) - corner) / cell).long().clamp(max=(1 << LOW_BITS) - 1)
    size = last - first + 1
    number = size.prod(dim=1)
    segment = torch.repeat_interleave(number)
    offset = torch.arange(len(segment), device=chart.device) - (number.cumsum(0) - number)[segment]
    x, y = first[segment].unbind(dim=1)
    wide = size[segment, 0]
    return (((chart[segment] << LOW_BITS) | (x + offset % wide)) << LOW_BITS) | (y + offset // wide), segment


def _cross(position: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Mask [N] bool: do segments a-b and c-d cross? a, b, c, d: [N] int64, rows of `position` [U, 2]."""
    rows = torch.stack((a, b, c, d)).view(2, 2, -1)
    apart = rows[0][:, None] != rows[1]
    places = position[rows]
    along = places[:, 1] - places[:, 0]
    # Both ends of the other segment, from each segment's start; then twice the signed area of their triangles.
    other = places.flip(0) - places[:, :1]
    side = along[:, None, :, 0] * other[..., 1] - along[:, None, :, 1] * other[..., 0]
    across = side[:, 0] * side[:, 1] < 0
    return apart[0, 0] & apart[0, 1] & apart[1, 0] & apart[1, 1] & across[0] & across[1]
