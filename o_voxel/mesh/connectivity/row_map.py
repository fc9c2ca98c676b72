"""Which row of an input mesh each vertex and face of an output came from; meshes cut down or re-indexed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...values import Mesh
from .topology import ValidMesh, check_mesh


@dataclass(frozen=True, eq=False)
class RowMap:
    """Which row of the input each row of an output came from; -1 where it is new.

    vertices: [V] int64.  faces: [F] int64.  An attribute follows by `attribute[rows.vertices]`.
    """

    vertices: Tensor
    faces: Tensor

    @classmethod
    def unchanged(cls, mesh: Mesh) -> RowMap:
        """Every row of `mesh` as it is."""
        return cls(*(torch.arange(len(part), device=part.device) for part in (mesh.vertices, mesh.faces)))

    def after(self, earlier: RowMap) -> RowMap:
        """The rows of the input of `earlier`, whose output was the input of this one."""
        pairs = ((self.vertices, earlier.vertices), (self.faces, earlier.faces))
        return RowMap(*(torch.where(row < 0, row, torch.cat([old, old.new_full((1,), -1)])[row]) for row, old in pairs))


def select_faces(mesh: Mesh, kept: Tensor) -> tuple[Mesh, RowMap]:
    """The faces `kept` [F] bool of a mesh, with the vertices that they use, in order."""
    rows = kept.nonzero().squeeze(1)
    faces = mesh.faces[rows]
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool, device=faces.device)
    used[faces.flatten()] = True
    vertices = used.nonzero().squeeze(1)
    number = (used.cumsum(0) - 1).to(mesh.faces.dtype)
    return ValidMesh(mesh.vertices[vertices], number[faces]), RowMap(vertices, rows)


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
    return ValidMesh(mesh.vertices[rows], joined), uv[pair % max(len(uv), 1)], rows
