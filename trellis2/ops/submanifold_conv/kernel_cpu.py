"""Submanifold convolution in numba: only the neighbours that exist, only the children that exist, on all of torch's
threads.

The reference gathers all 27 neighbours of a row, of which a surface has 9 to 15, and computes all eight children of a
parent, of which it has about four. Here a block of rows is summed tap by tap: the rows that have a neighbour there are
taken two at a time, so that a weight is read once for both. Floor: 2 C D operations for each neighbour that exists.

Indices are unsigned: with signed ones numba adds a test for negative ones, and the inner loop stays scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numba import uint64
from torch import Tensor
from torch.nn import functional as F

from ....o_voxel.core.kernel_cpu import cached_njit

TAPS = 27
# Channels are padded to multiples of this: terms of a sum that are added at once.
GROUP = 8
# Rows that share a block's sums: of all rows, and where each has one of eight sections of the weight.
ROWS, CHILD_ROWS = 256, 2048
# Rows of a task.
TASK_ROWS = 1 << 14
# Channels of a tile of the weight: 16 KiB, half of a first-level cache.
TILE = 64

_compiled = partial(cached_njit, error_model="numpy")


def convolve(
    feats: Tensor,
    neighbors: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    parent: Tensor | None = None,
    child: Tensor | None = None,
) -> Tensor:
    """See the package's `submanifold_conv`: feats [N, C] float32 to [n, D]; with parent and child, [M] int64 both, its
    `child_conv` to [M, D]."""
    sections = 1 if child is None else 8
    rows, channels, width = len(neighbors if parent is None else parent), feats.shape[1], len(weight) // sections
    pad = -channels % GROUP, -width % GROUP
    taps = weight.reshape(sections, width, TAPS, channels).permute(0, 2, 3, 1)
    taps = F.pad(taps, (0, pad[1], 0, pad[0])).contiguous()
    offset = feats.new_zeros(sections, width) if bias is None else bias.reshape(sections, width)
    offset = F.pad(offset, (0, pad[1])).contiguous()
    feats = F.pad(feats, (0, pad[0])) if pad[0] else feats.contiguous()
    parent = torch.arange(rows) if parent is None else parent.contiguous()
    child = torch.zeros(rows, dtype=torch.int64) if child is None else child.contiguous()
    out = torch.empty(rows, width + pad[1])
    arrays = tuple(t.detach().numpy() for t in (feats, neighbors.contiguous(), taps, offset, parent, child, out))
    block = ROWS if sections == 1 else CHILD_ROWS
    _in_tasks(lambda start, stop: convolve_range(*arrays, start, stop, block), rows)
    return out[:, :width].contiguous() if pad[1] else out


def child_neighbors(neighbors: Tensor, parent: Tensor, child: Tensor, rows: Tensor) -> Tensor:
    """See the package's `child_neighbors`: neighbors [N, 27] int32, rows [N, 8] int32, to [M, 27] int32."""
    out = torch.empty(len(parent), TAPS, dtype=torch.int32)
    arrays = tuple(t.contiguous().numpy() for t in (neighbors, parent, child, rows))
    found = out.numpy()
    _in_tasks(lambda start, stop: child_neighbors_range(*arrays, found, start, stop), len(parent))
    return out


