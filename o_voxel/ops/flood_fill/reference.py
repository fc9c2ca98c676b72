"""Flood fill in plain torch: one step of all blocks at once, until nothing changes."""

from __future__ import annotations

import torch
from torch import Tensor


def plane(axis: int, index: int) -> int:
    """Returns the bits, as a signed number, of the 16 points of a block at `index` (0 to 3) along `axis`."""
    step = 16 >> 2 * axis
    bits = sum(1 << bit for bit in range(64) if bit // step % 4 == index)
    return bits - (1 << 64 if bits >> 63 else 0)


# Bit shift to the next point along each axis; across a block's face, three times that in the other direction.
SHIFTS = (16, 4, 1)
LOW, HIGH = (tuple(plane(axis, place) for axis in range(3)) for place in (0, 3))


def flood(free: Tensor, reached: Tensor) -> Tensor:
    """Returns `reached` [X, Y, Z] int64 grown within `free` [X, Y, Z] int64 until it is complete.

    One int64 holds the 64 points of a block of 4 x 4 x 4, bit 16 x + 4 y + z. Waits for the device after each step.
    """
    while True:
        grown = reached | (_spread(reached) & free)
        if torch.equal(grown, reached):
            return reached
        reached = grown


def _spread(bits: Tensor) -> Tensor:
    """Returns the six neighbours of every bit of [X, Y, Z] int64."""
    out = torch.zeros_like(bits)
    for axis, shift in enumerate(SHIFTS):
        out |= bits << shift & ~LOW[axis] | bits >> shift & ~HIGH[axis]
        count = bits.shape[axis] - 1
        out.narrow(axis, 1, count).bitwise_or_(bits.narrow(axis, 0, count) >> 3 * shift & LOW[axis])
        out.narrow(axis, 0, count).bitwise_or_(bits.narrow(axis, 1, count) << 3 * shift & HIGH[axis])
    return out
