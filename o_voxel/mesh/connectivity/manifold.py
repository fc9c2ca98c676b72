"""Split non-manifold edges (more than two faces) and vertices (more than one fan of faces) by duplicating vertices."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...ops.mesh_connectivity import corner_groups
from ...values import Mesh
from .row_map import RowMap
from .surface import Surface, join_faces
from .topology import ValidMesh, check_mesh, following, origins


def split_non_manifold(mesh: Mesh, *, backend: str = "auto") -> tuple[Mesh, RowMap]:
    """Duplicates vertices until every edge has one or two faces and every vertex a single fan; returns (mesh, rows).

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces. The faces around an edge of more than two are paired
    (see `radial_edges`): the two sides of a solid where outside and inside alternate, otherwise the smoothest
    continuation. A closed mesh stays closed where its vertices allow. An unpaired face gets a boundary edge;
    non-orientable strips are cut across. Faces keep their order and corners; duplicates follow the V vertices, in the
    order of their first corners. Degenerate faces are kept. Deterministic; identical on every backend ("auto", "numba",
    "reference").
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    surface = join_faces(mesh.vertices, faces, backend=backend)
    split, source, _ = split_surface(faces, len(mesh.vertices), surface, backend=backend)
    rows = RowMap(source, torch.arange(len(faces), device=faces.device))
    return ValidMesh(mesh.vertices[source], split.to(mesh.faces.dtype)), rows


def split_surface(
    faces: Tensor, vertex_count: int, surface: Surface, *, backend: str = "auto"
) -> tuple[Tensor, Tensor, Surface]:
    """Splits the non-manifold vertices of a `surface`, then joins cut half-edges that ended up on a common edge.

    faces: [F, 3] int64, below vertex_count. Returns (faces [F, 3] int64, source [V'] int64: the input vertex of each
    output vertex, the surface with updated twins).
    """
    split, source = split_corners(faces, vertex_count, surface.twin, surface.flip, backend=backend)
    if len(surface.seam) == 0:
        return split, source, surface
    seam = surface.seam.unique()
    _, edge, size = _edge_keys(split, seam)
    nonmanifold = seam[size[edge] > 2]
    if len(nonmanifold):
        twin = surface.twin.clone()
        twin[nonmanifold] = -1
        surface = replace(surface, twin=twin)
        split, source = split_corners(faces, vertex_count, surface.twin, surface.flip, backend=backend)
    return split, source, replace(surface, twin=_join_coincident(split, seam, surface.twin))


def _edge_keys(faces: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(vertex pairs [E, 2] of the edges of `half` [N], edge index [N] of each, half-edges per edge [E])."""
    ends = torch.stack([origins(faces)[half], origins(faces)[following(half)]], 1).sort(1).values
    return ends.unique(dim=0, return_inverse=True, return_counts=True)


def _join_coincident(faces: Tensor, seam: Tensor, twin: Tensor) -> Tensor:
    """Joins in `twin` [3 F] the half-edges of `seam` [S] of which exactly two lie on an edge."""
    _, edge, size = _edge_keys(faces, seam)
    edge, order = edge.sort(stable=True)
    seam = seam[order]
    first = ((edge[:-1] == edge[1:]) & (size[edge[:-1]] == 2)).nonzero().squeeze(1)
    half, other = seam[first], seam[first + 1]
    return twin.scatter(0, half, other).scatter_(0, other, half)


def split_corners(
    faces: Tensor, vertex_count: int, twin: Tensor, flip: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Gives each fan of faces around a vertex its own vertex; returns (faces [F, 3] int64, source [V'] int64).

    faces: [F, 3] int64, below vertex_count.  twin: [3 F] int64, flip: [F] bool, of a `Surface`.  source: the input
    vertex of each output vertex. The fan with the lowest corner keeps the vertex; the other fans get new vertices
    after the last, by lowest corner.
    """
    group = corner_groups(twin, flip, backend=backend)
    corner = torch.arange(len(group), device=group.device)
    vertex = origins(faces)
    lowest = torch.full((vertex_count,), len(group), device=group.device).scatter_reduce_(0, vertex, corner, "amin")
    extra = ((group == corner) & (lowest[vertex] != corner)).nonzero().squeeze(1)
    renamed = vertex.clone()
    renamed[extra] = vertex_count + torch.arange(len(extra), device=group.device)
    source = torch.cat([torch.arange(vertex_count, device=group.device), vertex[extra]])
    return renamed[group].reshape(-1, 3), source
