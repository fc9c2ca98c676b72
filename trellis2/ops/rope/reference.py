"""RMS norm and rotation in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def norm_rotate(x: Tensor, gamma: Tensor | None, rotation: tuple[Tensor, Tensor] | None, scale: float) -> Tensor:
    """See `rms_norm_rope`."""
    if gamma is not None:
        x = (F.normalize(x.float(), dim=-1) * gamma * scale).to(x.dtype)
    if rotation is None:
        return x
    cos, sin = (part[:, None] for part in rotation)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
