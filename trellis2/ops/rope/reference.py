"""RMS norm and rotation in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def norm_rotate(x: Tensor, gamma: Tensor | None, rotation: tuple[Tensor, Tensor] | None, scale: float) -> Tensor:
    """See `rms_norm_rope`: x [T, H, d], in float32, rounded to x's dtype once, at the end, as the kernel rounds."""
    if gamma is None and rotation is None:
        return x
    wide = x.float()
    if gamma is not None:
        wide = F.normalize(wide, dim=-1) * gamma * scale
    if rotation is not None:
        cos, sin = (part[:, None] for part in rotation)
        even, odd = wide.unflatten(-1, (-1, 2)).unbind(-1)
        wide = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
    return wide.to(x.dtype)
