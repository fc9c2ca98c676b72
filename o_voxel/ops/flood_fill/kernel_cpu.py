"""Flood fill in numba: a work queue of the blocks that received bits from a neighbour."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...core.kernel_cpu import cached_njit
from . import reference
from .reference import HIGH, LOW, SHIFTS

STEPS = tuple(np.int64(shift) for shift in SHIFTS)
LOW_BITS, HIGH_BITS = (tuple(np.int64(bits) for bits in planes) for planes in (LOW, HIGH))


def flood(free: Tensor, reached: Tensor) -> Tensor:
    """Grows `reached` [X, Y, Z] int64, contiguous, in place within `free` [X, Y, Z] int64 until it is complete."""
    run_queue(free.flatten().numpy(), reached.view(-1).numpy(), np.array(free.shape))
    return reached


def _compiled(function):
    return cached_njit(function, reference)


@_compiled
def run_queue(free, reached, shape):
    """Fills blocks [N] int64, rows of a grid of `shape` [3]. The queue holds a block at most once."""
    count = len(free)
    waiting = np.zeros(count, np.bool_)
    queue = np.empty(count, np.int32)
    strides = (shape[1] * shape[2], shape[2], 1)
    first, last = 0, 0
    for block in range(count):
        if reached[block]:
            waiting[block] = True
            queue[last] = block
            last += 1
    left = last
    last %= count
    while left:
        block = queue[first]
        first = (first + 1) % count
        left -= 1
        waiting[block] = False
        bits = fill_block(reached[block], free[block])
        reached[block] = bits
        for side in range(6):
            axis = side >> 1
            place = block // strides[axis] % shape[axis]
            if side & 1:
                if place == shape[axis] - 1:
                    continue
                other, enters = block + strides[axis], bits >> 3 * STEPS[axis] & LOW_BITS[axis]
            else:
                if place == 0:
                    continue
                other, enters = block - strides[axis], bits << 3 * STEPS[axis] & HIGH_BITS[axis]
            enters &= free[other] & ~reached[other]
            if enters == 0:
                continue
            reached[other] |= enters
            if not waiting[other]:
                waiting[other] = True
                queue[last] = other
                last = (last + 1) % count
                left += 1


@_compiled
def fill_block(bits, free):
    """Returns the points of `free` connected to `bits` within one block."""
    if bits == free or free == -1:
        return free
    while True:
        grown = bits
        for axis in range(3):
            along = bits << STEPS[axis] & ~LOW_BITS[axis] | bits >> STEPS[axis] & ~HIGH_BITS[axis]
            grown |= along & free
        if grown == bits:
            return bits
        bits = grown
