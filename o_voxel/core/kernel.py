"""A minimal Triton kernel that probes whether Triton works on a device."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from .compiling.notice import NOTICE
from .device import device_guard


@triton.jit
def _add_one_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n) + 1, mask=at < n)


PACK = __name__.rpartition(".o_voxel.")[0]


@cache
def announce_compilation() -> None:
    """Has Triton say when it has compiled a kernel of this pack, where this release has a listener.

    Its hooks that run before are left alone: with one set, Triton writes every kernel's arguments as JSON, which fails
    for some kernels of others.
    """
    settings = getattr(getattr(triton, "knobs", None), "compilation", None)
    if not hasattr(settings, "listener"):
        return
    before = settings.listener

    def listen(**details: Any) -> None:
        if before is not None:
            before(**details)
        kernel = getattr(details.get("src"), "fn", None)
        if not details.get("cache_hit") and getattr(kernel, "__module__", "").startswith(PACK):
            NOTICE.compiled()

    settings.listener = listen


@device_guard
def probe(device: torch.device) -> None:
    """Compiles and launches the kernel; raises any error of Triton's, or RuntimeError for a wrong result."""
    announce_compilation()
    x = torch.arange(100, dtype=torch.int64, device=device)
    out = torch.zeros_like(x)
    _add_one_kernel[(2,)](x, out, len(x), BLOCK=64)
    if not torch.equal(out, x + 1):
        raise RuntimeError("the test kernel gave a wrong result")
