"""Maps from output to input rows of a mesh operation, face selection, and unified vertex/UV indices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...values import Mesh
from .topology import ValidMesh, check_mesh


@dataclass(frozen=True, eq=False)
class RowMap:
    """Input row of each output row of a mesh operation; -1 for new rows.

    vertices: [V] int64.  faces: [F] int64.  Transfer vertex attributes with `attribute[rows.vertices]`.
    """

    vertices: Tensor
    faces: Tensor

    @classmethod
    def unchanged(cls, mesh: Mesh) -> RowMap:
        """The identity map of a mesh with [V, 3] vertices and [F, 3] faces."""
        return cls(*(torch.arange(len(part), device=part.device) for part in (mesh.vertices, mesh.faces)))

    def after(self, earlier: RowMap) -> RowMap:
        """Composes two maps: from this map's output to the input of `earlier`."""
        pairs = ((self.vertices, earlier.vertices), (self.faces, earlier.faces))
        return RowMap(*(torch.where(row < 0, row, torch.cat([old, old.new_full((1,), -1)])[row]) for row, old in pairs))


def select_faces(mesh: Mesh, kept: Tensor) -> tuple[Mesh, RowMap]:
    """Keeps the faces in the mask `kept` [F] bool and the vertices they use, in order.

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces. Returns the mesh and the map to input rows.
    """
    rows = kept.nonzero().squeeze(1)
    faces = mesh.faces[rows]
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool, device=faces.device)
    used[faces.flatten()] = True
    vertices = used.nonzero().squeeze(1)
    number = (used.cumsum(0) - 1).to(mesh.faces.dtype)
    return ValidMesh(mesh.vertices[vertices], number[faces]), RowMap(vertices, rows)


def unify_indices(mesh: Mesh, uv: Tensor, uv_faces: Tensor) -> tuple[Mesh, Tensor, Tensor]:
    """Creates one vertex per distinct (vertex, uv row) pair; returns (mesh, uv [W, 2], rows [W] int64).

    uv: [U, 2] float32.  uv_faces: [F, 3] integers, rows of `uv`, without -1.  rows: input vertex of each output vertex,
    to transfer normals and colours. Vertices are sorted by (vertex, uv row); faces keep their order and corners.
    Raises ValueError for uv_faces of another shape or out of range.
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
