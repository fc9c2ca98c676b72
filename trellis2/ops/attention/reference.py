"""Attention spelt out, in fp32: what every other implementation is measured against."""

from __future__ import annotations

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, L, H, d] x [B, M, H, d] -> [B, L, H, d]."""
    scores = torch.einsum("blhd,bmhd->bhlm", query.float(), key.float()) / query.shape[-1] ** 0.5
    return torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), value.float()).to(query.dtype)
