"""Layer norm with weights or modulation in plain torch, in fp32 or better."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def modulate(x: Tensor, scale: Tensor, shift: Tensor, item: Tensor | None, eps: float) -> Tensor:
    """See `norm_modulate`."""
    if item is not None:
        scale, shift = scale[item], shift[item]
    return (_normed(x, eps) * (1 + scale) + shift).to(x.dtype)


def affine(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See `norm_affine`."""
    return (_normed(x, eps) * weight + bias).to(x.dtype)


def _normed(x: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.layer_norm(wide, x.shape[-1:], eps=eps)