def _in_tasks(work: Callable[[int, int], None], rows: int) -> None:
    """Calls work(start, stop) for all of `rows`, on torch's threads."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(lambda start: work(start, min(start + TASK_ROWS, rows)), range(0, rows, TASK_ROWS)))


@partial(_compiled, inner=True, fastmath={"contract"})
def add_two(feats, i, j, weight, tile, out, a, b):
    """Adds weight [C, D] times the rows i and j of feats [N, C] to the rows a and b of out, within a tile (first and
    last channel of C, of D)."""
    first, last, start, stop = tile
    one = uint64(1)
    for group in range(first // uint64(GROUP), last // uint64(GROUP)):
        c = uint64(group * uint64(GROUP))
        c1, c2, c3, c4 = c + one, c + uint64(2), c + uint64(3), c + uint64(4)
        c5, c6, c7 = c + uint64(5), c + uint64(6), c + uint64(7)
        p0, p1, p2, p3 = feats[i, c], feats[i, c1], feats[i, c2], feats[i, c3]
        p4, p5, p6, p7 = feats[i, c4], feats[i, c5], feats[i, c6], feats[i, c7]
        q0, q1, q2, q3 = feats[j, c], feats[j, c1], feats[j, c2], feats[j, c3]
        q4, q5, q6, q7 = feats[j, c4], feats[j, c5], feats[j, c6], feats[j, c7]
        for k in range(start, stop):
            w0, w1, w2, w3 = weight[c, k], weight[c1, k], weight[c2, k], weight[c3, k]
            w4, w5, w6, w7 = weight[c4, k], weight[c5, k], weight[c6, k], weight[c7, k]
            out[a, k] = out[a, k] + p0 * w0 + p1 * w1 + p2 * w2 + p3 * w3 + p4 * w4 + p5 * w5 + p6 * w6 + p7 * w7
            out[b, k] = out[b, k] + q0 * w0 + q1 * w1 + q2 * w2 + q3 * w3 + q4 * w4 + q5 * w5 + q6 * w6 + q7 * w7


@_compiled
def convolve_range(feats, neighbors, weight, bias, parent, child, out, start, stop, block):
    """Writes the rows start to stop of out [M, D]: of row m, neighbours of parent[m], section child[m] of weight [S,
    27, C, D] and bias [S, D]. block: rows whose sums are held at a time."""
    sections, _, channels, width = weight.shape
    sums = np.empty((block + 1, width), np.float32)  # the last row takes what is summed with an odd one
    members, spots, sources = np.empty((3, block + 1), np.int64)
    for first in range(start, stop, block):
        count = min(block, stop - first)
        for section in range(sections):
            size = 0
            for row in range(count):
                if child[first + row] == section:
                    members[size] = row
                    size += 1
                    for d in range(width):  # assigning a row, numba compiles its error message, for seconds
                        sums[row, d] = bias[section, d]
            for tap in range(TAPS):
                found = 0
                for at in range(size):
                    near = neighbors[parent[first + members[at]], tap]
                    if near >= 0:
                        spots[found], sources[found] = members[at], near
                        found += 1
                if found & 1:
                    spots[found], sources[found] = block, sources[found - 1]
                for c in range(0, channels, TILE):
                    for d in range(0, width, TILE):
                        tile = uint64(c), uint64(min(c + TILE, channels)), uint64(d), uint64(min(d + TILE, width))
                        for pair in range(0, found, 2):
                            i, j = uint64(sources[pair]), uint64(sources[pair + 1])
                            a, b = uint64(spots[pair]), uint64(spots[pair + 1])
                            add_two(feats, i, j, weight[section, tap], tile, sums, a, b)
        for row in range(count):
            for d in range(width):
                out[first + row, d] = sums[row, d]


@_compiled
def child_neighbors_range(neighbors, parent, child, rows, out, start, stop):
    """Writes the rows start to stop of the map [M, 27] of the children, see `child_neighbors`."""
    for m in range(start, stop):
        x, y, z = child[m] & 1, child[m] >> 1 & 1, child[m] >> 2 & 1
        for tap in range(TAPS):
            # 1 to 4: half of it is the parent's step plus one, its parity the neighbour's place among its siblings.
            i, j, k = x + tap // 9 + 1, y + tap // 3 % 3 + 1, z + tap % 3 + 1
            near = neighbors[parent[m], i // 2 * 9 + j // 2 * 3 + k // 2]
            out[m, tap] = rows[near, (i & 1) + 2 * (j & 1) + 4 * (k & 1)] if near >= 0 else -1
