"""The flood on the GPU: sweeps over all blocks, in place, until one changes nothing.

A block may see its neighbours before or after their step: bits are only ever added, and the whole flood is the same
in any order. A sweep that changes nothing has read nothing but final bits. Floor of a sweep: 16 bytes a block.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from .reference import HIGH, LOW

BLOCK = 256
# Steps inside a block in one sweep; from one corner to the other there are nine.
STEPS = tl.constexpr(6)
# Sweeps before the host looks whether the last one changed anything.
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
    # A full block has nothing to ask its neighbours.
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
    """`reached` [X, Y, Z] int64, contiguous, grown in place within `free` until it is whole."""
    changed = torch.ones(1, dtype=torch.int32, device=free.device)
    programs = (triton.cdiv(free.numel(), BLOCK),)
    while bool(changed):
        for _ in range(SWEEPS):
            changed.zero_()
            _sweep_kernel[programs](free, reached, changed, free.numel(), *free.shape, BLOCK=BLOCK)
    return reached
