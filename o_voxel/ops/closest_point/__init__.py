"""Exact closest-point queries on a triangle mesh: a bounding volume hierarchy built once, for any number of queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend, triton_probe
from ...core.checks import check_tensor
from ...values import Mesh
from .tree import Tree, build_tree

BACKENDS = (Backend("triton", triton_probe), Backend("numba", numba_probe), Backend("reference", always))


class ClosestPoints(NamedTuple):
    """Results of `closest_point`; a query without a face within max_distance has distance inf, face -1, barycentric 0.

    distance: [N] float32, world units.  face: [N] int64.  barycentric: [N, 3] float32, weights of the face's corners at
    the closest point.
    """

    distance: Tensor
    face: Tensor
    barycentric: Tensor


@dataclass(frozen=True, eq=False)
class MeshIndex:
    """The hierarchy made by `build_index`. tree: None for a mesh without faces; count: number of faces."""

    tree: Tree | None
    count: int
    device: torch.device


def build_index(mesh: Mesh) -> MeshIndex:
    """Builds the hierarchy over the faces of `mesh` for `closest_point`: about 90 bytes per face, on the mesh's device.

    mesh: vertices [V, 3] float32, faces [F, 3] int32 or int64. Faces may be degenerate, coincident or non-manifold,
    with any winding; unreferenced vertices are ignored. Deterministic.
    Raises ValueError for face indices out of range or vertex positions not finite.
    """
    vertices, faces = mesh.vertices, mesh.faces
    if faces.device != vertices.device:
        raise ValueError(f"mesh: expected one device, got {vertices.device} and {faces.device}")
    if len(faces) == 0:
        return MeshIndex(None, 0, vertices.device)
    low, high = (int(n) for n in torch.stack(faces.aminmax()))
    if low < 0 or high >= len(vertices):
        raise ValueError(f"mesh.faces: expected rows of {len(vertices)} vertices, got {low} to {high}")
    _check_finite(vertices, "mesh.vertices")
    return MeshIndex(build_tree(vertices.contiguous(), faces), len(faces), vertices.device)


def closest_point(
    index: MeshIndex, points: Tensor, max_distance: float | None = None, *, backend: str = "auto"
) -> ClosestPoints:
    """Returns the point of the mesh closest to each of `points` [N, 3] float32, world units, on the index's device.

    Exact: distances are computed in float64 and compared as squared distances rounded to float32; ties go to the lowest
    face. The result therefore does not depend on the order of the queries, and on the backend only where rounding falls
    between two float32.

    max_distance: world units; ignores faces farther away. A small value makes far queries fast.
    backend: "triton" (GPU; short launches for any number of queries), "numba" (CPU, all of torch's threads),
    "reference" (plain torch), or "auto".

    Raises ValueError for points not finite or on another device, or a negative or NaN max_distance.
    """
    check_tensor(points, "points", (None, 3), torch.float32)
    if points.device != index.device:
        raise ValueError(f"points: expected device {index.device}, as the index, got {points.device}")
    if max_distance is not None and not max_distance >= 0:
        raise ValueError(f"max_distance: expected None or at least 0, got {max_distance}")
    _check_finite(points, "points")
    chosen = resolve_backend(backend, BACKENDS, points.device)
    if index.tree is None or len(points) == 0:
        nothing = points.new_zeros(len(points))
        return ClosestPoints(nothing + torch.inf, nothing.long() - 1, torch.zeros_like(points))
    furthest = float("inf") if max_distance is None else float(max_distance)
    points = points.contiguous()
    if chosen == "reference":
        from .reference import closest_torch

        return ClosestPoints(*closest_torch(index.tree, points, furthest))
    # Queries sorted by leaf visit the same nodes as their neighbours, so most tree reads hit a cache.
    leaf, order = torch.sort(index.tree.likely_leaves(points))
    if chosen == "triton":
        from .kernel import closest_gpu as closest
    else:
        from .kernel_cpu import closest_cpu as closest
    return ClosestPoints(*closest(index.tree, points, leaf, order, furthest))


def _check_finite(values: Tensor, name: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name}: expected finite positions, got NaN or infinity")


__all__ = ["BACKENDS", "ClosestPoints", "MeshIndex", "build_index", "closest_point"]
