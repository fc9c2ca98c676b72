"""Quad extraction of dual contouring: the four voxels around each intersected grid edge, where all four exist."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.backend import Backend, always, resolve_backend, triton_probe
from ...core.checks import check_tensor
from ..hash_grid import hash_grid
from .reference import QUAD_OFFSETS, find_corners

BACKENDS = (Backend("triton", triton_probe), Backend("reference", always))


def dual_quads(coords: Tensor, intersected: Tensor, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Returns (quads, edges) of the voxels `coords` [N, 3] int32 with intersected edges `intersected` [N, 3] bool.

    quads: [Q, 4] int32 rows of `coords`, in the order of QUAD_OFFSETS.  edges: [Q] int64, voxel * 3 + axis of each,
    ascending. Deterministic.
    """
    n = len(check_tensor(coords, "coords", (None, 3), torch.int32))
    check_tensor(intersected, "intersected", (n, 3), torch.bool)
    chosen = resolve_backend(backend, BACKENDS, coords.device)
    edges = intersected.reshape(-1).nonzero().squeeze(1)
    index = hash_grid(coords, backend=chosen)
    if chosen == "triton":
        from .kernel import find_corners as find

        corners = find(coords, index.keys, index.rows, edges)
    else:
        corners = find_corners(coords, index, edges)
    whole = (corners >= 0).all(1).nonzero().squeeze(1)
    if len(whole) == len(edges):
        return corners, edges
    return corners[whole], edges[whole]


__all__ = ["BACKENDS", "QUAD_OFFSETS", "dual_quads"]
