"""Connected components of a graph: the lowest node connected to each node."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend, triton_probe
from ...core.checks import check_tensor
from .reference import connected_torch

BACKENDS = (Backend("triton", triton_probe), Backend("numba", numba_probe), Backend("reference", always))


def connected(count: int, first: Tensor, second: Tensor, *, backend: str = "auto") -> Tensor:
    """Returns the lowest node [count] int64 connected to each of `count` nodes by edges first - second, both [L] int64.

    On the CPU this is `mesh_connectivity.components` without parity. Deterministic; the same on every backend.
    """
    links = len(check_tensor(first, "first", (None,), torch.int64))
    check_tensor(second, "second", (links,), torch.int64)
    chosen = resolve_backend(backend, BACKENDS, first.device)
    if chosen == "triton":
        from .kernel import connected_gpu

        return connected_gpu(count, first, second)
    return connected_torch(count, first, second, chosen)


__all__ = ["BACKENDS", "connected"]
