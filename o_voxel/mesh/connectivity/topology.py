"""Mesh validation, edge-to-half-edge tables and half-edge navigation.

Half-edge h = 3 f + k of face f runs from its corner k to its corner (k + 1) % 3; corner c = 3 f + k is the origin of
half-edge c.
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
    """The undirected edges of a mesh, sorted by (lower vertex, higher vertex).

    order: [3 F] int64, half-edges grouped by edge, ascending in each group.  start: [E + 1] int64; the half-edges of
    edge e are order[start[e] : start[e + 1]].
    """

    order: Tensor
    start: Tensor

    @property
    def sizes(self) -> Tensor:
        """Number of faces at each edge [E] int64."""
        return self.start.diff()

    def ends(self, faces: Tensor) -> Tensor:
        """The two vertices [E, 2] of each edge, the lower first; faces: [F, 3] integers."""
        half = self.order[self.start[:-1]]
        ends = torch.stack([origins(faces)[half], origins(faces)[following(half)]], 1)
        return ends.sort(1).values


class ValidMesh(Mesh):
    """A mesh with finite vertices and in-range face indices, as returned by `check_mesh` and the mesh operations.

    Functions of `o_voxel.mesh` accept any Mesh and return a ValidMesh, so a chain of them validates its input once.
    """


def check_mesh(mesh: Mesh) -> ValidMesh:
    """Validates a mesh ([V, 3] float32, [F, 3] int32 or int64) and returns it as a ValidMesh; a ValidMesh unchanged.

    Validation synchronises with the device. Raises ValueError for non-finite vertices, face indices out of range, or
    vertices and faces on different devices.
    """
    if isinstance(mesh, ValidMesh):
        return mesh
    _validate(mesh)
    return ValidMesh(mesh.vertices, mesh.faces)


def _validate(mesh: Mesh) -> None:
    """Raises ValueError for the first fault of vertices [V, 3] or faces [F, 3]."""
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
    """The origin vertex [3 F] of each half-edge of `faces` [F, 3]."""
    return faces.reshape(-1)


def following(half: Tensor) -> Tensor:
    """The next half-edge [N] around the face of each half-edge `half` [N] int64."""
    return half + 1 - 3 * (half % 3 == 2)


def preceding(half: Tensor) -> Tensor:
    """The previous half-edge [N] around the face of each half-edge `half` [N] int64."""
    return half - 1 + 3 * (half % 3 == 0)


def edges(mesh: Mesh, *, backend: str = "auto") -> Edges:
    """Computes the edges of a mesh with faces [F, 3]. Deterministic; backends as `ops.mesh_connectivity`."""
    return Edges(*match_edges(check_mesh(mesh).faces.to(torch.int64), len(mesh.vertices), backend=backend))


def area_vectors(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted face normals [F, 3] float64 (float32 on MPS) of vertices [V, 3] float and faces [F, 3] int64."""
    a, b, c = (precise(vertices[faces[:, k]]) for k in range(3))
    return cross(b - a, c - a) / 2
