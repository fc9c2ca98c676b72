"""Angle-weighted vertex normals, smooth-by-angle splitting and MikkTSpace tangents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.checks import check_tensor
from ..core.exact_sums import precise, scatter_sums
from ..core.progress import Progress, in_background
from ..core.vectors import cross, dot, length, unit
from ..values import Mesh
from .connectivity.manifold import split_corners
from .connectivity.row_map import RowMap
from .connectivity.surface import join_faces
from .connectivity.topology import ValidMesh, area_vectors, check_mesh, origins

# A sum of directions shorter than this share of its weights has cancelled out.
CANCELLED = 1e-6
# For the estimate of the time, on two CPU cores.
FACES_A_SECOND = 400_000
# Rounds that propagate handedness to neighbours without UV area.
ROUNDS = 4


def vertex_normals(mesh: Mesh) -> Tensor:
    """Unit vertex normals [V, 3] float32: mean of the adjacent face normals, weighted by corner angle.

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces, of consistent winding (see `orient`). Never zero: where
    the normals cancel the largest face decides; vertices without adjacent area get +z. Deterministic; devices agree up
    to rounding.
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    return _mean_normals(mesh.vertices, faces)


def smooth_by_angle(
    mesh: Mesh, crease_deg: float = 60.0, *, backend: str = "auto", progress: Progress | None = None
) -> tuple[Mesh, Tensor, RowMap]:
    """Splits vertices along creases of more than `crease_deg`; returns (mesh, normals [V, 3] float32, rows).

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces. Crease vertices are duplicated, one per smooth side,
    after the others; faces keep their order and corners. Non-manifold vertices and edges, and edges with inconsistent
    winding, are split too: weld and orient first. crease_deg: dihedral bend, 0 (every bend is a crease) to 180 (none).
    Normals as `vertex_normals`. Deterministic; backends "auto", "numba", "reference".
    progress: called with the fraction done, 0 to 1; may raise, to cancel.
    Raises ValueError for an angle outside 0 to 180.
    """
    if not 0 <= crease_deg <= 180:
        raise ValueError(f"crease_deg: expected 0 to 180, got {crease_deg}")
    check_mesh(mesh)
    seconds = 1 + len(mesh.faces) / FACES_A_SECOND
    return in_background(lambda report: _smooth_by_angle(mesh, crease_deg, backend, report), progress, seconds)


