"""Prediction filters of .vxz attributes: delta coding against an earlier voxel, modulo 256.

The two filters differ in the predecessor: row slot[i] of the file stores the values of voxel i minus those of voxel
base[i] (base < i), or unchanged if base[i] is -1. Voxels are in z-order.  N = voxels, C = channels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .octree import node_positions, split_levels

FILTERS = ("none", "parent", "neighbor")

# Candidate predictors of a voxel, as steps down x, y, z, in decreasing order of preference.
_NEIGHBORS = ((1, 1, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))

# The bits of x, y and z in a z-order code.
_AXIS_BITS = (0x4924924924924924, 0x2492492492492492, 0x1249249249249249)


class Predecessors(NamedTuple):
    """slot: [N] int64, file row of each voxel, a permutation.  base: [N] int64, predecessor, -1 or an earlier voxel."""

    slot: np.ndarray
    base: np.ndarray


def parent_predecessors(codes: np.ndarray, depth: int) -> Predecessors:
    """Returns predecessors along the octree: of a node's first voxel, the first voxel of the previous sibling.

    codes: [N] int64, ascending z-order, N >= 1. Slots follow nodes depth first, then their children from the second.
    """
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
    """Returns as predecessors the existing lower neighbours: the last of -x, -y, -z, -xy, -xz, -yz, -xyz.

    codes: [N] int64, unique, ascending z-order, N >= 1.
    """
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
    """Filters `rows` [N, C] uint8, in z-order of `codes` [N] int64; returns the stored [N, C] uint8."""
    if name == "none":
        return rows
    slot, base = _predecessors(codes, name, depth)
    stored = np.empty_like(rows)
    stored[slot] = rows - np.where(base[:, None] >= 0, rows[base], 0)
    return stored


def undo_filter(stored: np.ndarray, codes: np.ndarray, name: str, depth: int) -> np.ndarray:
    """Inverts `apply_filter`: `stored` [N, C] uint8 to values [N, C] uint8, in z-order of `codes` [N] int64."""
    if name == "none":
        return stored
    from . import kernel_cpu

    rows = np.empty_like(stored)
    kernel_cpu.add_predecessors(stored, *_predecessors(codes, name, depth), rows)
    return rows


def _predecessors(codes: np.ndarray, name: str, depth: int) -> Predecessors:
    return parent_predecessors(codes, depth) if name == "parent" else neighbor_predecessors(codes)
