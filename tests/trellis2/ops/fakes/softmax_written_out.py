"""What the fake libraries compute, in float64, and what all of them demand of their tensors."""

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, L, H, d] of query [B, L, H, d] and key, value [B, M, H, d]."""
    assert query.ndim == key.ndim == value.ndim == 4
    assert key.shape == value.shape and (len(query), *query.shape[2:]) == (len(key), *key.shape[2:])
    demand(query, key, value)
    scores = torch.einsum("blhd,bmhd->bhlm", query.double(), key.double()) / query.shape[-1] ** 0.5
    return torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), value.double()).to(query.dtype)


def attend_packed(query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor) -> Tensor:
    """[T, H, d] of query [T, H, d] and key, value [S, H, d], and each item's first token and the end, [B + 1] int32."""
    assert query.ndim == key.ndim == value.ndim == 3
    for ends, tokens in ((query_ends, query), (key_ends, key)):
        assert ends.dtype == torch.int32 and ends.is_contiguous() and ends.device == tokens.device
        assert ends[0] == 0 and ends[-1] == len(tokens)
    spans = [zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True) for ends in (query_ends, key_ends)]
    parts = [
        attend(query[None, a:b], key[None, c:d], value[None, c:d])[0] for (a, b), (c, d) in zip(*spans, strict=True)
    ]
    return torch.cat(parts)


def demand(*tensors: Tensor) -> None:
    """16-bit, one device, a head's channels side by side, and addresses for 16-byte loads."""
    assert len({(x.dtype, x.device) for x in tensors}) == 1
    for x in tensors:
        assert x.dtype in (torch.float16, torch.bfloat16), f"only fp16 and bf16, got {x.dtype}"
        assert x.stride(-1) == 1 and x.shape[-1] % 8 == 0 and x.data_ptr() % 16 == 0
