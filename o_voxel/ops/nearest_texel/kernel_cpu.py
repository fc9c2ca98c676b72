"""Nearest-texel transform in numba: one sweep down and one up, then outward along each row."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ...core.kernel_cpu import cached_njit
from .reference import NOWHERE

ROWS_A_TASK = 32


def nearest_cpu(covered: Tensor) -> Tensor:
    """Returns texel numbers [H, W] int32 of the mask `covered` [H, W] bool."""
    mask = covered.contiguous().numpy()
    rows, found = np.empty(mask.shape, np.int32), np.empty(mask.shape, np.int32)
    find_rows(mask, rows)

    def search(first: int) -> None:
        find_columns(rows, first, min(first + ROWS_A_TASK, len(rows)), found)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(search, range(0, len(rows), ROWS_A_TASK)))
    return torch.from_numpy(found)


@cached_njit
def find_rows(covered, rows):
    """Writes reference.nearest_rows [H, W] int32."""
    height, width = covered.shape
    for x in range(width):
        rows[0, x] = 0 if covered[0, x] else -1
    for y in range(1, height):
        for x in range(width):
            rows[y, x] = y if covered[y, x] else rows[y - 1, x]
    for y in range(height - 2, -1, -1):
        for x in range(width):
            below, above = rows[y + 1, x], rows[y, x]
            # `below` is a row above this texel if nothing is covered further down.
            if below > y and (above < 0 or below - y < y - above):
                rows[y, x] = below


@cached_njit
def find_columns(rows, first, last, found):
    """Writes rows first to last of reference.nearest_columns [H, W] int32."""
    width = rows.shape[1]
    for y in range(first, last):
        for x in range(width):
            row = rows[y, x]
            best = NOWHERE * NOWHERE if row < 0 else (row - y) * (row - y)
            texel = -1 if row < 0 else row * width + x
            step = 1
            while step * step < best and step < width:
                for column in (x - step, x + step):
                    if 0 <= column < width and rows[y, column] >= 0:
                        row = rows[y, column]
                        square = (row - y) * (row - y) + step * step
                        if square < best:
                            best, texel = square, row * width + column
                step += 1
            found[y, x] = texel
