"""Trilinear sampling in numba: one binary search per column of two voxels, on all of torch's threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...core.kernel_cpu import cached_njit
from ..hash_grid import HashGrid
from ..hash_grid.reference import AXIS_BITS, AXIS_LIMIT

QUERIES_A_TASK = 1 << 14

_compiled = partial(cached_njit, error_model="numpy")


def trilinear_cpu(feats: Tensor, index: HashGrid, points: Tensor) -> tuple[Tensor, Tensor]:
    """As reference.trilinear: (values [Q, C], reached [Q] bool). index: sorted keys, as built on the CPU."""
    values = np.zeros((len(points), feats.shape[1]), np.float32)
    reached = np.zeros(len(points), np.bool_)
    table = index.keys.numpy(), index.rows.numpy(), feats.float().contiguous().numpy()
    queries = points.contiguous().numpy()

    def sample(start: int) -> None:
        span = slice(start, start + QUERIES_A_TASK)
        sample_range(*table, queries[span], values[span], reached[span])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(sample, range(0, len(queries), QUERIES_A_TASK)))
    return torch.from_numpy(values).to(feats.dtype), torch.from_numpy(reached)


@_compiled
def sample_range(keys, rows, feats, points, values, reached):
    """Writes the values [Q, C] and flags [Q] of points [Q, 3] float32."""
    half, one = np.float32(0.5), np.float32(1)
    # Key and slot of each column at the previous query: consecutive queries share most columns.
    last_key, last_slot = np.full(4, -1, np.int64), np.zeros(4, np.int64)
    for q in range(len(points)):
        x, y, z = points[q, 0] - half, points[q, 1] - half, points[q, 2] - half
        low = min(np.floor(x), np.floor(y), np.floor(z))
        # Also False for NaN.
        if not (low >= -1 and max(x, y, z) < AXIS_LIMIT):
            continue
        i, j, k = np.int64(np.floor(x)), np.int64(np.floor(y)), np.int64(np.floor(z))
        fx, fy, fz = x - np.float32(i), y - np.float32(j), z - np.float32(k)
        total = np.float32(0)
        for column in range(4):
            cx, cy = i + (column >> 1), j + (column & 1)
            if cx < 0 or cy < 0 or cx >= AXIS_LIMIT or cy >= AXIS_LIMIT:
                continue
            base = (cx << AXIS_BITS | cy) << AXIS_BITS
            first = base | max(k, 0)
            if last_key[column] != first:
                last_key[column], last_slot[column] = first, np.searchsorted(keys, first)
            slot = last_slot[column]
            side = (fx if column >> 1 else one - fx) * (fy if column & 1 else one - fy)
            for step in range(2):
                key = base | (k + step)
                if k + step < 0 or k + step >= AXIS_LIMIT:
                    continue
                while slot < len(keys) and keys[slot] < key:
                    slot += 1
                if slot < len(keys) and keys[slot] == key:
                    weight = side * (fz if step else one - fz)
                    total += weight
                    for c in range(feats.shape[1]):
                        values[q, c] += weight * feats[rows[slot], c]
        if total > 0:
            reached[q] = True
            for c in range(feats.shape[1]):
                values[q, c] /= total
