"""A mesh as graphics cards and most files want it: one index for place, texture, normal and colour."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.grid import to_y_up
from ...core.vectors import length, unit
from ...material import Material, TexturedMesh
from ...mesh.connectivity.row_map import select_faces, unify_indices
from ...mesh.connectivity.topology import check_mesh
from ...mesh.normals import smooth_by_angle, tangents, vertex_normals
from ...values import Mesh


@dataclass(frozen=True, eq=False)
class VertexBuffer:
    """Arrays on the CPU, all but the last with one row a vertex of `mesh`; z up, v up, colours in sRGB.

    uv [V, 2], normals [V, 3] of length 1, tangents [V, 4] as `mesh.normals.tangents` has them, colors [V, 4]: float32,
    or None.  material_ids: [F] int64.
    """

    mesh: Mesh
    uv: Tensor | None
    normals: Tensor | None
    tangents: Tensor | None
    colors: Tensor | None
    material_ids: Tensor

    def part(self, material: int) -> VertexBuffer:
        """The faces of one material and the vertices that they use, in order."""
        mesh, rows = select_faces(self.mesh, self.material_ids == material)
        picked = [self.uv, self.normals, self.tangents, self.colors]
        return VertexBuffer(mesh, *(_rows(values, rows.vertices) for values in picked), self.material_ids[rows.faces])


def as_textured(mesh: Mesh | TexturedMesh) -> TexturedMesh:
    """`mesh` itself, or a bare one in a rough white, drawn from both sides: its winding may not agree."""
    if isinstance(mesh, TexturedMesh):
        return mesh
    return TexturedMesh(mesh, (Material(metallic_factor=0.0, double_sided=True),))


def checked(mesh: TexturedMesh) -> TexturedMesh:
    """`mesh` on the CPU. Raises ValueError where it has no faces, or numbers that no file can hold."""
    found = TexturedMesh(
        Mesh(mesh.mesh.vertices.cpu(), mesh.mesh.faces.cpu()),
        mesh.materials,
        *(
            None if values is None else values.cpu()
            for values in (mesh.material_ids, mesh.uv, mesh.uv_faces, mesh.vertex_colors, mesh.normals)
        ),
    )
    if len(found.mesh.faces) == 0:
        raise ValueError("mesh: expected at least one face, got none; there is nothing to write")
    check_mesh(found.mesh)
    if found.vertex_colors is not None and not bool(found.vertex_colors.isfinite().all()):
        raise ValueError("vertex_colors: expected finite numbers, got NaN or infinity")
    if found.material_ids is not None:
        low, high = int(found.material_ids.min()), int(found.material_ids.max())
        if low < 0 or high >= len(found.materials):
            raise ValueError(f"material_ids: expected 0 to {len(found.materials) - 1}, got {low} to {high}")
    return found


def with_normals(mesh: TexturedMesh, crease_deg: float | None) -> TexturedMesh:
    """`mesh` with normals of length 1. Its own stay, but those that are zero or not finite are made from its faces.

    Without any they are smooth, but where faces bend by more than `crease_deg`, which splits vertices. None: without,
    unless a normal texture needs them; then they are the faces' own.
    """
    if mesh.normals is not None:
        finite = mesh.normals.isfinite().all(1)
        normals = unit(torch.where(finite[:, None], mesh.normals, 0.0).double())
        wrong = length(normals) < 0.5
        made = vertex_normals(mesh.mesh).double() if bool(wrong.any()) else normals
        return replace(mesh, normals=torch.where(wrong[:, None], made, normals).float())
    if crease_deg is None and not _bumpy(mesh):
        return mesh
    smooth, normals, rows = smooth_by_angle(mesh.mesh, crease_deg or 0.0)
    return replace(
        mesh,
        mesh=smooth,
        normals=normals,
        uv_faces=mesh.mesh.faces if mesh.uv_faces is None else mesh.uv_faces,
        vertex_colors=_rows(mesh.vertex_colors, rows.vertices),
    )


def vertex_buffer(mesh: TexturedMesh) -> VertexBuffer:
    """`mesh`, checked and with its normals, under one index; with tangents if it has normals and a normal texture.

    Vertices that no face uses are left out. Raises ValueError for texture coordinates that are missing or not finite.
    """
    ids = mesh.material_ids
    ids = torch.zeros(len(mesh.mesh.faces), dtype=torch.int64) if ids is None else ids.to(torch.int64)
    if mesh.uv is None:
        every = torch.ones(len(mesh.mesh.faces), dtype=torch.bool)
        single, found = select_faces(mesh.mesh, every)
        uv, rows = None, found.vertices
    else:
        corners = mesh.mesh.faces if mesh.uv_faces is None else mesh.uv_faces
        single, uv, rows = unify_indices(mesh.mesh, mesh.uv, corners)
        if not bool(uv.isfinite().all()):
            raise ValueError("uv: expected finite coordinates, got NaN or infinity; unwrap the mesh again")
    normals, colors = _rows(mesh.normals, rows), _rows(mesh.vertex_colors, rows)
    if not _bumpy(mesh) or normals is None or uv is None:
        return VertexBuffer(single, uv, normals, None, colors, ids)
    single, tangent, split = tangents(single, normals, uv)
    uv, normals, colors = (_rows(values, split.vertices) for values in (uv, normals, colors))
    return VertexBuffer(single, uv, normals, tangent, colors, ids)


def turned(vectors: Tensor, y_up: bool) -> Tensor:
    """`vectors` [N, 3] as they are, or y up."""
    return to_y_up(vectors) if y_up else vectors


def _bumpy(mesh: TexturedMesh) -> bool:
    return mesh.uv is not None and any(material.normal_texture is not None for material in mesh.materials)


def _rows(values: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if values is None else values[rows]
