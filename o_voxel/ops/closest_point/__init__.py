"""The closest point on a mesh: an index built once, then any number of queries."""

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
    """distance: [N] float32, world units, inf where there is none.  face: [N] int64, -1 where there is none.

    barycentric: [N, 3] float32, the weights of the face's corners that give the point, 0 where there is none.
    """

    distance: Tensor
    face: Tensor
    barycentric: Tensor


@dataclass(frozen=True, eq=False)
class MeshIndex:
    """What `build_index` makes. tree: None for a mesh without faces; count: its faces."""

    tree: Tree | None
    count: int
    device: torch.device


def build_index(mesh: Mesh) -> MeshIndex:
    """An index over the faces of `mesh`, for `closest_point`: about 90 bytes a face, on the mesh's device.

    Faces may be degenerate, coincident or non-manifold, wound either way; vertices without faces do not count.
    Deterministic. Raises ValueError for face indices out of range or positions not finite.
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
    """The point of the mesh nearest to each of `points` [N, 3] float32, world units, on the index's device.

    Exact: triangles are compared in float64, and what is compared is the squared distance rounded to float32; of
    faces equally near, the first. So the answer depends on neither the order of the queries nor the backend, but for
    a rounding that falls between two float32.

    max_distance: only what is at most so far counts, world units; a small one makes far queries fast.
    backend: "triton" (GPU; short launches, whatever the number of queries), "numba" (CPU, all of torch's threads),
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
    # Neighbours in the order look at the same nodes: of the tree's memory, most is then in a cache.
    leaf, order = torch.sort(index.tree.likely_leaves(points))
    if chosen == "triton":
        from .kernel import closest_gpu as closest
    else:
        from .kernel_cpu import closest_cpu as closest
    return ClosestPoints(*closest(index.tree, points, leaf, order, furthest))


def _check_finite(values: Tensor, name: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name}: expected finite positions, got NaN or infinity")


__all__ = ["CHOICES", "ClosestPoints", "MeshIndex", "build_index", "closest_point"]
