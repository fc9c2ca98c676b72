"""Sparse octrees as bytes: depth first, bit i of a node's byte set when it has a child with 3-bit code i, root first.

Leaves are voxels of a cube of 2**depth a side, named by their z-order codes (z lowest), ascending. Every node has a
child, so a set of voxels has exactly one octree.  N = voxels.
"""

from __future__ import annotations

import numpy as np


def split_levels(codes: np.ndarray, depth: int) -> np.ndarray:
    """For each of the ascending `codes` [N] int64, the level [N] int64 of the node where it parts from the one before.

    Level 0 is the root; a child of that node holds the voxel as its first. The first voxel gets -1.
    """
    levels = np.full(len(codes), -1, np.int64)
    highest_bit = np.frexp((codes[1:] ^ codes[:-1]).astype(np.float64))[1] - 1
    levels[1:] = depth - 1 - highest_bit // 3
    return levels


def node_positions(levels: np.ndarray, depth: int) -> np.ndarray:
    """Where in the octree's bytes [N] int64 each voxel's new nodes begin, given its `split_levels`; they are in order,
    from level levels + 1 down to depth - 1, and a voxel that shares its last node with the one before has none."""
    new_nodes = depth - 1 - levels
    return np.cumsum(new_nodes) - new_nodes


def encode_octree(codes: np.ndarray, depth: int) -> np.ndarray:
    """The octree [B] uint8 of N >= 1 unique, ascending z-order `codes` [N] int64 below 8**depth. Vectorised over N."""
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
    """The number of voxels in `octree` [B] uint8, without making room for them, so that a caller can refuse too many.

    Raises ValueError when `octree` is not exactly the octree of one voxel or more.
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
    """Z-order codes [count] int64, ascending, of a valid `octree` [B] uint8 with `count` leaves (`count_leaves`)."""
    from . import kernel_cpu

    codes = np.empty(count, np.int64)
    kernel_cpu.walk_octree(octree, depth, codes)
    return codes
