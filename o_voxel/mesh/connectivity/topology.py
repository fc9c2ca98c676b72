"""What every repair starts from: a checked mesh, its edges, its components, and where rows came from.

Half-edge h = 3 f + k of face f runs from its corner k to its corner (k + 1) % 3; corner c = 3 f + k is where half-edge
c starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.exact_sums import precise
from ...core.vectors import cross
from ...ops.mesh_connectivity import match_edges
from ...values import Mesh


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


class ValidMesh(Mesh):
    """A mesh with finite vertices and faces that name them: what `check_mesh` has seen, and what repairs return.

    Functions of `o_voxel.mesh` accept any Mesh and return valid ones, so a chain of them checks its input once.
    """


def check_mesh(mesh: Mesh) -> ValidMesh:
    """The same vertices and faces as a ValidMesh; `mesh` itself if it is one already.

    Waits for the device, unless it is. Raises ValueError where a vertex is not finite, or a face names a vertex that
    is not there.
    """
    if isinstance(mesh, ValidMesh):
        return mesh
    _validate(mesh)
    return ValidMesh(mesh.vertices, mesh.faces)


def _validate(mesh: Mesh) -> None:
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


def area_vectors(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F, 3] float64 (float32 on MPS), each along its face's normal and as long as its area."""
    a, b, c = (precise(vertices[faces[:, k]]) for k in range(3))
    return cross(b - a, c - a) / 2
