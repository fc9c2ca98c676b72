"""Attention through torch's fused kernels."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ....o_voxel.core.device import cached_per_device, is_hopper, normal_tensors

# Lengths of batches whose tensors are kept, 512 bytes each. A recorded graph is freed long before its lengths are.
KEPT_LENGTHS = 4096

OTHERS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns [B, L, H, d] for query [B, L, H, d] and key, value [B, M, H, d], by the kernel that torch selects."""
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(*heads_first).transpose(1, 2)


def attend_cudnn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`attend` by cuDNN's kernel, [B, L, H, d], on Hopper about twice as fast as the one that torch selects. Shapes
    that it does not support use torch's other kernels, which differ by rounding."""
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, *OTHERS], set_priority=True):
        return attend(query, key, value)


def unfit(device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns why a fused 16-bit kernel cannot run; None if it may. Costs nothing."""
    if device.type != "cuda":
        return f"runs on a GPU, not on {device}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"takes 16-bit numbers, not {dtype}"
    return None


def packed_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns None if `attend_packed` runs, else the reason."""
    return unfit(device, dtype) or _launch_packed(device, dtype)


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, query_lengths: tuple[int, ...], key_lengths: tuple[int, ...]
) -> Tensor:
    """Returns [T, H, d] for query [T, H, d] and key, value [S, H, d]: items of any lengths in one launch, by torch's
    flash attention."""
    from torch.nn.attention.varlen import varlen_attn

    ends = [item_ends(lengths, query.device) for lengths in (query_lengths, key_lengths)]
    longest = (max(query_lengths), max(key_lengths))
    return varlen_attn(query.contiguous(), key.contiguous(), value.contiguous(), *ends, *longest)


@lru_cache(maxsize=KEPT_LENGTHS)
@normal_tensors
def item_ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns [B + 1] int32, the first token of each item, and the end. Cached: every block of a network needs the
    same, and a recorded CUDA graph reads it at its address."""
    return torch.tensor((0, *lengths)).cumsum(0).to(device, torch.int32)


@cached_per_device
def _launch_packed(device: torch.device, dtype: torch.dtype) -> str | None:
    x = torch.zeros(3, 1, 16, device=device, dtype=dtype)
    try:
        attend_packed(x, x, x, (1, 2), (2, 1))
    except (ImportError, RuntimeError) as error:
        return f"a test launch failed: {error}"
    return None


def cudnn_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns None if cuDNN's attention runs and is faster (Hopper or newer, 16-bit), else the reason."""
    return unfit(device, dtype) or _launch_cudnn(device, dtype)


@cached_per_device
def _launch_cudnn(device: torch.device, dtype: torch.dtype) -> str | None:
    if not is_hopper(device, or_newer=True):
        return "is no faster than torch's own choice before Hopper"
    x = torch.zeros(1, 64, 1, 128, device=device, dtype=dtype)
    try:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            attend(x, x, x)
    except RuntimeError as error:
        return f"a test launch failed: {error}"
    return None
