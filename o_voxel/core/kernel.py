"""A minimal Triton kernel that probes whether Triton works on a device."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .device import device_guard


@triton.jit
def _add_one_kernel(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n) + 1, mask=at < n)


@device_guard
def probe(device: torch.device) -> None:
    """Compiles and launches the kernel; raises any error of Triton's, or RuntimeError for a wrong result."""
    x = torch.arange(100, dtype=torch.int64, device=device)
    out = torch.zeros_like(x)
    _add_one_kernel[(2,)](x, out, len(x), BLOCK=64)
    if not torch.equal(out, x + 1):
        raise RuntimeError("the test kernel gave a wrong result")
