"""RMS norm and rotation in one pass. Floor: reading and writing x once; the rotation table is shared by all heads."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm_rotate_kernel(
    x_ptr,
    gamma_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    H,
    D,
    token_stride,
    head_stride,
    scale,
    NORM: tl.constexpr,
    ROTATE: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    channel = tl.arange(0, 2 * HALF)[None]
    inside = (head < H) & (channel < D)
    x = tl.load(x_ptr + token * token_stride + head * head_stride + channel, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        length = tl.sqrt(tl.sum(x * x, axis=1))[:, None]
        x *= (scale / tl.maximum(length, 1e-12)) * tl.load(gamma_ptr + head * D + channel, mask=inside, other=0.0)
    if ROTATE:
        # Whole rows are loaded and stored, so that memory is touched in wide words; pairs are taken apart in registers.
        pair = tl.arange(0, HALF)[None]
        cos = tl.load(cos_ptr + token * (D // 2) + pair, mask=2 * pair < D, other=0.0)
        sin = tl.load(sin_ptr + token * (D // 2) + pair, mask=2 * pair < D, other=0.0)
        even, odd = tl.split(tl.reshape(x, (HEADS, HALF, 2)))
        x = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (HEADS, 2 * HALF))
    tl.store(out_ptr + (token * H + head) * D + channel, x.to(out_ptr.dtype.element_ty), mask=inside)


def norm_rotate(x: Tensor, gamma: Tensor | None, rotation: tuple[Tensor, Tensor] | None, scale: float) -> Tensor:
    """See `rms_norm_rope`. x may be a strided view whose channels are adjacent, such as a part of a packed QKV."""
    if x.stride(-1) != 1:
        x = x.contiguous()
    tokens, heads, width = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    cos, sin = rotation or (x, x)
    if tokens:
        _norm_rotate_kernel[(tokens,)](
            x,
            x if gamma is None else gamma.contiguous(),
            cos.contiguous(),
            sin.contiguous(),
            out,
            heads,
            width,
            x.stride(0),
            x.stride(1),
            scale,
            NORM=gamma is not None,
            ROTATE=rotation is not None,
            HEADS=triton.next_power_of_2(heads),
            HALF=triton.next_power_of_2(max(width // 2, 1)),
            num_warps=4,
        )
    return out
