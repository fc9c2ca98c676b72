"""Submanifold 3x3x3 convolution: outputs exist only where inputs do, absent neighbours contribute nothing.

Letters: N voxels, C input channels, D output channels, K = 27 kernel taps in (x, y, z) row-major order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....o_voxel.checks import FLOATS, check_tensor
from ....o_voxel.ops.backend import Choice, always, resolve_backend
from ....o_voxel.ops.hash_grid import HashGrid
from .reference import convolve

CHOICES = (Choice("reference", always),)
TAPS = 27


def neighbor_map(coords: Tensor, index: HashGrid, dilation: int = 1) -> Tensor:
    """Row of every voxel's 27 neighbours: [N, 27] int32, -1 where absent.

    coords: [N, 4] int32 (batch, x, y, z), the voxels in `index`. Tap k = (kx, ky, kz) row-major looks at
    (x, y, z) + dilation * ((kx, ky, kz) - 1).
    """
    check_tensor(coords, "coords", (None, 4), torch.int32)
    if dilation < 1:
        raise ValueError(f"dilation: expected at least 1, got {dilation}")
    rows = torch.arange(len(coords), dtype=torch.int32, device=coords.device)
    out = torch.full((len(coords), TAPS), -1, dtype=torch.int32, device=coords.device)
    out[:, TAPS // 2] = rows
    # i sees j through tap k exactly when j sees i through tap 26 - k: half the look-ups give the whole map.
    for tap in range(TAPS // 2):
        step = (tap // 9 - 1, tap // 3 % 3 - 1, tap % 3 - 1)
        offset = torch.tensor((0, *step), dtype=torch.int32, device=coords.device) * dilation
        found = index.find(coords + offset)
        out[:, tap] = found.to(torch.int32)
        here = found >= 0
        out[found[here], TAPS - 1 - tap] = rows[here]
    return out


def submanifold_conv(
    feats: Tensor,  # [N, C]
    neighbors: Tensor,  # [N, 27] int32
    weight: Tensor,  # [D, 3, 3, 3, C]
    bias: Tensor | None,  # [D]
    *,
    backend: str = "auto",
) -> Tensor:  # [N, D]
    """out[i] = bias + sum over taps k of weight[:, k] @ feats[neighbors[i, k]], in the dtype of `feats`.

    A cross-correlation whose first kernel axis is x, as in the published checkpoints (facts: FlexGEMM layout).
    Accumulates in fp32. Raises ValueError on a shape or dtype that does not fit.
    """
    n, c = check_tensor(feats, "feats", (None, None), FLOATS).shape
    check_tensor(neighbors, "neighbors", (n, TAPS), torch.int32)
    check_tensor(weight, "weight", (None, 3, 3, 3, c), feats.dtype)
    if bias is not None:
        check_tensor(bias, "bias", (len(weight),), feats.dtype)
    resolve_backend(backend, CHOICES, feats.device, feats.dtype)
    return convolve(feats, neighbors, weight, bias)


__all__ = ["CHOICES", "neighbor_map", "submanifold_conv"]
