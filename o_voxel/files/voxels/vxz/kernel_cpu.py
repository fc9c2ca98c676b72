"""numba loops of the .vxz decoder: octree traversal and delta decoding. Imported only when a file is read."""

from __future__ import annotations

import numpy as np

from ....core.kernel_cpu import cached_njit

# Error codes of `walk_octree`.
OVERRUN, CHILDLESS, TRAILING = -1, -2, -3


@cached_njit
def walk_octree(octree: np.ndarray, depth: int, codes: np.ndarray) -> int:
    """Traverses a depth-first octree [B] uint8 with its root at level 0 and its leaves at level `depth` >= 1.

    Writes the first L leaf codes, ascending, to `codes` [L] int64. Returns the number of leaves, or an error code.
    """
    unvisited = np.zeros(depth, np.uint8)
    prefix = np.zeros(depth, np.int64)
    leaves = 0
    position = 0
    level = -1
    entering = True
    while True:
        if entering:
            if position == len(octree):
                return OVERRUN
            level += 1
            unvisited[level] = octree[position]
            position += 1
            if unvisited[level] == 0:
                return CHILDLESS
        while unvisited[level] == 0:
            level -= 1
            if level < 0:
                return leaves if position == len(octree) else TRAILING
        child = 0
        while not unvisited[level] >> child & 1:
            child += 1
        unvisited[level] ^= np.uint8(1 << child)
        code = prefix[level] << 3 | child
        entering = level < depth - 1
        if entering:
            prefix[level + 1] = code
        else:
            if leaves < len(codes):
                codes[leaves] = code
            leaves += 1


@cached_njit
def add_predecessors(stored: np.ndarray, slot: np.ndarray, base: np.ndarray, rows: np.ndarray) -> None:
    """Writes rows[i] = stored[slot[i]] + rows[base[i]] modulo 256, all [N, C] uint8; base[i] < i, or -1 for nothing."""
    for i in range(len(rows)):
        for c in range(rows.shape[1]):
            value = stored[slot[i], c]
            if base[i] >= 0:
                value += rows[base[i], c]
            rows[i, c] = np.uint8(value)
