"""Submanifold 3x3x3 convolution: outputs exist only where inputs do, absent neighbours contribute nothing.

Letters: N voxels, C input channels, D output channels, K = 27 kernel taps in (x, y, z) row-major order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....o_voxel.checks import FLOATS, check_tensor
from ....o_voxel.ops.backend import Choice, always, resolve_backend, triton_probe
from ....o_voxel.ops.hash_grid import HashGrid
from . import reference

if TYPE_CHECKING:
    from .kernel import TiledMap

TAPS = 27


def _triton_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    return "has no 64-bit matrix product" if dtype == torch.float64 else triton_probe(device, dtype)


CHOICES = (Choice("triton", _triton_probe), Choice("reference", always))


def neighbor_map(coords: Tensor, index: HashGrid, dilation: int = 1) -> Tensor:
    """Row of every voxel's 27 neighbours: [N, 27] int32, -1 where absent.

    coords: [N, 4] int32 (batch, x, y, z), the voxels in `index`. Tap k = (kx, ky, kz) row-major looks at
    (x, y, z) + dilation * ((kx, ky, kz) - 1).
    """
    check_tensor(coords, "coords", (None, 4), torch.int32)
    if dilation < 1:
        raise ValueError(f"dilation: expected at least 1, got {dilation}")
    if index.backend == "triton":
        from .kernel import find_neighbors

        return find_neighbors(coords, index.keys, index.rows, dilation)
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
    tiles: Callable[[], TiledMap] | None = None,
    backend: str = "auto",
) -> Tensor:  # [N, D]
    """out[i] = bias + sum over taps k of weight[:, k] @ feats[neighbors[i, k]], in the dtype of `feats`.

    A cross-correlation whose first kernel axis is x, as in the published checkpoints (facts: FlexGEMM layout).
    Accumulates in fp32. tiles: where to get `tile_neighbors(neighbors)` from, if it is kept; only the Triton kernel
    asks for it. Raises ValueError on a shape or dtype that does not fit.
    """
    n, c = check_tensor(feats, "feats", (None, None), FLOATS).shape
    check_tensor(neighbors, "neighbors", (n, TAPS), torch.int32)
    check_tensor(weight, "weight", (None, 3, 3, 3, c), feats.dtype)
    if bias is not None:
        check_tensor(bias, "bias", (len(weight),), feats.dtype)
    if resolve_backend(backend, CHOICES, feats.device, feats.dtype) == "triton":
        from . import kernel

        arranged = tile_neighbors(neighbors) if tiles is None else tiles()
        return kernel.convolve(feats, arranged, weight, bias)
    return reference.convolve(feats, neighbors, weight, bias)


def tile_neighbors(neighbors: Tensor) -> TiledMap:
    """A neighbour map [N, 27] int32 arranged for the Triton kernel, shared by every layer on the same voxels."""
    from .kernel import tile_neighbors

    return tile_neighbors(neighbors)


__all__ = ["CHOICES", "neighbor_map", "submanifold_conv", "tile_neighbors"]
