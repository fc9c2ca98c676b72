"""Softmax attention over packed tokens, within each batch item.

Letters: T query tokens and S key tokens of all items together, H heads, d channels a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....o_voxel.core.backend import Backend, always, resolve_backend
from ....o_voxel.core.checks import FLOATS, check_tensor
from . import reference, sdpa

BACKENDS = (Backend("cudnn", sdpa.cudnn_probe), Backend("sdpa", always), Backend("reference", always))
IMPLEMENTATIONS = {"cudnn": sdpa.attend_cudnn, "sdpa": sdpa.attend, "reference": reference.attend}


def attention(
    query: Tensor,  # [T, H, d]
    key: Tensor,  # [S, H, d]
    value: Tensor,  # [S, H, d]
    query_lengths: tuple[int, ...],
    key_lengths: tuple[int, ...],
    *,
    backend: str = "auto",
) -> Tensor:  # [T, H, d]
    """Returns softmax(q k^T / sqrt(d)) v, [T, H, d], without mask or dropout.

    query_lengths, key_lengths: tokens of each item, B entries each, summing to T and S; items are packed in order.
    Equal lengths run as one dense batch, others item by item, so nothing is padded and an item's result is independent
    of the others. Every backend is differentiable; "sdpa" with gradients runs all items in one launch where torch
    supports it.
    """
    total, heads, width = check_tensor(query, "query", (None, None, None), FLOATS).shape
    sources = check_tensor(key, "key", (None, heads, width), query.dtype).shape[0]
    check_tensor(value, "value", (sources, heads, width), query.dtype)
    if len(query_lengths) != len(key_lengths) or sum(query_lengths) != total or sum(key_lengths) != sources:
        raise ValueError(
            f"lengths: expected as many query as key items, summing to {total} and {sources} tokens, "
            f"got {list(query_lengths)} and {list(key_lengths)}"
        )
    chosen = resolve_backend(backend, BACKENDS, query.device, query.dtype)
    attend = IMPLEMENTATIONS[chosen]
    if len(set(query_lengths)) <= 1 and len(set(key_lengths)) <= 1:
        items = max(len(query_lengths), 1)
        q, k, v = (x.reshape(items, -1, heads, width) for x in (query, key, value))
        # Attention to a single token is that token's value; some fused kernels refuse the shape.
        out = v.expand_as(q) if k.shape[1] == 1 else attend(q, k, v)
        return out.reshape(total, heads, width)
    learning = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    if learning and chosen == "sdpa" and sdpa.packed_probe(query.device, query.dtype) is None:
        return sdpa.attend_packed(query, key, value, query_lengths, key_lengths)
    items = zip(query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), strict=True)
    parts = (attend(q[None], k[None], v[None])[0] for q, k, v in items)
    if learning:
        return torch.cat(list(parts))
    out = query.new_empty(query.shape)
    for target, part in zip(out.split(query_lengths), parts, strict=True):
        target.copy_(part)
    return out


__all__ = ["BACKENDS", "attention"]
