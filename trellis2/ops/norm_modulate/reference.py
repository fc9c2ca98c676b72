"""Branch, layer norm, weights or modulation, and quantisation in plain torch, the norm in fp32 or better."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..quantized_linear.formats import Format, Quantized
from ..quantized_linear.reference import quantize_rows


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
    x = _add(x, branch, gate, item)
    if item is not None:
        scale, shift = scale[item], shift[item]
    return x, _finish(_normed(x, eps) * (1 + scale) + shift, x.dtype, form)


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
    x = _add(x, branch, gate, item)
    return x, _finish(_normed(x, eps) * weight + bias, x.dtype, form)


def _add(x: Tensor, branch: Tensor | None, gate: Tensor | None, item: Tensor | None) -> Tensor:
    if branch is None:
        return x
    if gate is None:
        return x + branch
    return torch.addcmul(x, gate if item is None else gate[item], branch)


def _normed(x: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.layer_norm(wide, x.shape[-1:], eps=eps)


def _finish(wide: Tensor, dtype: torch.dtype, form: Format | None) -> Tensor | Quantized:
    return wide.to(dtype) if form is None else quantize_rows(wide, form)
