"""Layer normalisation followed by a modulation per batch item (adaptive layer norm).

Letters: T packed tokens, B batch items, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....o_voxel.checks import FLOATS, check_tensor
from ....o_voxel.ops.backend import Choice, always, resolve_backend
from .reference import modulate

CHOICES = (Choice("reference", always),)


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
    resolve_backend(backend, CHOICES, x.device, x.dtype)
    return modulate(x, scale, shift, item, eps)


__all__ = ["CHOICES", "norm_modulate"]
