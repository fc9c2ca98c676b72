"""Remove the small parts of a mesh that hang together with nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.exact_sums import Groups
from ...core.vectors import length
from ...ops.mesh_connectivity import components
from ...values import Mesh
from .row_map import RowMap, select_faces
from .topology import area_vectors, edges


@dataclass(frozen=True)
class LeftOut:
    """Components that `keep_within` removed.

    parts: how many, of `total`.  area_share: their part of the mesh's area, 0 to 1.
    """

    parts: int
    total: int
    area_share: float

    def __str__(self) -> str:
        return f"{self.parts:,} of {self.total:,} parts ({self.area_share:.2%} of the area)"


def remove_small_components(
    mesh: Mesh,
    min_area_share: float = 1e-5,
    min_faces: int = 0,
    keep_largest: int | None = None,
    *,
    backend: str = "auto",
) -> tuple[Mesh, RowMap]:
    """The mesh without its small components, and without vertices that no face uses.

    A component is a set of faces that reach each other across shared edges. It stays when it has at least
    `min_area_share` of the mesh's area (0 to 1), at least `min_faces` faces, and, with `keep_largest`, is among that
    many largest by area (of equals, the one with the lowest face). The largest one always stays. Order is kept.
    Deterministic; the same on every backend ("auto", "numba", "reference").
    Raises ValueError for a share outside 0 to 1, a negative number of faces or fewer than one component to keep.
    """
    check_limits(min_area_share, min_faces, keep_largest)
    label = face_components(mesh, backend=backend)
    kept = large_enough(mesh.vertices, mesh.faces.to(torch.int64), label, min_area_share, min_faces, keep_largest)
    return select_faces(mesh, kept)


def keep_within(mesh: Mesh, faces: int, *, backend: str = "auto") -> tuple[Mesh, RowMap, LeftOut]:
    """The mesh with the largest components, by area, that have at most `faces` faces together; the largest stays.

    The first that does not fit, and all smaller ones, go; the last value counts them. Otherwise as
    `remove_small_components`.
    Raises ValueError for less than one face.
    """
    if faces < 1:
        raise ValueError(f"faces: expected at least 1, got {faces}")
    groups = Groups.of_labels(face_components(mesh, backend=backend))
    area, number = _areas(mesh.vertices, mesh.faces.to(torch.int64), groups)
    order = area.sort(descending=True, stable=True).indices
    fits = number[order].cumsum(0) <= faces
    fits[:1] = True
    stays = torch.empty_like(fits).scatter_(0, order, fits)
    share = float(area[~stays].sum() / area.sum()) if bool((area > 0).any()) else 0.0
    return *select_faces(mesh, stays[groups.number]), LeftOut(int((~stays).sum()), groups.count, share)


def check_limits(min_area_share: float, min_faces: int, keep_largest: int | None) -> None:
    """Raises ValueError for limits that `remove_small_components` does not take."""
    if not 0 <= min_area_share <= 1:
        raise ValueError(f"min_area_share: expected 0 to 1, got {min_area_share}")
    if min_faces < 0:
        raise ValueError(f"min_faces: expected 0 or more, got {min_faces}")
    if keep_largest is not None and keep_largest < 1:
        raise ValueError(f"keep_largest: expected 1 or more, or None, got {keep_largest}")


def large_enough(
    vertices: Tensor, faces: Tensor, label: Tensor, min_area_share: float, min_faces: int, keep_largest: int | None
) -> Tensor:
    """Faces [F] bool of the components that stay; label [F] int64: the lowest face of each face's component."""
    groups = Groups.of_labels(label)
    area, number = _areas(vertices, faces, groups)
    order = area.sort(descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(groups.count, device=order.device))
    stays = (area >= min_area_share * area.sum()) & (number >= min_faces)
    if keep_largest is not None:
        stays &= rank < keep_largest
    return (stays | (rank == 0))[groups.number]


def _areas(vertices: Tensor, faces: Tensor, groups: Groups) -> tuple[Tensor, Tensor]:
    """Twice the area and the number of faces of each group of faces."""
    area = groups.sums(length(area_vectors(vertices, faces))[:, None])[:, 0]
    return area, groups.totals(torch.ones_like(groups.number)[:, None])[:, 0]


def face_components(mesh: Mesh, *, backend: str = "auto") -> Tensor:
    """The lowest face [F] int64 that each face reaches across shared edges, whatever number of faces they have."""
    found = edges(mesh, backend=backend)
    inside = torch.ones_like(found.order, dtype=torch.bool)
    inside[found.start[:-1]] = False
    inside = inside.nonzero().squeeze(1)
    first, second = found.order[inside - 1] // 3, found.order[inside] // 3
    return components(len(mesh.faces), first, second, torch.zeros_like(first, dtype=torch.bool), backend=backend)[0]
