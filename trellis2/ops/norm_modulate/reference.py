"""Residual addition, layer norm, weights or modulation, and quantisation in plain torch, the norm in fp32 or better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..quantized_linear.formats import Format, Quantized
from ..quantized_linear.reference import quantize_rows


@dataclass(frozen=True, eq=False)
class ResidualBranch:
    """Residual branch gate[item] * values + constant[item], added to the stream.

    values: [T, C] in the stream's dtype.  gate: [B, C]; None: 1.  constant: [B, C]; None: 0.
    """

    values: Tensor
    gate: Tensor | None = None
    constant: Tensor | None = None


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
    x = add_branch(x, branch, item)
    if item is not None:
        scale, shift = (_GatherItems.apply(part, item) for part in (scale, shift))
    return x, _finish(_normed(x, eps) * (1 + scale) + shift, x.dtype, form)


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
    x = add_branch(x, branch, item)
    out = _normed(x, eps) if weight is None else _normed(x, eps) * weight + bias
    return x, _finish(F.silu(out) if silu else out, x.dtype, form)


class _GatherItems(Function):
    """Gathers items' rows [B, C] at their tokens, part[item], [T, C]. The gradient is a matrix product: torch's own on
    a GPU adds an item's tokens serially."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, item: Tensor) -> Tensor:
        ctx.save_for_backward(item)
        ctx.items = len(part)
        return part[item]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (item,) = ctx.saved_tensors
        mask = item == torch.arange(ctx.items, device=item.device)[:, None]
        return mask.to(grad.dtype) @ grad, None


def add_branch(x: Tensor, branch: ResidualBranch | None, item: Tensor | None) -> Tensor:
    """Returns x [T, C] + branch; item: [T] int64, each token's item, None when B is 1."""
    if branch is None:
        return x
    gate, constant = branch.gate, branch.constant
    if item is not None:
        gate, constant = (None if part is None else _GatherItems.apply(part, item) for part in (gate, constant))
    x = x + branch.values if gate is None else torch.addcmul(x, gate, branch.values)
    return x if constant is None else x + constant


def _normed(x: Tensor, eps: float) -> Tensor:
    """Returns the layer norm of x [T, C] without weights, in fp32 or better."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.layer_norm(wide, x.shape[-1:], eps=eps)


def _finish(wide: Tensor, dtype: torch.dtype, form: Format | None) -> Tensor | Quantized:
    """Rounds the result [T, C] to `dtype`, or quantises it."""
    return wide.to(dtype) if form is None else quantize_rows(wide, form)
