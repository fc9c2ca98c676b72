"""Scan conversion of triangles to (voxel, triangle) pairs in plain torch, over slabs of rows.

Along each axis, every grid line that crosses a triangle touches the four voxels around it. Positions are float64;
grid planes are float32 products, as in the original. Crossings outside the grid are dropped (the original keeps
those up to a voxel below it).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...core.progress import Progress
from .scene import Scene

# Triangles per step, and keys buffered before duplicates are merged.
TRIANGLES = 1 << 20
PENDING = 1 << 25


def triangle_voxel_pairs(scene: Scene, slab: int, report: Progress) -> Tensor:
    """Returns keys [P] int64, ascending and unique, of all touching pairs of voxels and triangles [F, 3, 3].

    key: voxel << tri_bits | triangle, with voxel = (x * Y + y) * Z + z.  slab: grid lines per step, bounds the memory.
    """
    parts: list[Tensor] = [torch.zeros(0, dtype=torch.int64, device=scene.device)]
    pending = 0
    for first in range(0, len(scene.triangles), TRIANGLES):
        corners = scene.triangles[first : first + TRIANGLES].to(torch.float64)
        for axis in range(3):
            for keys in _scan_axis(scene, corners, first, axis, slab):
                parts.append(keys)
                pending += len(keys)
                if pending > PENDING:
                    parts, pending = [sorted_unique(torch.cat(parts))], 0
        report(min(1.0, (first + TRIANGLES) / len(scene.triangles)))
    return sorted_unique(torch.cat(parts))


def sorted_unique(keys: Tensor) -> Tensor:
    """Returns the distinct non-negative values of `keys` [K] int64, ascending."""
    keys = keys.sort().values
    fresh = torch.cat((keys[:1] == keys[:1], keys[1:] != keys[:-1]))
    return keys[fresh & (keys >= 0)]


def cuts(ends: Tensor, budget: int) -> list[tuple[int, int, int, int]]:
    """Returns slabs (first, last, items before, items) of runs with the cumulative counts `ends` [N] int64.

    A slab exceeds `budget` items by at most its longest run. Two host synchronisations.
    """
    if len(ends) == 0:
        return []
    total = int(ends[-1])
    targets = torch.arange(1, max(1, -(-total // budget)), device=ends.device) * budget
    last = torch.unique_consecutive(torch.cat((torch.searchsorted(ends, targets) + 1, targets.new_tensor([len(ends)]))))
    edges = [(0, 0), *zip(*torch.stack((last, ends[last - 1])).tolist(), strict=True)]
    pairs = zip(edges[:-1], edges[1:], strict=True)
    return [(i, j, before, after - before) for (i, before), (j, after) in pairs]


def _scan_axis(scene: Scene, corners: Tensor, first: int, axis: int, slab: int) -> Iterator[Tensor]:
    """Yields keys [K] int64, -1 for none, of the grid lines along `axis` that cross `corners` [n, 3, 3] float64."""
    order = ((axis + 1) % 3, (axis + 2) % 3, axis)
    size = scene.voxel_size[list(order)]
    count = [scene.shape[a] for a in order]
    points = corners[..., order]
    by_y = points[..., 1].argsort(dim=1, stable=True)
    points = points.gather(1, by_y[..., None].expand(-1, -1, 3))
    low, mid, high = _cell(points[..., 1], size[1], count[1]).unbind(1)
    rows = (high - low).cumsum(0)
    for i, j, before, n_rows in cuts(rows, slab):
        t, row = _expand(low, high - low, rows, (i, j, before, n_rows))
        left, right = _row_ends(points[t], row < mid[t], _line(row, size[1]))
        start, stop = (_cell(end[:, 0], size[0], count[0]) for end in (left, right))
        lines = (stop - start).cumsum(0)
        for piece in cuts(lines, slab):
            r, column = _expand(start, stop - start, lines, piece)
            height = _mix(left[r, 0], right[r, 0], _line(column, size[0]), left[r, 1], right[r, 1])
            height = height / size[2]
            inside = (height >= 0) & (height < count[2])
            cell = torch.stack((column, row[r], height.clamp(0, count[2] - 1).to(torch.int64)), 1)
            yield _keys(scene, order, cell, inside, first + t[r])


def _keys(scene: Scene, order: tuple[int, int, int], cell: Tensor, inside: Tensor, triangle: Tensor) -> Tensor:
    """Returns keys [4 n] of the four voxels around each crossing: `cell` [n, 3] in `order` and its upper neighbours."""
    strides = [(scene.shape[1] * scene.shape[2], scene.shape[2], 1)[a] for a in order]
    base = cell[:, 0] * strides[0] + cell[:, 1] * strides[1] + cell[:, 2] * strides[2]
    offsets = torch.tensor([0, strides[1], strides[0], strides[0] + strides[1]], device=base.device)
    keys = (base[:, None] + offsets) << scene.tri_bits | triangle[:, None]
    return torch.where(inside[:, None], keys, -1).flatten()


def _row_ends(points: Tensor, upper: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns where rows at `y` [n] enter and leave triangles `points` [n, 3, 3]: [n, 2] (x, height) left and right.

    upper: [n] bool, the row lies between the first and second corner, else between the second and third.
    """
    apex = torch.where(upper[:, None], points[:, 0], points[:, 2])
    far = torch.where(upper[:, None], points[:, 2], points[:, 0])
    ends = [_mix(apex[:, 1:2], other[:, 1:2], y[:, None], apex[:, ::2], other[:, ::2]) for other in (points[:, 1], far)]
    swap = (ends[0][:, 0] > ends[1][:, 0])[:, None]
    return torch.where(swap, ends[1], ends[0]), torch.where(swap, ends[0], ends[1])


def _mix(a: Tensor, b: Tensor, at: Tensor, value_a: Tensor, value_b: Tensor) -> Tensor:
    """Interpolates the line through (a, value_a) and (b, value_b) at `at`; value_a where a = b."""
    alpha = (at - a) / (b - a)
    return torch.where(a == b, value_a, (1 - alpha) * value_a + alpha * value_b)


def _cell(position: Tensor, size: Tensor, count: int) -> Tensor:
    """Returns cells int64 of float64 positions, clamped into the grid."""
    return (position / size).clamp(0, count - 1).to(torch.int64)


def _line(cell: Tensor, size: Tensor) -> Tensor:
    """Returns the float64 position of the upper plane of cells int64."""
    return ((cell + 1).to(torch.float32) * size).to(torch.float64)


def _expand(start: Tensor, count: Tensor, ends: Tensor, piece: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """Returns (run, value), [items] each: every run r in first to last, repeated for start[r], start[r] + 1, ..."""
    first, last, before, items = piece
    run = torch.arange(first, last, device=start.device).repeat_interleave(count[first:last], output_size=items)
    place = torch.arange(before, before + items, device=start.device)
    return run, start[run] + place - (ends - count)[run]
