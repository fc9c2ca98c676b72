"""Single-index vertex buffers, as GPUs and most file formats need: positions, UVs, normals, tangents, colours."""

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
class Groups:
    """Where each of K groups of faces lies in the mesh that `VertexBuffer.grouped` returns.

    keys: of the groups, ascending.  faces, vertices: K + 1 rows, the first of each group and the end. The corners of a
    group's faces count from its first vertex.
    """

    keys: list[int]
    faces: list[int]
    vertices: list[int]


@dataclass(frozen=True, eq=False)
class VertexBuffer:
    """Vertex attributes of the V vertices of `mesh`, on its device; z up, v up, sRGB colours.

    uv [V, 2], normals [V, 3] unit vectors, tangents [V, 4] as from `mesh.normals.tangents`, colors [V, 4] RGBA: float32
    or None.  material_ids: [F] int64, per face.
    """

    mesh: Mesh
    uv: Tensor | None
    normals: Tensor | None
    tangents: Tensor | None
    colors: Tensor | None
    material_ids: Tensor

    def part(self, material: int) -> VertexBuffer:
        """Extracts the faces of one material and their vertices, in order; itself if it has no other one."""
        if bool((self.material_ids == material).all()):
            return self
        mesh, rows = select_faces(self.mesh, self.material_ids == material)
        picked = [self.uv, self.normals, self.tangents, self.colors]
        uv, normals, tangents, colors = (_rows(values, rows.vertices) for values in picked)
        return VertexBuffer(mesh, uv, normals, tangents, colors, self.material_ids[rows.faces])

    def grouped(self, keys: Tensor) -> tuple[VertexBuffer, Groups]:
        """Sorts faces by `keys` [F] int64, and gives each group vertices of its own, in order: those of `part`, of all
        groups at once."""
        order = keys.argsort(stable=True)
        found, counts = keys[order].unique_consecutive(return_counts=True)
        group = torch.arange(len(found), device=keys.device).repeat_interleave(counts)
        many = max(len(self.mesh.vertices), 1)
        pairs, corners = (group[:, None] * many + self.mesh.faces[order].long()).unique(return_inverse=True)
        ends = (pairs // many).bincount(minlength=len(found)).cumsum(0)
        firsts = ends.roll(1).index_fill(0, ends.new_zeros(1), 0)
        rows = pairs % many
        uv, normals, tangents, colors = (
            _rows(values, rows) for values in (self.uv, self.normals, self.tangents, self.colors)
        )
        mesh = Mesh(self.mesh.vertices[rows], corners - firsts[group][:, None])
        places = Groups(found.tolist(), [0, *counts.cumsum(0).tolist()], [0, *ends.tolist()])
        return VertexBuffer(mesh, uv, normals, tangents, colors, self.material_ids[order]), places


def as_textured(mesh: Mesh | TexturedMesh) -> TexturedMesh:
    """Gives a bare Mesh a rough white material, double-sided because its winding may be inconsistent."""
    if isinstance(mesh, TexturedMesh):
        return mesh
    return TexturedMesh(mesh, (Material(metallic_factor=0.0, double_sided=True),))


def checked(mesh: TexturedMesh, *, on_gpu: bool = False) -> TexturedMesh:
    """Copies `mesh`, its textures excepted, to the CPU; on_gpu: leaves it on a CUDA device.

    Raises ValueError without faces, and for non-finite values or indices out of range.
    """
    device = mesh.mesh.vertices.device if on_gpu and mesh.mesh.vertices.is_cuda else torch.device("cpu")
    found = TexturedMesh(
        Mesh(mesh.mesh.vertices.to(device), mesh.mesh.faces.to(device)),
        mesh.materials,
        *(
            None if values is None else values.to(device)
            for values in (mesh.material_ids, mesh.uv, mesh.uv_faces, mesh.vertex_colors, mesh.normals, mesh.part_ids)
        ),
        part_names=mesh.part_names,
    )
    if len(found.mesh.faces) == 0:
        raise ValueError("mesh: expected at least one face, got none; there is nothing to write")
    check_mesh(found.mesh)
    if found.vertex_colors is not None and not bool(found.vertex_colors.isfinite().all()):
        raise ValueError("vertex_colors: expected finite numbers, got NaN or infinity")
    for name, ids, rows in (
        ("material_ids", found.material_ids, len(found.materials)),
        ("part_ids", found.part_ids, len(found.part_names)),
    ):
        if ids is not None and not 0 <= int(ids.min()) <= int(ids.max()) < rows:
            raise ValueError(f"{name}: expected 0 to {rows - 1}, got {int(ids.min())} to {int(ids.max())}")
    return found


def with_normals(mesh: TexturedMesh, crease_deg: float | None) -> TexturedMesh:
    """Returns `mesh` with unit normals [V, 3]; existing ones are kept, zero or non-finite ones are recomputed.

    A mesh without normals gets smooth ones, split at dihedral angles above `crease_deg`, degrees. None: no normals,
    or face normals if a normal texture needs them.
    """
    if mesh.normals is not None:
        finite = mesh.normals.isfinite().all(1)
        normals = unit(torch.where(finite[:, None], mesh.normals, 0.0).double())
        wrong = length(normals) < 0.5
        made = vertex_normals(mesh.mesh).double() if bool(wrong.any()) else normals
        return replace(mesh, normals=torch.where(wrong[:, None], made, normals).float())
    if crease_deg is None and not _has_normal_texture(mesh):
        return mesh
    smooth, normals, rows = smooth_by_angle(mesh.mesh, crease_deg or 0.0)
    return replace(
        mesh,
        mesh=smooth,
        normals=normals,
        uv_faces=mesh.uv_rows,
        vertex_colors=_rows(mesh.vertex_colors, rows.vertices),
    )


def vertex_buffer(mesh: TexturedMesh) -> VertexBuffer:
    """Converts a checked mesh to one index per vertex; adds tangents [V, 4] if it has normals and a normal texture.

    Drops unused vertices. Raises ValueError for non-finite UVs or UV indices out of range.
    """
    ids = mesh.material_rows
    if mesh.uv is None:
        every = torch.ones(len(mesh.mesh.faces), dtype=torch.bool, device=mesh.mesh.faces.device)
        single, found = select_faces(mesh.mesh, every)
        uv, rows = None, found.vertices
    else:
        single, uv, rows = unify_indices(mesh.mesh, mesh.uv, mesh.uv_rows)
        if not bool(uv.isfinite().all()):
            raise ValueError("uv: expected finite coordinates, got NaN or infinity; unwrap the mesh again")
    normals, colors = _rows(mesh.normals, rows), _rows(mesh.vertex_colors, rows)
    if not _has_normal_texture(mesh) or normals is None or uv is None:
        return VertexBuffer(single, uv, normals, None, colors, ids)
    single, tangent, split = tangents(single, normals, uv)
    uv, normals, colors = (_rows(values, split.vertices) for values in (uv, normals, colors))
    return VertexBuffer(single, uv, normals, tangent, colors, ids)


def rotate_up_axis(vectors: Tensor, y_up: bool) -> Tensor:
    """Converts z-up `vectors` [N, 3] to y up if `y_up`."""
    return to_y_up(vectors) if y_up else vectors


def _has_normal_texture(mesh: TexturedMesh) -> bool:
    return mesh.uv is not None and any(material.normal_texture is not None for material in mesh.materials)


def _rows(values: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if values is None else values[rows]
