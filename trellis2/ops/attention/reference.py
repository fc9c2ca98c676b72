"""Explicit softmax attention in fp32 or better, the reference for the other backends."""

from __future__ import annotations

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns [B, L, H, d] for query [B, L, H, d] and key, value [B, M, H, d]."""
    q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (query, key, value))
    scores = torch.einsum("blhd,bmhd->bhlm", q, k) / query.shape[-1] ** 0.5
    return torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), v).to(query.dtype)
