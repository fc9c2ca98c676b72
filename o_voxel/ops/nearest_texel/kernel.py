"""Row pass of the nearest-texel transform in Triton: one texel per lane, columns at growing distance."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from .reference import NOWHERE

BLOCK = 128
# A texel far from any covered one scans every column; short launches avoid a display driver's watchdog.
TEXELS_A_LAUNCH = 1 << 21
_NOWHERE = tl.constexpr(NOWHERE)


@device_guard
def nearest_columns_gpu(rows: Tensor) -> Tensor:
    """Returns texel numbers [H, W] int32 from reference.nearest_rows [H, W] int32."""
    rows = rows.contiguous()
    found = torch.empty_like(rows)
    for start in range(0, rows.numel(), TEXELS_A_LAUNCH):
        size = min(TEXELS_A_LAUNCH, rows.numel() - start)
        _find_columns[(triton.cdiv(size, BLOCK),)](rows, found, start, start + size, rows.shape[1], BLOCK=BLOCK)
    return found


@triton.jit(do_not_specialize=["start", "end"])
def _find_columns(rows, found, start, end, width, BLOCK: tl.constexpr):
    texel = start + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = texel < end
    y, x = texel // width, texel % width
    row = tl.load(rows + texel, mask, 0)
    gap = tl.where(row < 0, _NOWHERE, row - y)
    best = tl.where(mask, gap * gap, 0)
    nearest = tl.where(row < 0, -1, row * width + x)
    step = 1
    active = (best > 1) & ((x >= 1) | (x + 1 < width))
    while tl.max(active.to(tl.int32), axis=0) > 0:
        for side in tl.static_range(2):
            column = x + (2 * side - 1) * step
            row = tl.load(rows + y * width + column, active & (column >= 0) & (column < width), -1)
            square = (row - y) * (row - y) + step * step
            nearer = (row >= 0) & (square < best)
            best = tl.where(nearer, square, best)
            nearest = tl.where(nearer, row * width + column, nearest)
        step += 1
        active = (best > step * step) & ((x >= step) | (x + step < width))
    tl.store(found + texel, nearest, mask)
