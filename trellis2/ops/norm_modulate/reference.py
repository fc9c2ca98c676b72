"""Layer norm and modulation in plain torch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def modulate(x: Tensor, scale: Tensor, shift: Tensor, item: Tensor | None, eps: float) -> Tensor:
    """See `norm_modulate`."""
    if item is not None:
        scale, shift = scale[item], shift[item]
    return (F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift).to(x.dtype)
