"""Flood fill with 6-connectivity on a bit grid.

The grid is made of blocks of 4 x 4 x 4 points, one int64 each: bit 16 x + 4 y + z is the point (x, y, z) of its block.
A grid of 1024 points per side takes 128 MiB, and most steps of the fill are shifts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend, triton_probe
from ...core.checks import check_tensor

BACKENDS = (Backend("triton", triton_probe), Backend("numba", numba_probe), Backend("reference", always))
# Points along a block's side, and per block.
SIDE, POINTS = 4, 64


def flood_fill(free: Tensor, seeds: Tensor, *, backend: str = "auto") -> Tensor:
    """Returns the bits [X, Y, Z] int64 of the free points 6-connected to a seed.

    free, seeds: [X, Y, Z] int64 blocks of bits; seeds that are not free are ignored. Deterministic, and the same on
    every backend: "triton" (GPU), "numba" (CPU), "reference" (plain torch).
    """
    check_tensor(free, "free", (None, None, None), torch.int64)
    check_tensor(seeds, "seeds", tuple(free.shape), torch.int64)
    if seeds.device != free.device:
        raise ValueError(f"seeds: expected device {free.device}, got {seeds.device}")
    chosen = resolve_backend(backend, BACKENDS, free.device)
    reached = (free & seeds).contiguous()
    if free.numel() == 0:
        return reached
    if chosen == "triton":
        from .kernel import flood
    elif chosen == "numba":
        from .kernel_cpu import flood
    else:
        from .reference import flood
    return flood(free.contiguous(), reached)


__all__ = ["BACKENDS", "POINTS", "SIDE", "flood_fill"]
