"""Flood fill in Triton: in-place sweeps over all blocks until one changes nothing.

A block may read its neighbours before or after their update: bits are only added, so the result does not depend on
the order. A sweep without changes has read final bits only. Traffic of a sweep: 16 bytes per block.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from .reference import HIGH, LOW

BLOCK = 256
# Steps within a block per sweep; corner to corner takes nine.
STEPS = tl.constexpr(6)
# Sweeps between host checks of the change flag.
SWEEPS = 16
LOW_X, LOW_Y, LOW_Z = (tl.constexpr(bits) for bits in LOW)
HIGH_X, HIGH_Y, HIGH_Z = (tl.constexpr(bits) for bits in HIGH)
NOT_LOW_X, NOT_LOW_Y, NOT_LOW_Z = (tl.constexpr(~bits) for bits in LOW)
NOT_HIGH_X, NOT_HIGH_Y, NOT_HIGH_Z = (tl.constexpr(~bits) for bits in HIGH)


@triton.jit
def _sweep_kernel(free_ptr, reached_ptr, changed_ptr, count, X, Y, Z, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    free = tl.load(free_ptr + at, mask=inside, other=0)
    before = tl.load(reached_ptr + at, mask=inside, other=0)
    # A block whose free points are all reached needs no update.
    open_ = inside & (free != before)
    if tl.max(open_.to(tl.int32)) > 0:
        z, y, x = at % Z, at // Z % Y, at // Z // Y
        bits = before
        bits |= tl.load(reached_ptr + at - Y * Z, mask=open_ & (x > 0), other=0) >> 48 & LOW_X
        bits |= tl.load(reached_ptr + at + Y * Z, mask=open_ & (x < X - 1), other=0) << 48 & HIGH_X
        bits |= tl.load(reached_ptr + at - Z, mask=open_ & (y > 0), other=0) >> 12 & LOW_Y
        bits |= tl.load(reached_ptr + at + Z, mask=open_ & (y < Y - 1), other=0) << 12 & HIGH_Y
        bits |= tl.load(reached_ptr + at - 1, mask=open_ & (z > 0), other=0) >> 3 & LOW_Z
        bits |= tl.load(reached_ptr + at + 1, mask=open_ & (z < Z - 1), other=0) << 3 & HIGH_Z
        bits &= free
        for _ in tl.static_range(STEPS):
            along_x = (bits << 16 & NOT_LOW_X) | (bits >> 16 & NOT_HIGH_X)
            along_y = (bits << 4 & NOT_LOW_Y) | (bits >> 4 & NOT_HIGH_Y)
            along_z = (bits << 1 & NOT_LOW_Z) | (bits >> 1 & NOT_HIGH_Z)
            bits |= (along_x | along_y | along_z) & free
        grown = open_ & (bits != before)
        tl.store(reached_ptr + at, bits, mask=grown)
        tl.store(changed_ptr + at * 0, 1, mask=grown)


@device_guard
def flood(free: Tensor, reached: Tensor) -> Tensor:
    """Grows `reached` [X, Y, Z] int64, contiguous, in place within `free` [X, Y, Z] int64 until it is complete."""
    changed = torch.ones(1, dtype=torch.int32, device=free.device)
    programs = (triton.cdiv(free.numel(), BLOCK),)
    while bool(changed):
        for _ in range(SWEEPS):
            changed.zero_()
            _sweep_kernel[programs](free, reached, changed, free.numel(), *free.shape, BLOCK=BLOCK)
    return reached
