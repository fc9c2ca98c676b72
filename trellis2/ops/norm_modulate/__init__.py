"""Layer normalisation followed by weights, or by a modulation per batch item (adaptive layer norm).

Letters: T packed tokens, B batch items, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....o_voxel.checks import FLOATS, check_tensor
from ....o_voxel.ops.backend import Choice, always, resolve_backend, triton_probe
from . import reference

CHOICES = (Choice("triton", triton_probe), Choice("reference", always))


def norm_modulate(
    x: Tensor,  # [T, C]
    scale: Tensor,  # [B, C]
    shift: Tensor,  # [B, C]
    item: Tensor | None,  # [T] int64: the item of each token; None when B is 1
    *,
    eps: float = 1e-6,
    backend: str = "auto",
) -> Tensor:  # [T, C]
    """LN(x) * (1 + scale[item]) + shift[item]; the norm has no weights and is taken in fp32. Returns x's dtype."""
    t, c = check_tensor(x, "x", (None, None), FLOATS).shape
    check_tensor(scale, "scale", (None if item is not None else 1, c), FLOATS)
    check_tensor(shift, "shift", tuple(scale.shape), FLOATS)
    if item is not None:
        check_tensor(item, "item", (t,), torch.int64)
    if resolve_backend(backend, CHOICES, x.device, x.dtype) == "triton" and not x.requires_grad:
        from . import kernel

        return kernel.modulate(x, scale, shift, item, eps)
    return reference.modulate(x, scale, shift, item, eps)


def norm_affine(
    x: Tensor,  # [T, C]
    weight: Tensor,  # [C] fp32
    bias: Tensor,  # [C] fp32
    *,
    eps: float = 1e-6,
    backend: str = "auto",
) -> Tensor:  # [T, C]
    """LN(x) * weight + bias in fp32, returned in x's dtype: the norm with weights of its own."""
    _, c = check_tensor(x, "x", (None, None), FLOATS).shape
    check_tensor(weight, "weight", (c,), torch.float32)
    check_tensor(bias, "bias", (c,), torch.float32)
    if resolve_backend(backend, CHOICES, x.device, x.dtype) == "triton" and not x.requires_grad:
        from . import kernel

        return kernel.affine(x, weight, bias, eps)
    return reference.affine(x, weight, bias, eps)


__all__ = ["CHOICES", "norm_affine", "norm_modulate"]
