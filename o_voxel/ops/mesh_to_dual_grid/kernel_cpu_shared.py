"""Voxel bit sets of the numba kernels of this op.

A slab's voxels are bits of uint64 words in coordinate order; each row of voxels along z begins a word.
"""

from __future__ import annotations

import numpy as np

from ...core.kernel_cpu import cached_njit


@cached_njit
def popcount(word):
    """Returns the set bits of a uint64; LLVM recognises the idiom."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@cached_njit
def count_ranks(bits, ranks):
    """Fills `ranks` [W] with the number of set bits before each word of `bits` [W]; returns the number of voxels."""
    total = 0
    for i in range(len(bits)):
        ranks[i] = total
        if bits[i] != 0:
            total += popcount(bits[i])
    return total


@cached_njit
def write_coords(bits, low, stride, coords):
    """Fills `coords` [N, 3]. low: first layer; stride: bits from a voxel to the next along x, y and z."""
    row = 0
    for i in range(len(bits)):
        word = bits[i]
        while word != 0:
            lowest = word & (~word + np.uint64(1))
            bit = (i << 6) + popcount(lowest - np.uint64(1))
            coords[row, 0] = low + bit // stride[0]
            coords[row, 1] = bit % stride[0] // stride[1]
            coords[row, 2] = bit % stride[1]
            word ^= lowest
            row += 1
