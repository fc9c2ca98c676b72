"""Branch, layer norm, modulation and quantisation in one pass over the tokens. Floor: reading x and the branch and
writing the sum and the result once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..quantized_linear.formats import Format, Quantized


@triton.jit
def _norm_kernel(
    x_ptr,
    branch_ptr,
    gate_ptr,
    scale_ptr,
    shift_ptr,
    item_ptr,
    sum_ptr,
    out_ptr,
    out_scale_ptr,
    C,
    gate_stride,
    scale_stride,
    shift_stride,
    eps,
    OFFSET: tl.constexpr,
    BRANCH: tl.constexpr,
    GATED: tl.constexpr,
    BATCHED: tl.constexpr,
    LIMIT: tl.constexpr,
    INTEGER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < C
    item = tl.load(item_ptr + row) if BATCHED else 0
    x = tl.load(x_ptr + row * C + channel, mask=inside, other=0.0).to(tl.float32)
    if BRANCH:
        branch = tl.load(branch_ptr + row * C + channel, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            branch *= tl.load(gate_ptr + item * gate_stride + channel, mask=inside, other=0.0).to(tl.float32)
        # The sum is rounded as it is stored, so that the norm sees what the next layer adds to.
        total = (x + branch).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * C + channel, total, mask=inside)
        x = total.to(tl.float32)
    centered = tl.where(inside, x - tl.sum(x, axis=0) / C, 0.0)
    normed = centered * tl.rsqrt(tl.sum(centered * centered, axis=0) / C + eps)
    scale = tl.load(scale_ptr + item * scale_stride + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + item * shift_stride + channel, mask=inside, other=0.0).to(tl.float32)
    out = normed * (OFFSET + scale) + shift
    if LIMIT > 0:
        unit = tl.maximum(tl.max(tl.abs(out), axis=0), 1e-12) / LIMIT
        tl.store(out_scale_ptr + row, unit)
        out = tl.div_rn(out, unit)
        if INTEGER:
            out = tl.floor(out + 0.5)
    tl.store(out_ptr + row * C + channel, out.to(out_ptr.dtype.element_ty), mask=inside)


def modulate(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    item: Tensor | None,
    eps: float,
    form: Format | None,
) -> tuple[Tensor, Tensor | Quantized]:
    """See `add_norm_modulate`."""
    return _launch(x, branch, gate, scale, shift, item, eps, form, offset=1)


def affine(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    item: Tensor | None,
    eps: float,
    form: Format | None,
) -> tuple[Tensor, Tensor | Quantized]:
    """See `add_norm_affine`."""
    # Weights are one row for all items: with a stride of 0 the kernel reads it whatever the item.
    weight, bias = weight[None].expand(2, -1), bias[None].expand(2, -1)
    return _launch(x, branch, gate, weight, bias, item, eps, form, offset=0)


def _launch(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    item: Tensor | None,
    eps: float,
    form: Format | None,
    offset: int,
) -> tuple[Tensor, Tensor | Quantized]:
    (rows, channels), x = x.shape, x.contiguous()
    total = x if branch is None else torch.empty_like(x)
    out = torch.empty(x.shape, dtype=x.dtype if form is None else form.dtype, device=x.device)
    unit = out if form is None else torch.empty(rows, dtype=torch.float32, device=x.device)
    gate, scale, shift = (None if part is None else _rows(part) for part in (gate, scale, shift))
    if rows:
        block = triton.next_power_of_2(channels)
        _norm_kernel[(rows,)](
            x,
            x if branch is None else branch.contiguous(),
            x if gate is None else gate,
            scale,
            shift,
            x if item is None else item,
            total,
            out,
            unit,
            channels,
            0 if gate is None else gate.stride(0),
            scale.stride(0),
            shift.stride(0),
            eps,
            OFFSET=offset,
            BRANCH=branch is not None,
            GATED=gate is not None,
            BATCHED=item is not None,
            LIMIT=0 if form is None else form.limit,
            INTEGER=form is not None and form.integer,
            BLOCK=block,
            num_warps=min(max(block // 512, 1), 8),
        )
    return total, out if form is None else Quantized(out, unit)


def _rows(x: Tensor) -> Tensor:
    """[B, C] whose channels are adjacent; the rows may be any distance apart, as in a part of a packed modulation."""
    return x if x.stride(-1) == 1 else x.contiguous()
