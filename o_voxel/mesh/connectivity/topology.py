"""What every repair starts from: a checked mesh, its edges, its components, and where rows came from.

Half-edge h = 3 f + k of face f runs from its corner k to its corner (k + 1) % 3; corner c = 3 f + k is where half-edge
c starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.exact_sums import precise
from ...ops.mesh_connectivity import components, match_edges
from ...values import Mesh

Progress = Callable[[float], None]


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


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of a mesh, by their lower vertex, then by the higher one.

    order: [3 F] int64, half-edges grouped by edge, ascending in each.  start: [E + 1] int64: edge e has the half-edges
    order[start[e] : start[e + 1]].
    """

    order: Tensor
    start: Tensor

    @property
    def sizes(self) -> Tensor:
        """Faces at each edge [E] int64."""
        return self.start.diff()

    def ends(self, faces: Tensor) -> Tensor:
        """The two vertices [E, 2] int64 of each edge, the lower one first."""
        half = self.order[self.start[:-1]]
        ends = torch.stack([origins(faces)[half], origins(faces)[following(half)]], 1)
        return ends.sort(1).values


def check_mesh(mesh: Mesh) -> Mesh:
    """`mesh` itself. Raises ValueError where a vertex is not finite or a face names a vertex that is not there."""
    if mesh.vertices.device != mesh.faces.device:
        raise ValueError(f"mesh: expected faces on {mesh.vertices.device}, got {mesh.faces.device}")
    finite = mesh.vertices.isfinite().all(1)
    if not bool(finite.all()):
        wrong = (~finite).nonzero().squeeze(1).tolist()
        raise ValueError(f"mesh: expected finite vertices, got {len(wrong)} with NaN or infinity, first {wrong[0]}")
    if len(mesh.faces):
        low, high = mesh.faces.min(), mesh.faces.max()
        if not 0 <= int(low) <= int(high) < len(mesh.vertices):
            raise ValueError(f"mesh: expected faces of vertices 0 to {len(mesh.vertices) - 1}, got {low} to {high}")
    return mesh


def origins(faces: Tensor) -> Tensor:
    """The vertex [3 F] that each half-edge of `faces` [F, 3] starts at."""
    return faces.reshape(-1)


def following(half: Tensor) -> Tensor:
    """The next half-edge around the face of each."""
    return half + 1 - 3 * (half % 3 == 2)


def preceding(half: Tensor) -> Tensor:
    """The half-edge before each, around its face."""
    return half - 1 + 3 * (half % 3 == 0)


def edges(mesh: Mesh, *, backend: str = "auto") -> Edges:
    """The edges of a mesh, with all faces of each. Deterministic; backends as `ops.mesh_clean`."""
    return Edges(*match_edges(check_mesh(mesh).faces.to(torch.int64), len(mesh.vertices), backend=backend))


def face_components(mesh: Mesh, *, backend: str = "auto") -> Tensor:
    """The lowest face [F] int64 that each face reaches across shared edges, whatever number of faces they have."""
    found = edges(mesh, backend=backend)
    inside = torch.ones_like(found.order, dtype=torch.bool)
    inside[found.start[:-1]] = False
    inside = inside.nonzero().squeeze(1)
    first, second = found.order[inside - 1] // 3, found.order[inside] // 3
    return components(len(mesh.faces), first, second, torch.zeros_like(first, dtype=torch.bool), backend=backend)[0]


def area_vectors(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F, 3] float64 (float32 on MPS), each along its face's normal and as long as its area."""
    a, b, c = (precise(vertices[faces[:, k]]) for k in range(3))
    return cross(b - a, c - a) / 2


def cross(a: Tensor, b: Tensor) -> Tensor:
    """[N, 3] cross products, rounded step by step: a fused kernel would round otherwise than another device."""
    (ax, ay, az), (bx, by, bz) = a.unbind(-1), b.unbind(-1)
    return torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], -1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[N] dot products of [N, 3], added in order."""
    product = a * b
    return product[..., 0] + product[..., 1] + product[..., 2]


def length(a: Tensor) -> Tensor:
    """[N] lengths of [N, 3]."""
    return dot(a, a).sqrt()


def unit(a: Tensor) -> Tensor:
    """[N, 3] directions, zero where `a` is."""
    size = length(a)[..., None]
    return torch.where(size > 0, a / size, 0.0)


def select_faces(mesh: Mesh, kept: Tensor) -> tuple[Mesh, RowMap]:
    """The faces `kept` [F] bool of a mesh, with the vertices that they use, in order."""
    rows = kept.nonzero().squeeze(1)
    faces = mesh.faces[rows]
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool, device=faces.device)
    used[faces.flatten()] = True
    vertices = used.nonzero().squeeze(1)
    number = (used.cumsum(0) - 1).to(mesh.faces.dtype)
    return Mesh(mesh.vertices[vertices], number[faces]), RowMap(vertices, rows)
