"""RMS norm and rotation in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def norm_rotate(x: Tensor, gamma: Tensor | None, rotation: tuple[Tensor, Tensor] | None, scale: float) -> Tensor:
    """See `rms_norm_rope`: x [T, H, d], in float32, rounded to x's dtype once, at the end, as the kernel rounds.

    On a CPU a pair is rotated as a complex number: one pass where the four products and their sums take seven, with the
    same bits. Not with gradients, nor elsewhere: compilers and some devices lack complex numbers.
    """
    if gamma is None and rotation is None:
        return x
    wide = x.float()
    if gamma is not None:
        wide = F.normalize(wide, dim=-1) * gamma * scale
    if rotation is not None and x.device.type == "cpu" and not torch.is_grad_enabled():
        turn = torch.complex(*rotation)[:, None]
        wide = torch.view_as_real(torch.view_as_complex(wide.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)
    elif rotation is not None:
        cos, sin = (part[:, None] for part in rotation)
        even, odd = wide.unflatten(-1, (-1, 2)).unbind(-1)
        wide = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
    return wide.to(x.dtype)
