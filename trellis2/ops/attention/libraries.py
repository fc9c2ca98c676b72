"""Attention by libraries that a user may have installed: flash-attn 2, 3 and 4, xformers and SageAttention.

Each is imported at its first call. Whether one works is found by a launch in a child process, see `foreign`: their
builds hold code for some cards only, and end the process on others.

Letters: B items, L query and M key tokens of each, T and S of all items together, H heads, d channels a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

import torch
from torch import Tensor

from ....o_voxel.core.device import cached_per_device, device_guard, indexed, normal_tensors
from ....o_voxel.core.foreign import Answer, explained, is_installed, machine, version, why_not
from . import reference
from .sdpa import KEPT_LENGTHS, item_ends, unfit

# Channels a head of our networks: the published ones' and the built-in one's. What is tried, and so what is allowed.
WIDTHS = (128, 64)
# Error of the tried output, as a share of its size (root mean squares). Rounding to bfloat16 makes 0.003 to 0.005,
# 8-bit products about 0.04; a wrong kernel makes 1.
EXACT_ERROR, QUANTISED_ERROR = 0.02, 0.15
# Tokens of the tried items: odd, of several blocks, and more keys than queries and fewer.
TRIED_QUERIES, TRIED_KEYS = (67, 200), (131, 90)

Lengths = tuple[int, ...]
# [B, L, H, d] of query [B, L, H, d], key and value [B, M, H, d]
Dense = Callable[[Tensor, Tensor, Tensor], Tensor]
# [T, H, d] of query [T, H, d], key and value [S, H, d], and the tokens of each item
Packed = Callable[[Tensor, Tensor, Tensor, Lengths, Lengths], Tensor]


@dataclass(frozen=True)
class Library:
    """A library. name: of the backend.  modules: what is imported.  distribution: its name on the package index.

    packed: items of different lengths in one launch, without padding; None: item by item, which pads nothing either.
    exact: False for one that quantises, which "auto" never takes, and which has no gradients.
    """

    name: str
    modules: tuple[str, ...]
    distribution: str
    licence: str
    dense: Dense
    packed: Packed | None
    exact: bool = True


@device_guard
def attend(query: Tensor, key: Tensor, value: Tensor, library: Library) -> Tensor:
    """Returns [B, L, H, d] for query [B, L, H, d] and key, value [B, M, H, d], 16-bit, on a GPU."""
    return library.dense(*map(_rows, (query, key, value)))


@device_guard
def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[Lengths, Lengths], library: Library
) -> Tensor:
    """Returns [T, H, d] for query [T, H, d] and key, value [S, H, d], 16-bit, on a GPU, in one launch.

    lengths: query and key tokens of each item, at least one each.  library: one that has `packed`.
    """
    return library.packed(*map(_rows, (query, key, value)), *lengths)


def absent(library: Library, device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns why a library cannot attend, as far as can be said without loading it; None if it may. Costs nothing."""
    missing = _missing(library.modules, tuple(sys.path))
    if missing:
        return f"not installed (no module {missing[0]})"
    return unfit(device, dtype)


@lru_cache(maxsize=64)
def _missing(modules: tuple[str, ...], path: tuple[str, ...]) -> list[str]:
    """The modules that cannot be found. path: where Python looks; every attention asks, and looking takes 0.1 ms."""
    return [module for module in modules if not is_installed(module)]


