"""The flood in plain torch: every block at once, a step at a time, until nothing changes."""

from __future__ import annotations

import torch
from torch import Tensor


def plane(axis: int, place: int) -> int:
    """The bits, as a signed number, of the 16 points of a block at `place` (0 to 3) along `axis`."""
    step = 16 >> 2 * axis
    bits = sum(1 << bit for bit in range(64) if bit // step % 4 == place)
    return bits - (1 << 64 if bits >> 63 else 0)


# A step to the next point along an axis shifts by so much; across a block's face, back by three times that.
SHIFTS = (16, 4, 1)
LOW, HIGH = (tuple(plane(axis, place) for axis in range(3)) for place in (0, 3))


def flood(free: Tensor, reached: Tensor) -> Tensor:
    """`reached` [X, Y, Z] int64 grown within `free` until it is whole."""
    while True:
        grown = reached | (_spread(reached) & free)
        if torch.equal(grown, reached):
            return reached
        reached = grown


def _spread(bits: Tensor) -> Tensor:
    """The six neighbours of every bit."""
    out = torch.zeros_like(bits)
    for axis, shift in enumerate(SHIFTS):
        out |= bits << shift & ~LOW[axis] | bits >> shift & ~HIGH[axis]
        count = bits.shape[axis] - 1
        out.narrow(axis, 1, count).bitwise_or_(bits.narrow(axis, 0, count) >> 3 * shift & LOW[axis])
        out.narrow(axis, 0, count).bitwise_or_(bits.narrow(axis, 1, count) << 3 * shift & HIGH[axis])
    return out
