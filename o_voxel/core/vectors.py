"""Vector algebra on rows [N, 3], rounded step by step, so that every device computes the same bits."""

from __future__ import annotations

import torch
from torch import Tensor


def cross(a: Tensor, b: Tensor) -> Tensor:
    """[N, 3] cross products, rounded step by step: a fused kernel would round otherwise than another device."""
    (ax, ay, az), (bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[N] dot products of [N, 3], added in order."""
    product = a * b
    return product[..., 0] + product[..., 1] + product[..., 2]


def length(a: Tensor) -> Tensor:
    """[N] lengths of [N, 3]."""
    return dot(a, a).sqrt()


def unit(a: Tensor) -> Tensor:
    """[N, 3] directions, zero where `a` is."""
    size = length(a)[..., None]
    return torch.where(size > 0, a / size, 0.0)
