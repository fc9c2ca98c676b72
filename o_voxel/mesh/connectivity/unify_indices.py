"""One index for place and texture: what a graphics card draws, and what glTF stores."""

from __future__ import annotations

import torch
from torch import Tensor

from ...values import Mesh
from .topology import check_mesh


def unify_indices(mesh: Mesh, uv: Tensor, uv_faces: Tensor) -> tuple[Mesh, Tensor, Tensor]:
    """(mesh, uv [W, 2], rows [W] int64) with one vertex for each pair of a vertex and a row of `uv` that a face uses.

    uv [U, 2] float32; uv_faces [F, 3] integers, rows of `uv`, -1 nowhere. Vertices are in the order of (vertex, row of
    uv); `rows` says of which vertex each is, for normals and colours to follow. Faces keep their order and corners.
    Raises ValueError where a face has no such row.
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    if uv_faces.shape != faces.shape:
        raise ValueError(f"uv_faces: expected {list(faces.shape)} like the faces, got {list(uv_faces.shape)}")
    corners = uv_faces.to(torch.int64)
    low, high = (int(corners.min()), int(corners.max())) if len(faces) else (0, 0)
    if len(faces) and (low < 0 or high >= len(uv)):
        raise ValueError(f"uv_faces: expected rows of uv, 0 to {len(uv) - 1}, got {low} to {high}")
    pair, joined = (faces * max(len(uv), 1) + corners).unique(return_inverse=True)
    rows = pair // max(len(uv), 1)
    return Mesh(mesh.vertices[rows], joined), uv[pair % max(len(uv), 1)], rows
