"""Triton kernel of RMS norm and rotation in one pass. Floor: reading and writing x once; the rotation table is shared
by all heads."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....o_voxel.core.device import device_guard


@triton.jit
def _norm_rotate_kernel(
    x_ptr,
    gamma_ptr,
    second_gamma_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    H,
    D,
    split,
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
        gamma = tl.load(gamma_ptr + head * D + channel, mask=inside & (head < split), other=0.0)
        second = tl.load(second_gamma_ptr + (head - split) * D + channel, mask=inside & (head >= split), other=0.0)
        x *= (scale / tl.maximum(length, 1e-12)) * (gamma + second)
    if ROTATE:
        # Rows are loaded and stored whole, for wide memory accesses; pairs are split in registers.
        pair = tl.arange(0, HALF)[None]
        cos = tl.load(cos_ptr + token * (D // 2) + pair, mask=2 * pair < D, other=0.0)
        sin = tl.load(sin_ptr + token * (D // 2) + pair, mask=2 * pair < D, other=0.0)
        even, odd = tl.split(tl.reshape(x, (HEADS, HALF, 2)))
        x = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (HEADS, 2 * HALF))
    tl.store(out_ptr + (token * H + head) * D + channel, x.to(out_ptr.dtype.element_ty), mask=inside)


@device_guard
def norm_rotate(
    x: Tensor,
    gammas: tuple[Tensor, Tensor] | Tensor | None,
    rotation: tuple[Tensor, Tensor] | None,
    scale: float,
) -> Tensor:
    """See `rms_norm_rope`. x [T, H, d] may be a strided view with contiguous channels, such as a part of a packed QKV.

    gammas: [H, d], or a pair, of the first heads and of the rest.
    """
    if x.stride(-1) != 1:
        x = x.contiguous()
    tokens, heads, width = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    cos, sin = (x, x) if rotation is None else (part.contiguous() for part in rotation)
    pair = (gammas, gammas) if isinstance(gammas, Tensor) else gammas
    first, second = (x, x) if pair is None else (gamma.contiguous() for gamma in pair)
    if tokens:
        rows = triton.next_power_of_2(heads)
        _norm_rotate_kernel[(tokens,)](
            x,
            first,
            second,
            cos,
            sin,
            out,
            heads,
            width,
            len(first) if isinstance(gammas, tuple) else heads,
            x.stride(0),
            x.stride(1),
            scale,
            NORM=gammas is not None,
            ROTATE=rotation is not None,
            HEADS=rows,
            HALF=triton.next_power_of_2(max(width // 2, 1)),
            num_warps=8 if rows > 16 else 4,
        )
    return out
