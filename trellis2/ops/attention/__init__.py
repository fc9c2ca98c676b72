"""Softmax attention over packed tokens, within each batch item.

Letters: T query tokens and S key tokens of all items together, H heads, d channels a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ....o_voxel.core.backend import Backend, always, resolve_backend
from ....o_voxel.core.checks import FLOATS, check_tensor
from . import libraries, reference, sdpa
from .libraries import LIBRARIES, WIDTHS


class Rank(NamedTuple):
    """A place in the order of "auto". tokens: queries of an item from which the backend is the fastest.  capability:
    the first figure of the cards' compute capability that this was measured on; None: any."""

    name: str
    tokens: int = 0
    capability: int | None = None


# What "auto" takes, the fastest first, by tests/bench/bench_attention.py; only exact ones. A library is taken where it
# is installed and works, else the next one. Whatever is missing here is taken by name only.
# flash-attn-4 saves 7 to 17 % of one item's time on an H200, and a quarter to a half of several different ones', in
# recorded graphs; called, it wins from about 10,000 tokens only. Image encoders stay below its tokens.
AUTO = (Rank("flash-attn-4", tokens=2048, capability=9), Rank("cudnn"), Rank("sdpa"))

# Names are in saved graphs: a new one goes last.
NAMES = ("cudnn", "sdpa", "reference", "flash-attn-4", "flash-attn-3", "flash-attn-2", "xformers", "sage")
IMPLEMENTATIONS = {"cudnn": sdpa.attend_cudnn, "sdpa": sdpa.attend, "reference": reference.attend}
_PROBES = {"cudnn": sdpa.cudnn_probe, "sdpa": always, "reference": always} | {
    name: partial(libraries.probe, library) for name, library in LIBRARIES.items()
}


def _backends(order: tuple[Rank, ...]) -> tuple[Backend, ...]:
    """The ranked ones in their order, then the others."""
    ranks = {rank.name: rank for rank in order}
    made = []
    for name in (*ranks, *(name for name in NAMES if name not in ranks)):
        rank = ranks.get(name)
        bounds = [f"from {rank.tokens} tokens"] if rank and rank.tokens else []
        bounds += [f"on compute capability {rank.capability}"] if rank and rank.capability else []
        licence = LIBRARIES[name].licence if name in LIBRARIES else ""
        made.append(Backend(name, _PROBES[name], rank is not None or name == "reference", " ".join(bounds), licence))
    return tuple(made)


BACKENDS = _backends(AUTO)


def problem(backend: str, device: torch.device, dtype: torch.dtype, *, launch: bool = True) -> str | None:
    """Returns why `attention` cannot use a backend there, in one line that says what to take instead; None if it can.

    launch: False asks only what costs nothing. The first launch of a library on a machine takes a process, and seconds.
    """
    if backend == "auto":
        return None
    if backend not in NAMES:
        return f"attention: expected 'auto' or one of {list(NAMES)}, got {backend!r}"
    if launch:
        reason = _PROBES[backend](device, dtype)
    elif backend in LIBRARIES:
        reason = libraries.absent(LIBRARIES[backend], device, dtype)
    else:
        reason = sdpa.unfit(device, dtype) if backend == "cudnn" else None
    return None if reason is None else f"attention {backend!r}: {reason}; choose 'auto', or another"


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
    backend: one of NAMES, or "auto", see AUTO; the libraries among them take heads of WIDTHS channels.

    Equal lengths run as one dense batch. Others run item by item, or in one launch by a library that can, so nothing is
    padded and an item's result is independent of the others. Every backend but "sage" is differentiable; "sdpa" with
    gradients runs all items in one launch where torch supports it.
    """
    total, heads, width = check_tensor(query, "query", (None, None, None), FLOATS).shape
    sources = check_tensor(key, "key", (None, heads, width), query.dtype).shape[0]
    check_tensor(value, "value", (sources, heads, width), query.dtype)
    if len(query_lengths) != len(key_lengths) or sum(query_lengths) != total or sum(key_lengths) != sources:
        raise ValueError(
            f"lengths: expected as many query as key items, summing to {total} and {sources} tokens, "
            f"got {list(query_lengths)} and {list(key_lengths)}"
        )
    learning = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    choices: Sequence[Backend] = BACKENDS
    if backend == "auto":
        most = max(query_lengths, default=0)
        choices = [choice for choice in BACKENDS if choice.automatic and _fits(choice, query.device, width, most)]
        if learning:  # not measured, nor needed: training names its own
            choices = [choice for choice in choices if choice.name not in LIBRARIES]
    chosen = resolve_backend(backend, choices, query.device, query.dtype)
    library = _library(chosen, width, learning)
    if library is not None and (0 in query_lengths or 0 in key_lengths):
        library, chosen = None, "sdpa"  # libraries differ on items without tokens
    attend = IMPLEMENTATIONS[chosen] if library is None else partial(libraries.attend, library=library)
    if len(set(query_lengths)) <= 1 and len(set(key_lengths)) <= 1:
        items = max(len(query_lengths), 1)
        q, k, v = (x.reshape(items, -1, heads, width) for x in (query, key, value))
        # Attention to a single token is that token's value; some fused kernels refuse the shape.
        out = v.expand_as(q) if k.shape[1] == 1 else attend(q, k, v)
        return out.reshape(total, heads, width)
    if library is not None and library.packed is not None:
        return libraries.attend_packed(query, key, value, (query_lengths, key_lengths), library)
    if learning and chosen == "sdpa" and sdpa.packed_probe(query.device, query.dtype) is None:
        return sdpa.attend_packed(query, key, value, query_lengths, key_lengths)
    objects = zip(query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), strict=True)
    parts = (attend(q[None], k[None], v[None])[0] for q, k, v in objects)
    if learning:
        return torch.cat(list(parts))
    out = query.new_empty(query.shape)
    for target, part in zip(out.split(query_lengths), parts, strict=True):
        target.copy_(part)
    return out


def _fits(choice: Backend, device: torch.device, width: int, tokens: int) -> bool:
    """Whether "auto" may take a backend for items of up to `tokens` queries, by what it was measured on."""
    rank = next((rank for rank in AUTO if rank.name == choice.name), None)
    if rank is None or choice.name not in LIBRARIES:
        return True
    if device.type != "cuda" or width not in WIDTHS or tokens < rank.tokens:
        return False
    return rank.capability is None or torch.cuda.get_device_capability(device)[0] == rank.capability


def _library(name: str, width: int, learning: bool) -> libraries.Library | None:
    """The library of a backend, if it is one."""
    library = LIBRARIES.get(name)
    if library is not None and width not in WIDTHS:
        raise ValueError(f"attention {name!r}: expected heads of {WIDTHS} channels, got {width}; choose 'auto'")
    if library is not None and learning and not library.exact:
        raise ValueError(f"attention {name!r}: has no gradients; choose 'auto'")
    return library


__all__ = ["AUTO", "BACKENDS", "NAMES", "Rank", "attention", "problem"]
