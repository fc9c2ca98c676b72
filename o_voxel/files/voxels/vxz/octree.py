"""Sparse octree coding: one byte per node, depth first, root first; bit i is set if child i (3-bit code) exists.

Leaves are voxels of a cube of 2**depth per side, identified by ascending z-order codes (z lowest bit). Every node has a
child, so the encoding of a voxel set is unique.  N = voxels.
"""

from __future__ import annotations

import numpy as np


def split_levels(codes: np.ndarray, depth: int) -> np.ndarray:
    """Returns the level [N] int64 of the lowest common ancestor of each voxel and the one before it.

    codes: [N] int64, ascending. Level 0 is the root. The first voxel gets -1.
    """
    levels = np.full(len(codes), -1, np.int64)
    highest_bit = np.frexp((codes[1:] ^ codes[:-1]).astype(np.float64))[1] - 1
    levels[1:] = depth - 1 - highest_bit // 3
    return levels


def node_positions(levels: np.ndarray, depth: int) -> np.ndarray:
    """Returns the byte offset [N] int64 of each voxel's new nodes, given its `split_levels` [N] int64.

    New nodes run from level levels + 1 to depth - 1; a voxel that shares its last node with the one before has none.
    """
    new_nodes = depth - 1 - levels
    return np.cumsum(new_nodes) - new_nodes


def encode_octree(codes: np.ndarray, depth: int) -> np.ndarray:
    """Encodes unique, ascending z-order `codes` [N] int64 below 8**depth, N >= 1, as octree [B] uint8. Vectorised."""
    levels = split_levels(codes, depth)
    first = node_positions(levels, depth)
    octree = np.empty(int(first[-1] + depth - 1 - levels[-1]), np.uint8)
    for level in range(depth):
        children = np.flatnonzero(levels <= level)
        starts = np.flatnonzero(levels[children] < level)
        bits = np.left_shift(1, codes[children] >> 3 * (depth - 1 - level) & 7)
        owners = children[starts]
        octree[first[owners] + level - 1 - levels[owners]] = np.add.reduceat(bits, starts)
    return octree


def count_leaves(octree: np.ndarray, depth: int) -> int:
    """Counts the voxels of `octree` [B] uint8 without allocating them, so that a caller can reject too many.

    Raises ValueError unless `octree` is a valid octree of at least one voxel.
    """
    from . import kernel_cpu

    count = kernel_cpu.walk_octree(octree, depth, np.empty(0, np.int64))
    problems = {
        kernel_cpu.OVERRUN: "octree ends before its last node",
        kernel_cpu.CHILDLESS: "octree has a node without children",
        kernel_cpu.TRAILING: "octree goes on after its last node",
    }
    if count in problems:
        raise ValueError(problems[count])
    return count


def decode_octree(octree: np.ndarray, depth: int, count: int) -> np.ndarray:
    """Decodes a valid `octree` [B] uint8 to its N = `count` (`count_leaves`) z-order codes [N] int64, ascending."""
    from . import kernel_cpu

    codes = np.empty(count, np.int64)
    kernel_cpu.walk_octree(octree, depth, codes)
    return codes
