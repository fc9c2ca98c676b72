"""Exact nearest-feature transform of a texel mask: the nearest covered texel of each texel, for gutter dilation."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend, triton_probe
from ...core.checks import check_tensor
from .reference import nearest_columns, nearest_rows

BACKENDS = (Backend("triton", triton_probe), Backend("numba", numba_probe), Backend("reference", always))
MAX_SIDE = 1 << 14


def nearest_texel(covered: Tensor, *, backend: str = "auto") -> Tensor:
    """Returns the number row * W + column [H, W] int32 of the nearest texel that is `covered` [H, W] bool.

    A covered texel maps to itself; -1 everywhere if none is covered. Exact, between texel centres; of equally near
    texels the one in the nearer column, then the left one, then the upper one. All backends return the same bytes:
    "triton" (GPU), "numba" (CPU, all of torch's threads), "reference" (plain torch), or "auto".
    Cost: grows with the distance to the nearest covered column, so with the width of the gutters.
    Raises ValueError for sides above 16384.
    """
    height, width = check_tensor(covered, "covered", (None, None), torch.bool).shape
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"covered: expected sides of at most {MAX_SIDE}, got {list(covered.shape)}")
    chosen = resolve_backend(backend, BACKENDS, covered.device)
    if covered.numel() == 0:
        return torch.empty(height, width, dtype=torch.int32, device=covered.device)
    if chosen == "numba":
        from .kernel_cpu import nearest_cpu

        return nearest_cpu(covered)
    rows = nearest_rows(covered)
    if chosen == "triton":
        from .kernel import nearest_columns_gpu

        return nearest_columns_gpu(rows)
    return nearest_columns(rows)


__all__ = ["BACKENDS", "MAX_SIDE", "nearest_texel"]
