"""Attention spelt out, in fp32 or better: what every other implementation is measured against."""

from __future__ import annotations

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, L, H, d] x [B, M, H, d] -> [B, L, H, d]."""
    q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (query, key, value))
    scores = torch.einsum("blhd,bmhd->bhlm", q, k) / query.shape[-1] ** 0.5
    return torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), v).to(query.dtype)
