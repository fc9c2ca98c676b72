"""Triton kernel of residual addition, layer norm, modulation and quantisation in one pass over the tokens. Floor:
reading x and the branch and writing the sum and the result once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....o_voxel.core.device import device_guard
from ..quantized_linear.formats import Format, Quantized
from .reference import ResidualBranch

# Narrow rows share a program until it has this many values.
PROGRAM_VALUES = 2048


# `scaled` and `silu` are integer arguments, so that a decoder's norms of one width, with and without weights or SiLU,
# share one compiled kernel. Triton 3.7 interprets no bool arguments.
@triton.jit(do_not_specialize=["T", "scaled", "silu"])
def _norm_kernel(
    x_ptr,
    branch_ptr,
    gate_ptr,
    constant_ptr,
    scale_ptr,
    shift_ptr,
    item_ptr,
    sum_ptr,
    out_ptr,
    out_scale_ptr,
    T,
    C,
    gate_stride,
    constant_stride,
    scale_stride,
    shift_stride,
    eps,
    scaled,
    silu,
    OFFSET: tl.constexpr,
    BRANCH: tl.constexpr,
    GATED: tl.constexpr,
    CONSTANT: tl.constexpr,
    BATCHED: tl.constexpr,
    LIMIT: tl.constexpr,
    INTEGER: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, BLOCK)[None]
    wide = channel < C
    inside = (row < T) & wide
    # Without items the modulation is one row, loaded once for all rows of the program.
    valid = inside if BATCHED else wide
    item = tl.load(item_ptr + row, mask=row < T, other=0) if BATCHED else 0
    x = tl.load(x_ptr + row * C + channel, mask=inside, other=0.0).to(tl.float32)
    if BRANCH:
        branch = tl.load(branch_ptr + row * C + channel, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            branch *= tl.load(gate_ptr + item * gate_stride + channel, mask=valid, other=0.0).to(tl.float32)
        if CONSTANT:
            branch += tl.load(constant_ptr + item * constant_stride + channel, mask=valid, other=0.0).to(tl.float32)
        # The sum is rounded as stored: the norm must see the values that the next residual addition reads.
        total = (x + branch).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * C + channel, total, mask=inside)
        x = total.to(tl.float32)
    centered = tl.where(wide, x - tl.sum(x, axis=1)[:, None] / C, 0.0)
    out = centered * tl.rsqrt(tl.sum(centered * centered, axis=1)[:, None] / C + eps)
    # A block is compared: Triton 3.9 interprets no mask with a scalar comparison in it. C * keeps the loads wide.
    valid = valid & (channel < C * scaled)
    scale = tl.load(scale_ptr + item * scale_stride + channel, mask=valid, other=1 - OFFSET).to(tl.float32)
    shift = tl.load(shift_ptr + item * shift_stride + channel, mask=valid, other=0.0).to(tl.float32)
    out = out * (OFFSET + scale) + shift
    if silu != 0:
        out *= tl.sigmoid(out)
    if LIMIT > 0:
        unit = tl.maximum(tl.max(tl.abs(out), axis=1)[:, None], 1e-12) / LIMIT
        tl.store(out_scale_ptr + row, unit, mask=row < T)
        out *= 1 / unit
        if INTEGER:
            out = tl.floor(out + 0.5)
    tl.store(out_ptr + row * C + channel, out.to(out_ptr.dtype.element_ty), mask=inside)


def modulate(
    x: Tensor,
    branch: ResidualBranch | None,
    scale: Tensor,
    shift: Tensor,
    item: Tensor | None,
    eps: float,
    form: Format | None,
) -> tuple[Tensor, Tensor | Quantized]:
    """See `add_norm_modulate`: x [T, C], scale and shift [B, C]."""
    return _launch(x, branch, (scale, shift), item, eps, form, offset=1, silu=False)


def affine(
    x: Tensor,
    branch: ResidualBranch | None,
    weight: Tensor | None,
    bias: Tensor | None,
    item: Tensor | None,
    eps: float,
    form: Format | None,
    silu: bool = False,
) -> tuple[Tensor, Tensor | Quantized]:
    """See `add_norm_affine` and `layer_norm`: x [T, C], weight and bias [C]."""
    affine = None
    if weight is not None:
        # Weights are one row for all items: with a stride of 0 the kernel reads it for every item.
        affine = weight[None].expand(2, -1), bias[None].expand(2, -1)
    return _launch(x, branch, affine, item, eps, form, offset=0, silu=silu)


@device_guard
def _launch(
    x: Tensor,
    branch: ResidualBranch | None,
    affine: tuple[Tensor, Tensor] | None,
    item: Tensor | None,
    eps: float,
    form: Format | None,
    offset: int,
    silu: bool,
) -> tuple[Tensor, Tensor | Quantized]:
    (tokens, channels), x = x.shape, x.contiguous()
    total = x if branch is None else torch.empty_like(x)
    out = torch.empty(x.shape, dtype=x.dtype if form is None else form.dtype, device=x.device)
    unit = out if form is None else torch.empty(tokens, dtype=torch.float32, device=x.device)
    values, gate, constant = (
        (None,) * 3 if branch is None else (branch.values.contiguous(), branch.gate, branch.constant)
    )
    has_gate, has_constant = gate is not None, constant is not None
    # Without weights, a placeholder row of their dtype.
    parts = (gate, constant, *(affine or (x.new_empty(1, channels, dtype=torch.float32),) * 2))
    gate, constant, scale, shift = (x if part is None else _rows(part) for part in parts)
    if tokens:
        block = triton.next_power_of_2(channels)
        rows = max(1, PROGRAM_VALUES // block)
        _norm_kernel[(triton.cdiv(tokens, rows),)](
            x,
            x if values is None else values,
            gate,
            constant,
            scale,
            shift,
            x if item is None else item,
            total,
            out,
            unit,
            tokens,
            channels,
            gate.stride(0),
            constant.stride(0),
            scale.stride(0),
            shift.stride(0),
            eps,
            int(affine is not None),
            int(silu),
            OFFSET=offset,
            BRANCH=branch is not None,
            GATED=has_gate,
            CONSTANT=has_constant,
            BATCHED=item is not None,
            LIMIT=0 if form is None else form.limit,
            INTEGER=form is not None and form.integer,
            ROWS=rows,
            BLOCK=block,
            num_warps=min(max(rows * block // 512, 1), 8),
        )
    return total, out if form is None else Quantized(out, unit)


def _rows(x: Tensor) -> Tensor:
    """Returns [B, C] with contiguous channels; any row stride is kept, as of a part of a packed modulation."""
    return x if x.stride(-1) == 1 else x.contiguous()
