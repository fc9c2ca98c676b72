"""Normals that shade a mesh smoothly, with creases where it bends sharply, and the tangents of its texture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.checks import check_tensor
from ..core.exact_sums import precise, scatter_sums
from ..core.vectors import cross, dot, length, unit
from ..values import Mesh
from .connectivity.manifold import split_corners
from .connectivity.row_map import RowMap
from .connectivity.surface import join_faces
from .connectivity.topology import ValidMesh, area_vectors, check_mesh, origins

# A sum of directions shorter than this share of its parts has cancelled out.
CANCELLED = 1e-6
# Rounds in which faces without a side in the texture take that of a neighbour.
ROUNDS = 4


def vertex_normals(mesh: Mesh) -> Tensor:
    """Unit normals [V, 3] float32: the mean of the faces at each vertex, weighted by their angle there.

    Never zero: where the faces cancel out the largest of them decides, and a vertex without an area around has +z.
    Faces must wind alike (see `orient`). Deterministic; devices agree but for rounding.
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    return _mean_normals(mesh.vertices, faces)


def smooth_by_angle(mesh: Mesh, crease_deg: float = 60.0, *, backend: str = "auto") -> tuple[Mesh, Tensor, RowMap]:
    """(mesh, normals [V, 3] float32, rows), smooth but where neighbouring faces bend by more than `crease_deg`.

    Vertices on a crease are copied, one for each smooth side, after the others; faces keep their order and corners. So
    are vertices and edges where surfaces only touch, and where neighbours wind against each other: weld and orient
    first. crease_deg: 0 (every bend is a crease) to 180 (none is). Normals as `vertex_normals`. Deterministic; backends
    "auto", "numba", "reference". Raises ValueError for an angle outside 0 to 180.
    """
    if not 0 <= crease_deg <= 180:
        raise ValueError(f"crease_deg: expected 0 to 180, got {crease_deg}")
    faces = check_mesh(mesh).faces.to(torch.int64)
    twin = _alike_twins(mesh.vertices, faces, backend)
    normal = unit(area_vectors(mesh.vertices, faces))
    half = (twin >= 0).nonzero().squeeze(1)
    here, there = normal[half // 3], normal[twin[half] // 3]
    cosine = dot(here, there)
    flat = (dot(here, here) == 0) | (dot(there, there) == 0)
    # Rounding must not make creases of flat ground at 0 degrees, nor of folds at 180.
    twin[half[(cosine < math.cos(math.radians(crease_deg)) - 1e-9) & ~flat]] = -1
    split, source = _split(faces, len(mesh.vertices), twin, backend)
    smooth = ValidMesh(mesh.vertices[source], split.to(mesh.faces.dtype))
    rows = RowMap(source, torch.arange(len(faces), device=faces.device))
    return smooth, _mean_normals(smooth.vertices, split), rows


def tangents(mesh: Mesh, normals: Tensor, uv: Tensor, *, backend: str = "auto") -> tuple[Mesh, Tensor, RowMap]:
    """(mesh, tangents [V, 4] float32, rows) of a texture, as MikkTSpace defines them.

    normals [V, 3] float32, of length 1; uv [V, 2] float32, v upwards (glTF's v is 1 - v). xyz is the unit direction of
    growing u, square to the normal; w is 1 or -1, and cross(normal, tangent) * w the direction of growing v, which is
    glTF's convention. Around a vertex the faces' directions are averaged, in the plane of its normal, by their angles.

    A vertex where mirrored and unmirrored parts of the texture meet is copied, one for each, after the others; `rows`
    says of which vertex, for normals and uv to follow. Vertices that are alike in place, normal and uv should be one.
    Faces without area in the texture take the side of a neighbour; where no direction is left, it is any that is square
    to the normal. Deterministic; backends "auto", "numba", "reference".
    Raises ValueError for wrong shapes, and for normals or uv that are not finite.
    """
    count = len(check_mesh(mesh).vertices)
    for name, value, width in (("normals", normals, 3), ("uv", uv, 2)):
        if not bool(check_tensor(value, name, (count, width), torch.float32).isfinite().all()):
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    faces = mesh.faces.to(torch.int64)
    direction, side = _texture_directions(mesh.vertices, uv, faces)
    twin = _alike_twins(mesh.vertices, faces, backend)
    side = _sides(side, twin)
    half = (twin >= 0).nonzero().squeeze(1)
    twin[half[side[half // 3] != side[twin[half] // 3]]] = -1
    split, source = _split(faces, count, twin, backend)
    normal = unit(precise(normals[source]))
    tangent = _mean_tangents(mesh.vertices[source], split, normal, direction)
    sign = torch.ones_like(normal[:, 0]).scatter_(0, split.flatten(), side.repeat_interleave(3).to(normal.dtype))
    rows = RowMap(source, torch.arange(len(faces), device=faces.device))
    whole = torch.cat([tangent, sign[:, None]], 1).to(torch.float32)
    return ValidMesh(mesh.vertices[source], split.to(mesh.faces.dtype)), whole, rows


def corner_angles(vertices: Tensor, faces: Tensor) -> Tensor:
    """Angles [F, 3] float64 (float32 on MPS) at the corners of faces [F, 3], in radians."""
    place = [precise(vertices[faces[:, k]]) for k in range(3)]
    angles = []
    for k in range(3):
        out, back = place[(k + 1) % 3] - place[k], place[(k + 2) % 3] - place[k]
        angles.append(torch.atan2(length(cross(out, back)), dot(out, back)))
    return torch.stack(angles, 1)


def _alike_twins(vertices: Tensor, faces: Tensor, backend: str) -> Tensor:
    """Twins [3 F], without those of faces that wind against each other."""
    twin = join_faces(vertices, faces, backend=backend).twin
    return twin.masked_fill(origins(faces) == origins(faces)[twin], -1)


def _split(faces: Tensor, vertex_count: int, twin: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return split_corners(faces, vertex_count, twin, torch.zeros_like(faces[:, 0], dtype=torch.bool), backend=backend)


def _mean_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """`vertex_normals` of faces [F, 3] int64."""
    vector = area_vectors(vertices, faces)
    angle = corner_angles(vertices, faces)
    parts = unit(vector)[:, None] * angle[..., None]
    weight = torch.where(length(vector)[:, None] > 0, angle, 0.0)
    sums = scatter_sums(torch.cat([parts, weight[..., None]], 2).reshape(-1, 4), faces.flatten(), len(vertices))
    lost = length(sums[:, :3]) <= CANCELLED * sums[:, 3]
    return torch.where(lost[:, None], _largest_normals(vector, faces, lost), unit(sums[:, :3])).to(torch.float32)


def _largest_normals(vector: Tensor, faces: Tensor, wanted: Tensor) -> Tensor:
    """Normals [V, 3] of the largest face, the first of equals, at the vertices `wanted` [V] bool; else +z."""
    normal = torch.zeros(len(wanted), 3, dtype=vector.dtype, device=vector.device)
    normal[:, 2] = 1
    corner = wanted[faces.flatten()].nonzero().squeeze(1)
    size = length(vector)
    corner = corner[size[corner // 3].sort(descending=True, stable=True).indices]
    corner = corner[faces.flatten()[corner].sort(stable=True).indices]
    vertex = faces.flatten()[corner]
    first = torch.ones_like(vertex, dtype=torch.bool)
    first[1:] = vertex[1:] != vertex[:-1]
    first &= size[corner // 3] > 0
    normal[vertex[first]] = unit(vector[corner[first] // 3])
    return normal


def _texture_directions(vertices: Tensor, uv: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """(direction of growing u [F, 3], zero where there is none; side [F] int64: 1, -1 if mirrored, 0 if neither)."""
    a, b, c = (precise(vertices[faces[:, k]]) for k in range(3))
    s, t, r = (precise(uv[faces[:, k]]) for k in range(3))
    (u1, v1), (u2, v2) = (t - s).unbind(1), (r - s).unbind(1)
    area = u1 * v2 - v1 * u2
    direction = unit(v2[:, None] * (b - a) - v1[:, None] * (c - a))
    side = torch.where(length(direction) > 0, area.sign(), 0.0)
    return direction * side[:, None], side.to(torch.int64)


def _sides(side: Tensor, twin: Tensor) -> Tensor:
    """`side` [F] with that of a neighbour, its first one that has any, for faces without; 1 where there is none."""
    for _ in range(ROUNDS):
        across = torch.where(twin < 0, 0, side[twin // 3]).reshape(-1, 3)
        for k in range(3):
            side = torch.where(side == 0, across[:, k], side)
    return torch.where(side == 0, 1, side)


def _mean_tangents(vertices: Tensor, faces: Tensor, normal: Tensor, direction: Tensor) -> Tensor:
    """Unit tangents [V, 3] square to `normal` [V, 3], from the `direction` [F, 3] of each face."""
    parts = []
    for k in range(3):
        here, up = precise(vertices[faces[:, k]]), normal[faces[:, k]]
        out, back = (_level(precise(vertices[faces[:, (k + step) % 3]]) - here, up) for step in (1, 2))
        angle = torch.atan2(length(cross(out, back)), dot(out, back))
        parts.append(_level(direction, up) * angle[:, None])
    sums = scatter_sums(torch.cat(parts), faces.T.reshape(-1), len(vertices))
    sums = torch.where((length(sums) > CANCELLED)[:, None], sums, 0.0)
    mean = _level(sums, normal)
    return torch.where((length(mean) > 0)[:, None], mean, _any_square(normal))


def _level(vector: Tensor, normal: Tensor) -> Tensor:
    """The unit direction [N, 3] of `vector` within the plane square to `normal`, both [N, 3]; zero if it has none."""
    return unit(vector - normal * dot(vector, normal)[:, None])


def _any_square(normal: Tensor) -> Tensor:
    """A unit direction [N, 3] square to each `normal` [N, 3]."""
    axis = torch.nn.functional.one_hot(normal.abs().argmin(1), 3).to(normal.dtype)
    return _level(axis, normal)
