"""Formulas, axis rotation and voxel bit sets of the Triton kernels of this op.

A slab's voxels are bits of int32 words in coordinate order; each row of voxels along z begins a word.
"""

from __future__ import annotations

from collections.abc import Callable

import triton
import triton.language as tl

from ...core.device import device_guard

BLOCK = 128
# Integer arguments not to specialise on: being 1 or a multiple of 16 would each double the compiled kernels.
VARIABLE = ("n_rows", "n_words", "n_edges", "low", "high", "nx", "ny", "nz", "stride_x", "stride_y")


def formula(function: Callable) -> Callable:
    """Compiles `function` for use in kernels; unchanged under Triton's interpreter, which refuses to wrap it."""
    compiled = triton.jit(function)
    return compiled if isinstance(compiled, triton.JITFunction) else function


@triton.jit
def rotate(axis: tl.constexpr, x, y, z):
    """Returns (a, b, c) of (x, y, z): the two axes after `axis`, and `axis`."""
    a, b, c = x, y, z
    if axis == 0:
        a, b, c = y, z, x
    if axis == 1:
        a, b, c = z, x, y
    return a, b, c


@triton.jit
def rotate_back(axis: tl.constexpr, a, b, c):
    """Returns (x, y, z) of (a, b, c)."""
    x, y, z = a, b, c
    if axis == 0:
        x, y, z = c, a, b
    if axis == 1:
        x, y, z = b, c, a
    return x, y, z


@triton.jit
def popcount(word):
    """Returns the set bits of an int32."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    return (word * 0x01010101) >> 24


@triton.jit
def row_of(bit, word, last_rank):
    """Returns the row of a marked voxel. last_rank: set bits up to and including its word."""
    return (last_rank - popcount(word & ~((1 << (bit & 31)) - 1))).to(tl.int64)


@triton.jit(do_not_specialize=VARIABLE)
def count_bits(bits, counts, n_words, block: tl.constexpr):
    """Writes the set bits of each word [n_words]."""
    lane = tl.program_id(0) * block + tl.arange(0, block)
    live = lane < n_words
    tl.store(counts + lane, popcount(tl.load(bits + lane, mask=live, other=0)), mask=live)


@triton.jit(do_not_specialize=VARIABLE)
def write_coords(bits, last_ranks, coords, n_words, low, stride_x, stride_y, block: tl.constexpr):
    """Writes coordinates [N, 3] of the marked voxels. low: first layer; strides: bits from a voxel to the next."""
    lane = tl.program_id(0) * block + tl.arange(0, block)
    live = lane < n_words
    word = tl.load(bits + lane, mask=live, other=0)
    row = tl.load(last_ranks + lane, mask=live, other=0).to(tl.int64) - popcount(word)
    for _ in range(tl.max(popcount(word), axis=0)):
        lowest = word & -word
        here = word != 0
        bit = lane * 32 + popcount(lowest - 1)
        tl.store(coords + row * 3, low + bit // stride_x, mask=here)
        tl.store(coords + row * 3 + 1, bit % stride_x // stride_y, mask=here)
        tl.store(coords + row * 3 + 2, bit % stride_y, mask=here)
        word = word ^ lowest
        row += 1


@device_guard
def launch(kernel: Callable, lanes: int, *arguments: object) -> None:
    """Runs a kernel, whose last parameter is its block size, on `lanes` lanes."""
    if lanes:
        kernel[(triton.cdiv(lanes, BLOCK),)](*arguments, BLOCK, num_warps=4, enable_fp_fusion=False)
