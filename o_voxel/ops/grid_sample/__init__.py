"""Values of a sparse voxel grid between its voxels: trilinear, renormalised over the voxels that exist."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import FLOATS, check_tensor
from ..backend import Choice, always, resolve_backend
from ..hash_grid import HashGrid
from .reference import trilinear

CHOICES = (Choice("reference", always),)


def grid_sample(feats: Tensor, index: HashGrid, points: Tensor, *, backend: str = "auto") -> Tensor:
    """Sample `feats` [N, C] float, the values at the centres of the voxels in `index` (over [N, 3] coordinates).

    points: [Q, 3] float32 in grid units; a voxel's centre is at its index + 0.5. Each point blends the up to eight
    voxels around it; absent ones are dropped and the weights renormalised, so the field's rim is not darkened.
    Returns [Q, C] in the dtype of `feats`, 0 where none of the eight exists. Deterministic.
    """
    check_tensor(feats, "feats", (index.count, None), FLOATS)
    check_tensor(points, "points", (None, 3), torch.float32)
    resolve_backend(backend, CHOICES, feats.device, feats.dtype)
    return trilinear(feats, index, points)


__all__ = ["CHOICES", "grid_sample"]
