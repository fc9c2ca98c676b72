"""The .vxz filters: each voxel's values are stored as a difference from an earlier voxel's, modulo 256.

Both filters are the same arithmetic over other links: voxel i is in row slot[i] of the file, as its values minus those
of voxel base[i] (base < i), or as they are where base[i] is -1. Voxels are in z-order.  N = voxels, C = channels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .octree import node_positions, split_levels

FILTERS = ("none", "parent", "neighbor")

# Neighbours that may predict a voxel, as steps down x, y, z, in falling order of preference.
_NEIGHBORS = ((1, 1, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))

# The bits of x, y and z in a z-order code.
_AXIS_BITS = (0x4924924924924924, 0x2492492492492492, 0x1249249249249249)


class Predecessors(NamedTuple):
    """slot: [N] int64, a permutation.  base: [N] int64, -1 or an earlier voxel."""

    slot: np.ndarray
    base: np.ndarray


def parent_predecessors(codes: np.ndarray, depth: int) -> Predecessors:
    """Links along the octree of ascending z-order `codes` [N] int64, N >= 1: from the first voxel of a child to the
    first voxel of the sibling before it. Nodes in depth-first order, each followed by its second to last child."""
    levels = split_levels(codes, depth)
    first = node_positions(levels, depth)
    parent = np.zeros(len(codes), np.int64)
    base = np.full(len(codes), -1, np.int64)
    for level in range(depth):
        children = np.flatnonzero(levels <= level)
        begins = levels[children] < level
        owners = children[begins]
        position = (first[owners] + level - 1 - levels[owners])[np.cumsum(begins) - 1]
        later = np.flatnonzero(~begins)
        parent[children[later]] = position[later]
        base[children[later]] = children[later - 1]
    slot = np.zeros(len(codes), np.int64)
    slot[1 + np.argsort(parent[1:], kind="stable")] = np.arange(1, len(codes))
    return Predecessors(slot, base)


def neighbor_predecessors(codes: np.ndarray) -> Predecessors:
    """Links from each voxel to its neighbour one step down in x, y, z or several of them, if there is one: of those
    that exist, the last of -x, -y, -z, -xy, -xz, -yz, -xyz. codes: [N] int64, unique, ascending z-order, N >= 1."""
    base = np.full(len(codes), -1, np.int64)
    unlinked = np.arange(len(codes))
    for steps in _NEIGHBORS:
        wanted = codes[unlinked]
        exists = np.ones(len(unlinked), bool)
        for bits, lowest, step in zip(_AXIS_BITS, (4, 2, 1), steps, strict=True):
            if step:
                exists &= wanted & bits != 0
                wanted = (wanted & bits) - lowest & bits | wanted & ~bits
        found = np.searchsorted(codes, wanted)
        exists &= codes[np.minimum(found, len(codes) - 1)] == wanted
        base[unlinked[exists]] = found[exists]
        unlinked = unlinked[~exists]
    return Predecessors(np.arange(len(codes)), base)


def apply_filter(rows: np.ndarray, codes: np.ndarray, name: str, depth: int) -> np.ndarray:
    """What a file with filter `name` stores, [N, C] uint8, for the voxels' values `rows` [N, C] uint8 in z-order."""
    if name == "none":
        return rows
    slot, base = _predecessors(codes, name, depth)
    stored = np.empty_like(rows)
    stored[slot] = rows - np.where(base[:, None] >= 0, rows[base], 0)
    return stored


def undo_filter(stored: np.ndarray, codes: np.ndarray, name: str, depth: int) -> np.ndarray:
    """The voxels' values [N, C] uint8 in z-order, from what `apply_filter` made for the same voxels."""
    if name == "none":
        return stored
    from . import kernel_cpu

    rows = np.empty_like(stored)
    kernel_cpu.add_predecessors(stored, *_predecessors(codes, name, depth), rows)
    return rows


def _predecessors(codes: np.ndarray, name: str, depth: int) -> Predecessors:
    return parent_predecessors(codes, depth) if name == "parent" else neighbor_predecessors(codes)