def _smooth_by_angle(mesh: Mesh, crease_deg: float, backend: str, report: Progress) -> tuple[Mesh, Tensor, RowMap]:
    """`smooth_by_angle` of a checked mesh."""
    faces = mesh.faces.to(torch.int64)
    twin = _consistent_twins(mesh.vertices, faces, backend)
    report(0.4)
    normal = unit(area_vectors(mesh.vertices, faces))
    half = (twin >= 0).nonzero().squeeze(1)
    here, there = normal[half // 3], normal[twin[half] // 3]
    cosine = dot(here, there)
    flat = (dot(here, here) == 0) | (dot(there, there) == 0)
    # Tolerance: rounding must not make creases of coplanar faces at 0 degrees, nor of folds at 180.
    twin[half[(cosine < math.cos(math.radians(crease_deg)) - 1e-9) & ~flat]] = -1
    split, source = _split(faces, len(mesh.vertices), twin, backend)
    report(0.7)
    smooth = ValidMesh(mesh.vertices[source], split.to(mesh.faces.dtype))
    rows = RowMap(source, torch.arange(len(faces), device=faces.device))
    return smooth, _mean_normals(smooth.vertices, split), rows


def tangents(mesh: Mesh, normals: Tensor, uv: Tensor, *, backend: str = "auto") -> tuple[Mesh, Tensor, RowMap]:
    """Computes MikkTSpace tangents; returns (mesh, tangents [V, 4] float32, rows).

    normals: [V, 3] float32 unit vectors.  uv: [V, 2] float32, v upwards (glTF's v is 1 - v). xyz is the unit direction
    of increasing u, orthogonal to the normal; w is 1 or -1, and cross(normal, tangent) * w the direction of increasing
    v (glTF's convention). Face tangents are averaged per vertex in its tangent plane, weighted by corner angle.

    Vertices between mirrored and unmirrored UVs are duplicated, after the others; `rows` maps them to input vertices,
    to transfer normals and uv. Vertices with equal position, normal and uv should be merged before. Faces without UV
    area take the handedness of a neighbour; where no direction is left, any orthogonal to the normal is used.
    Deterministic; backends "auto", "numba", "reference".
    Raises ValueError for wrong shapes and for non-finite normals or uv.
    """
    count = len(check_mesh(mesh).vertices)
    for name, value, width in (("normals", normals, 3), ("uv", uv, 2)):
        if not bool(check_tensor(value, name, (count, width), torch.float32).isfinite().all()):
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    faces = mesh.faces.to(torch.int64)
    direction, side = _texture_directions(mesh.vertices, uv, faces)
    twin = _consistent_twins(mesh.vertices, faces, backend)
    side = _fill_handedness(side, twin)
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
    """Corner angles [F, 3] float64 (float32 on MPS), in radians, of faces [F, 3]; vertices: [V, 3] float."""
    position = [precise(vertices[faces[:, k]]) for k in range(3)]
    angles = []
    for k in range(3):
        out, back = position[(k + 1) % 3] - position[k], position[(k + 2) % 3] - position[k]
        angles.append(torch.atan2(length(cross(out, back)), dot(out, back)))
    return torch.stack(angles, 1)


def _consistent_twins(vertices: Tensor, faces: Tensor, backend: str) -> Tensor:
    """Twins [3 F] int64, -1 also between faces of inconsistent winding."""
    twin = join_faces(vertices, faces, backend=backend).twin
    return twin.masked_fill(origins(faces) == origins(faces)[twin], -1)


def _split(faces: Tensor, vertex_count: int, twin: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return split_corners(faces, vertex_count, twin, torch.zeros_like(faces[:, 0], dtype=torch.bool), backend=backend)


def _mean_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """`vertex_normals` of faces [F, 3] int64."""
    vector = area_vectors(vertices, faces)
    angle = corner_angles(vertices, faces)
    weight = torch.where(length(vector)[:, None] > 0, angle, 0.0)
    # Column by column: all at once takes half a gigabyte for a million faces.
    columns = [*unit(vector).unbind(1), None]
    parts = ((weight if column is None else column[:, None] * angle).reshape(-1, 1) for column in columns)
    sums = torch.cat([scatter_sums(part, faces.flatten(), len(vertices)) for part in parts], 1)
    lost = length(sums[:, :3]) <= CANCELLED * sums[:, 3]
    return torch.where(lost[:, None], _largest_normals(vector, faces, lost), unit(sums[:, :3])).to(torch.float32)


def _largest_normals(vector: Tensor, faces: Tensor, wanted: Tensor) -> Tensor:
    """Normals [V, 3] of the largest adjacent face (ties: the first) of the vertices in `wanted` [V] bool; else +z.

    vector: [F, 3] area vectors.
    """
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
    """(unit direction of increasing u [F, 3], zero if undefined; handedness [F] int64: 1, -1 mirrored, 0 undefined)."""
    a, b, c = (precise(vertices[faces[:, k]]) for k in range(3))
    s, t, r = (precise(uv[faces[:, k]]) for k in range(3))
    (u1, v1), (u2, v2) = (t - s).unbind(1), (r - s).unbind(1)
    area = u1 * v2 - v1 * u2
    direction = unit(v2[:, None] * (b - a) - v1[:, None] * (c - a))
    side = torch.where(length(direction) > 0, area.sign(), 0.0)
    return direction * side[:, None], side.to(torch.int64)


def _fill_handedness(side: Tensor, twin: Tensor) -> Tensor:
    """Propagates handedness `side` [F] int64 from the first neighbour that has one to faces with 0; 1 if none has."""
    if not bool((side == 0).any()):
        return side
    for _ in range(ROUNDS):
        across = torch.where(twin < 0, 0, side[twin // 3]).reshape(-1, 3)
        for k in range(3):
            side = torch.where(side == 0, across[:, k], side)
    return torch.where(side == 0, 1, side)


def _mean_tangents(vertices: Tensor, faces: Tensor, normal: Tensor, direction: Tensor) -> Tensor:
    """Unit tangents [V, 3] orthogonal to `normal` [V, 3], averaged from the face tangents `direction` [F, 3]."""
    parts = []
    for k in range(3):
        here, up = precise(vertices[faces[:, k]]), normal[faces[:, k]]
        out, back = (_project(precise(vertices[faces[:, (k + step) % 3]]) - here, up) for step in (1, 2))
        angle = torch.atan2(length(cross(out, back)), dot(out, back))
        parts.append(_project(direction, up) * angle[:, None])
    sums = scatter_sums(torch.cat(parts), faces.T.reshape(-1), len(vertices))
    sums = torch.where((length(sums) > CANCELLED)[:, None], sums, 0.0)
    mean = _project(sums, normal)
    return torch.where((length(mean) > 0)[:, None], mean, _any_orthogonal(normal))


def _project(vector: Tensor, normal: Tensor) -> Tensor:
    """Unit projection [N, 3] of `vector` onto the plane orthogonal to `normal`, both [N, 3]; zero if undefined."""
    return unit(vector - normal * dot(vector, normal)[:, None])


def _any_orthogonal(normal: Tensor) -> Tensor:
    """A unit vector [N, 3] orthogonal to each `normal` [N, 3]."""
    axis = torch.nn.functional.one_hot(normal.abs().argmin(1), 3).to(normal.dtype)
    return _project(axis, normal)
