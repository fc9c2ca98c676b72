"""Interpolation in a sparse voxel grid: trilinear, renormalised over the existing voxels, or nearest."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend, triton_probe
from ...core.checks import FLOATS, check_tensor
from ..hash_grid import HashGrid
from .reference import containing, nearest_voxels, trilinear

BACKENDS = (Backend("triton", triton_probe), Backend("numba", numba_probe), Backend("reference", always))
MODES = ("trilinear", "nearest")


class Samples(NamedTuple):
    """values: [Q, C] in the field's dtype.  reached: [Q] bool; False, with values 0, where no voxel contributes."""

    values: Tensor
    reached: Tensor


def grid_samples(
    feats: Tensor, index: HashGrid, points: Tensor, *, mode: str = "trilinear", backend: str = "auto"
) -> Samples:
    """Samples `feats` [N, C] float, values at the centres of the voxels in `index` (over [N, 3] coordinates).

    points: [Q, 3] float32 in grid units; a voxel's centre is at its index + 0.5.
    mode: "trilinear" blends the up to eight voxels around a point; weights are renormalised over the existing ones, so
    the field's border is not darkened. "nearest" takes the voxel that contains the point.
    backend: "triton" (GPU, with an index built by Triton), "numba" (CPU), "reference" (torch), or "auto"; equal up to
    rounding. "nearest" always runs the reference. Deterministic.
    """
    check_tensor(feats, "feats", (len(index.keys), None), FLOATS)
    check_tensor(points, "points", (None, 3), torch.float32)
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {MODES}, got {mode!r}")
    if index.dims != 3:
        raise ValueError(f"index: expected one over coordinates [N, 3], got [N, {index.dims}]")
    # The layout of the index depends on the backend that built it.
    able = [choice for choice in BACKENDS if (choice.name == "triton") <= (index.backend == "triton")]
    chosen = resolve_backend(backend, able, feats.device, feats.dtype)
    if mode == "nearest":
        return Samples(*containing(feats, index, points))
    if chosen == "triton":
        from .kernel import trilinear_gpu

        return Samples(*trilinear_gpu(feats, index, points))
    if chosen == "numba":
        from .kernel_cpu import trilinear_cpu

        return Samples(*trilinear_cpu(feats, index, points))
    return Samples(*trilinear(feats, index, points))


def grid_sample(
    feats: Tensor,
    index: HashGrid,
    points: Tensor,
    *,
    mode: str = "trilinear",
    fill_from: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Returns the values [Q, C] of `grid_samples`, with the same arguments.

    fill_from: [N, 3] int32 coordinates of the voxels; if set, a point without a voxel takes the value of the voxel
    with the nearest centre, at any distance (exact; the lowest row of equally near ones), else 0.
    """
    values, reached = grid_samples(feats, index, points, mode=mode, backend=backend)
    if fill_from is None or len(feats) == 0:
        return values
    check_tensor(fill_from, "fill_from", (len(feats), 3), torch.int32)
    missed = (~reached).nonzero().squeeze(1)
    if len(missed) == 0:
        return values
    return values.index_copy(0, missed, feats[nearest_voxels(fill_from, points[missed])])


__all__ = ["BACKENDS", "MODES", "Samples", "grid_sample", "grid_samples"]
