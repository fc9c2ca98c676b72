"""Vector algebra on rows [N, 3]: separate multiplies and adds in a fixed order give the same bits on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Returns the cross products [N, 3] of rows [N, 3], without fused multiply-adds."""
    (ax, ay, az), (bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Returns the dot products [...] of vectors [..., 3], added in order."""
    product = a * b
    return product[..., 0] + product[..., 1] + product[..., 2]


def length(a: Tensor) -> Tensor:
    """Returns the lengths [...] of vectors [..., 3]."""
    return dot(a, a).sqrt()


def unit(a: Tensor) -> Tensor:
    """Normalises vectors [..., 3]; zero stays zero."""
    size = length(a)[..., None]
    return torch.where(size > 0, a / size, 0.0)
