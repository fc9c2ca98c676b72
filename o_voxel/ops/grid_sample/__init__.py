"""Values of a sparse voxel grid between its voxels: trilinear, renormalised over the voxels that exist, or nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import FLOATS, check_tensor
from ..backend import Choice, always, resolve_backend
from ..hash_grid import HashGrid
from .reference import containing, nearest_voxels, trilinear

CHOICES = (Choice("reference", always),)
MODES = ("trilinear", "nearest")


def grid_sample(
    feats: Tensor,
    index: HashGrid,
    points: Tensor,
    *,
    mode: str = "trilinear",
    fill_from: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Sample `feats` [N, C] float, the values at the centres of the voxels in `index` (over [N, 3] coordinates).

    points: [Q, 3] float32 in grid units; a voxel's centre is at its index + 0.5.
    mode: "trilinear" blends the up to eight voxels around a point; absent ones are dropped and the weights
    renormalised, so the field's rim is not darkened. "nearest" takes the voxel that the point lies in.
    fill_from: [N, 3] int32, the coordinates of the voxels; with it a point that has no voxel takes the value of the
    one whose centre is nearest, however far (exact; of equally near ones any, but always the same). Without it: 0.
    Returns [Q, C] in the dtype of `feats`. Deterministic.
    """
    n = len(check_tensor(feats, "feats", (len(index.keys), None), FLOATS))
    check_tensor(points, "points", (None, 3), torch.float32)
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {MODES}, got {mode!r}")
    resolve_backend(backend, CHOICES, feats.device, feats.dtype)
    values, reached = (trilinear if mode == "trilinear" else containing)(feats, index, points)
    if fill_from is None or n == 0:
        return values
    check_tensor(fill_from, "fill_from", (n, 3), torch.int32)
    missed = (~reached).nonzero().squeeze(1)
    if len(missed) == 0:
        return values
    return values.index_copy(0, missed, feats[nearest_voxels(fill_from, points[missed])])


__all__ = ["CHOICES", "MODES", "grid_sample"]