def probe(library: Library, device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns None if the library attends on this card as the reference does, else the reason."""
    return absent(library, device, dtype) or _tried(device, dtype, library.name)


@cached_per_device
def _tried(device: torch.device, dtype: torch.dtype, name: str) -> str | None:
    library = LIBRARIES[name]
    about = (library.distribution, version(library.distribution), *machine(device))
    check = "trellis2.ops.attention.libraries:check"
    reason = why_not(check, (name, str(indexed(device)), str(dtype).removeprefix("torch.")), about)
    if reason is not None:
        return reason
    try:
        for module in library.modules:
            import_module(module)
    except Exception as error:  # noqa: BLE001 what a library's import raises is not ours to list
        return f"it does not load here, though it does in a process of its own: {explained(error)}"
    return None


def check(name: str, device: str, dtype: str) -> Answer:
    """Whether a library loads, launches and gives what the reference gives. Run in a child process, see `foreign`."""
    library = LIBRARIES[name]
    try:
        for module in library.modules:
            import_module(module)
    except Exception as error:  # noqa: BLE001 what a library's import raises is not ours to list
        return f"it does not load: {explained(error)}", True
    for width in WIDTHS:
        try:
            error = tried_error(library, torch.device(device), getattr(torch, dtype), width)
        except torch.OutOfMemoryError as problem:
            return f"no memory was left for a test launch: {explained(problem)}", False
        except Exception as problem:  # noqa: BLE001 a compiler, driver or launch problem of any kind
            return f"a test launch failed: {explained(problem)}", True
        if not error <= (EXACT_ERROR if library.exact else QUANTISED_ERROR):
            return f"its result for heads of {width} is wrong, by {error:.3g} of its size", True
    return None, True


def tried_error(library: Library, device: torch.device, dtype: torch.dtype, width: int) -> float:
    """Returns the largest error of a library's outputs, of equal and of different lengths, as a share of their size."""
    generator = torch.Generator().manual_seed(0)
    counts = (sum(TRIED_QUERIES), sum(TRIED_KEYS))
    query = torch.randn(counts[0], 2, width, generator=generator).to(device, dtype)
    # Views of one projection, as in the networks: rows lie apart.
    key, value = torch.randn(counts[1], 2, 2, width, generator=generator).to(device, dtype).unbind(1)
    parts = zip(query.split(TRIED_QUERIES), key.split(TRIED_KEYS), value.split(TRIED_KEYS), strict=True)
    items = [tuple(part[None] for part in item) for item in parts]
    pairs = [(attend(*item, library), reference.attend(*(x.float() for x in item))) for item in items]
    if library.packed is not None:
        together = attend_packed(query, key, value, (TRIED_QUERIES, TRIED_KEYS), library)
        pairs.append((together[None], torch.cat([exact for _, exact in pairs], dim=1)))
    return max(float((found.float() - exact).norm() / exact.norm()) for found, exact in pairs)


def _rows(x: Tensor) -> Tensor:
    """A head's channels side by side, as every library needs them."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _flash(module: str) -> tuple[Dense, Packed]:
    """flash-attn's two functions, whose names and layouts are the same in 2, 3 and 4."""

    def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _output(import_module(module).flash_attn_func(query, key, value))

    def packed(query: Tensor, key: Tensor, value: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
        return _output(
            import_module(module).flash_attn_varlen_func(
                query,
                key,
                value,
                cu_seqlens_q=item_ends(queries, query.device),
                cu_seqlens_k=item_ends(keys, query.device),
                max_seqlen_q=max(queries),
                max_seqlen_k=max(keys),
            )
        )

    return dense, packed


def _output(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The output alone: 4, and early 3, also return the logarithms of the softmax's sums."""
    return result[0] if isinstance(result, tuple | list) else result


def _xformers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return import_module("xformers.ops").memory_efficient_attention(query, key, value)


def _xformers_packed(query: Tensor, key: Tensor, value: Tensor, queries: Lengths, keys: Lengths) -> Tensor:
    bias = _block_diagonal(queries, keys, query.device)
    together = (query[None], key[None], value[None])
    return import_module("xformers.ops").memory_efficient_attention(*together, attn_bias=bias)[0]


@lru_cache(maxsize=KEPT_LENGTHS)
@normal_tensors
def _block_diagonal(queries: Lengths, keys: Lengths, device: torch.device) -> object:
    """xformers' mask of items that do not see each other: their ends, no matrix. Kept as `item_ends` are."""
    make = import_module("xformers.ops.fmha.attn_bias").BlockDiagonalMask.from_seqlens
    try:
        return make(list(queries), list(keys), device=device)
    except TypeError:  # before 0.0.28, which moves the ends at their first use
        return make(list(queries), list(keys))


def _sage(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return import_module("sageattention").sageattn(query, key, value, tensor_layout="NHD", is_causal=False)


# SageAttention has a function for different lengths, `sageattn_varlen`, but it subtracts the mean key of all items
# from each, so that items depend on each other, and it waits for the device, which no CUDA graph records.
LIBRARIES = {
    library.name: library
    for library in (
        Library("flash-attn-4", ("flash_attn.cute",), "flash-attn-4", "BSD-3-Clause", *_flash("flash_attn.cute")),
        Library(
            "flash-attn-3", ("flash_attn_interface",), "flash_attn_3", "BSD-3-Clause", *_flash("flash_attn_interface")
        ),
        Library(
            "flash-attn-2",
            ("flash_attn.flash_attn_interface",),
            "flash_attn",
            "BSD-3-Clause",
            *_flash("flash_attn.flash_attn_interface"),
        ),
        Library("xformers", ("xformers.ops",), "xformers", "BSD-3-Clause", _xformers, _xformers_packed),
        Library("sage", ("sageattention",), "sageattention", "Apache-2.0", _sage, None, exact=False),
    )
}
