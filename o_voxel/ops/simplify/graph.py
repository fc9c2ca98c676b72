"""A mesh as edge collapses need it: faces, edges with what they know, and a quadric a vertex.

Lengths are in units of about the mean edge. A quadric is the sum of squared distances to planes, weighted by area,
about its vertex's own position, so that float32 holds it: what is summed is small wherever the mesh lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

# The six different entries of a symmetric matrix, in the order in which a quadric keeps them.
ENTRIES = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
# Planes through open edges, upright on their faces, hold the border: by this times the edge's squared length.
BORDER_WEIGHT = 10.0
# Added to the degree of a vertex that must stay.
LOCK = 1 << 20
# Fixed point makes the sums exact, so the order of a GPU's additions is no matter.
FIXED_POINT = 2.0**24
FACES_A_STEP = 1 << 20


@dataclass(frozen=True, eq=False)
class Graph:
    """V vertices, whose rows stay when they are collapsed; E edges and F faces, which go.

    position: [V, 3] float32.  quadric: [V, 10] float32: ENTRIES of the matrix, the vector, the constant.
    degree: [V] int32, a vertex's edges that do not have two faces; LOCK more where it must stay.
    faces: [F, 3] int32.  facing: [F, 3] float32, the unit normal that each face had at first, zero without area.
    ends: [E, 2] int32.  count: [E] int32, an edge's faces.
    ready: [E] int32, the round from which an edge may be tried.  strikes: [E] int32, how often it was refused.
    """

    position: Tensor
    quadric: Tensor
    degree: Tensor
    faces: Tensor
    facing: Tensor
    ends: Tensor
    count: Tensor
    ready: Tensor
    strikes: Tensor


def build_graph(position: Tensor, faces: Tensor, locked: Tensor | None) -> Graph:
    """The graph of `faces` [F, 3] int32, F >= 1, each with three different corners, over `position` [V, 3] float32.

    locked: [V] bool, vertices that must stay.
    """
    ends, count, open_sides = _edges(faces, len(position))
    degree = torch.zeros(len(position), dtype=torch.int32, device=faces.device)
    odd = ends[count != 2].flatten().long()
    degree.index_add_(0, odd, torch.ones_like(odd, dtype=torch.int32))
    if locked is not None:
        degree += locked.to(torch.int32) * LOCK
    planes = _plane_sums(position, faces, open_sides)
    quadric = torch.cat([planes, planes.new_zeros(len(planes), 4)], dim=1)
    facing = normalize(face_normals(position[faces.long()]), dim=1, eps=1e-30)
    zeros = torch.zeros_like(count)
    return Graph(position, quadric, degree, faces, facing, ends, count, zeros, zeros)


def open_sides_of(faces: Tensor, vertices: int) -> tuple[Tensor, Tensor]:
    """ends [B, 2] int32 of the edges with one face, of `faces` [F, 3] int32, and that face [B] int64."""
    sides = _edges(faces, vertices)[2]
    corner, face = sides // len(faces), sides % len(faces)
    return torch.stack([faces[face, corner], faces[face, (corner + 1) % 3]], dim=1), face


def _edges(faces: Tensor, vertices: int) -> tuple[Tensor, Tensor, Tensor]:
    """ends [E, 2] int32, count [E] int32, and the sides (corner * F + face) [B] int64 with an edge of their own."""
    sides = torch.stack([faces, faces.roll(-1, 1)], dim=2).transpose(0, 1).reshape(-1, 2)
    low, high = sides.aminmax(dim=1)
    keys, order = torch.sort(low.long() * vertices + high, stable=True)
    first = torch.ones_like(keys, dtype=torch.bool)
    torch.ne(keys[1:], keys[:-1], out=first[1:])
    start = first.nonzero().flatten()
    count = torch.diff(start, append=start.new_tensor([len(keys)])).to(torch.int32)
    keys = keys[start]
    ends = torch.stack([keys // vertices, keys % vertices], dim=1).to(torch.int32)
    return ends, count, order[start[count == 1]]


def _plane_sums(position: Tensor, faces: Tensor, open_sides: Tensor) -> Tensor:
    """ENTRIES [V, 6] float32 of each vertex's faces and open edges; their planes pass through it: nothing else is."""
    sums = torch.zeros(len(position), 6, dtype=torch.int64, device=position.device)
    for part in faces.split(FACES_A_STEP):
        rows = part.long()
        normal = face_normals(position[rows])
        _add_planes(sums, normal, normal.norm(dim=1) / 2, rows)
    corner, face = open_sides // len(faces), open_sides % len(faces)
    ends = torch.stack([faces[face, corner], faces[face, (corner + 1) % 3]], dim=1).long()
    side = position[ends[:, 1]] - position[ends[:, 0]]
    upright = torch.linalg.cross(side, face_normals(position[faces[face].long()]))
    _add_planes(sums, upright, BORDER_WEIGHT * side.square().sum(1), ends)
    return sums.float() / FIXED_POINT


def _add_planes(sums: Tensor, normal: Tensor, weight: Tensor, rows: Tensor) -> None:
    """Add the planes with `normal` [N, 3] to the vertices `rows` [N, K] of each."""
    unit = normalize(normal, dim=1, eps=1e-30)
    entries = torch.stack([unit[:, i] * unit[:, j] for i, j in ENTRIES], dim=1)
    planes = (entries * (weight * FIXED_POINT)[:, None]).round().long()
    for column in rows.unbind(1):
        sums.index_add_(0, column, planes)


def face_normals(corners: Tensor) -> Tensor:
    """Normals [..., 3], twice the area long, of triangles [..., 3, 3]."""
    return torch.linalg.cross(corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :])
