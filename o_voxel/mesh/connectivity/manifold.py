"""Cut a mesh open where it is no surface: edges of more than two faces, vertices where separate fans meet."""

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
    """The mesh with copies of vertices, so that every edge has one or two faces and every vertex one fan of them.

    Where more than two faces share an edge they are paired, so that a closed mesh stays closed wherever its vertices
    allow: the sides of a solid where outside and inside alternate, or else the faces that go on most smoothly. An odd
    face gets a boundary, and so does a strip that no winding fits, which is cut across. Faces keep their order and
    corners; copies follow the V vertices, in the order of the corners that use them. Faces that name a vertex twice
    stay. Deterministic; the same on every backend ("auto", "numba", "reference").
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    surface = join_faces(mesh.vertices, faces, backend=backend)
    split, source, _ = split_surface(faces, len(mesh.vertices), surface, backend=backend)
    rows = RowMap(source, torch.arange(len(faces), device=faces.device))
    return ValidMesh(mesh.vertices[source], split.to(mesh.faces.dtype)), rows


def split_surface(
    faces: Tensor, vertex_count: int, surface: Surface, *, backend: str = "auto"
) -> tuple[Tensor, Tensor, Surface]:
    """(faces [F, 3] int64, source [V] int64, the vertex that each is a copy of, the surface with the edges so made)."""
    split, source = split_corners(faces, vertex_count, surface.twin, surface.flip, backend=backend)
    if len(surface.seam) == 0:
        return split, source, surface
    seam = surface.seam.unique()
    _, crowd, size = _edge_keys(split, seam)
    crowded = seam[size[crowd] > 2]
    if len(crowded):
        twin = surface.twin.clone()
        twin[crowded] = -1
        surface = replace(surface, twin=twin)
        split, source = split_corners(faces, vertex_count, surface.twin, surface.flip, backend=backend)
    return split, source, replace(surface, twin=_join_meeting(split, seam, surface.twin))


def _edge_keys(faces: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(edges [E, 2], which of them [N] each of `half` [N] is on, how many [E] are on each)."""
    ends = torch.stack([origins(faces)[half], origins(faces)[following(half)]], 1).sort(1).values
    return ends.unique(dim=0, return_inverse=True, return_counts=True)


def _join_meeting(faces: Tensor, seam: Tensor, twin: Tensor) -> Tensor:
    """`twin` with the half-edges of `seam` joined that have come to lie on one edge, two by two."""
    _, edge, size = _edge_keys(faces, seam)
    edge, order = edge.sort(stable=True)
    seam = seam[order]
    first = ((edge[:-1] == edge[1:]) & (size[edge[:-1]] == 2)).nonzero().squeeze(1)
    half, other = seam[first], seam[first + 1]
    return twin.scatter(0, half, other).scatter_(0, other, half)


def split_corners(
    faces: Tensor, vertex_count: int, twin: Tensor, flip: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(faces [F, 3] int64, source [V'] int64) with a vertex of its own for each fan of faces around a vertex.

    The fan with a vertex's lowest corner keeps the vertex; the others get new ones after the last, by lowest corner.
    source: the vertex that each is a copy of.  twin, flip: of a `Surface`.
    """
    group = corner_groups(twin, flip, backend=backend)
    corner = torch.arange(len(group), device=group.device)
    vertex = origins(faces)
    lowest = torch.full((vertex_count,), len(group), device=group.device).scatter_reduce_(0, vertex, corner, "amin")
    extra = ((group == corner) & (lowest[vertex] != corner)).nonzero().squeeze(1)
    named = vertex.clone()
    named[extra] = vertex_count + torch.arange(len(extra), device=group.device)
    source = torch.cat([torch.arange(vertex_count, device=group.device), vertex[extra]])
    return named[group].reshape(-1, 3), source
