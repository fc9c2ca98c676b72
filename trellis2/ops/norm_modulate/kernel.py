"""Layer norm and modulation in one pass over the tokens. Floor: reading and writing x once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _scale_shift_kernel(
    x_ptr,
    scale_ptr,
    shift_ptr,
    item_ptr,
    out_ptr,
    C,
    eps,
    OFFSET: tl.constexpr,
    BATCHED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < C
    x = tl.load(x_ptr + row * C + channel, mask=inside, other=0.0).to(tl.float32)
    centered = tl.where(inside, x - tl.sum(x, axis=0) / C, 0.0)
    normed = centered * tl.rsqrt(tl.sum(centered * centered, axis=0) / C + eps)
    base = tl.load(item_ptr + row) * C if BATCHED else 0
    scale = tl.load(scale_ptr + base + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + base + channel, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * C + channel, (normed * (OFFSET + scale) + shift).to(out_ptr.dtype.element_ty), mask=inside)


def modulate(x: Tensor, scale: Tensor, shift: Tensor, item: Tensor | None, eps: float) -> Tensor:
    """See `norm_modulate`."""
    return _launch(x, scale, shift, item, eps, offset=1)


def affine(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See `norm_affine`."""
    return _launch(x, weight, bias, None, eps, offset=0)


def _launch(x: Tensor, scale: Tensor, shift: Tensor, item: Tensor | None, eps: float, offset: int) -> Tensor:
    (rows, channels), x = x.shape, x.contiguous()
    out = torch.empty_like(x)
    if rows:
        block = triton.next_power_of_2(channels)
        batched = item is not None
        _scale_shift_kernel[(rows,)](
            x,
            scale.contiguous(),
            shift.contiguous(),
            item if batched else x,
            out,
            channels,
            eps,
            OFFSET=offset,
            BATCHED=batched,
            BLOCK=block,
            num_warps=min(max(block // 512, 1), 8),
        )
    return out
