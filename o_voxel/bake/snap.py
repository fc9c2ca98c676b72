"""Projects points to the closest point of a dense mesh whose normal agrees with theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.vectors import cross, dot, unit
from ..mesh.normals import vertex_normals
from ..ops.closest_point import MeshIndex, build_index, closest_point
from ..values import Mesh
from .texels import interpolate

# Start offsets along the normal for retries, relative to the maximum distance: thin parts need small ones, and large
# ones may reach another part.
AHEAD = (0.25, -0.25, 0.75, -0.75)


class Snapped(NamedTuple):
    """points: [P, 3] float32, on the surface, or the input points.  normals, flat: [P, 3] float32, smooth and face
    normals of the surface, or the input normals.  found: [P] bool, true where a matching surface point was found.
    face: [P] int64, face of the point, -1 where none was found.  barycentric: [P, 3] float32, the point in it.
    """

    points: Tensor
    normals: Tensor
    flat: Tensor
    found: Tensor
    face: Tensor
    barycentric: Tensor

    def updated(self, rows: Tensor, other: Snapped) -> Snapped:
        """Returns a copy with `rows` [R] int64 replaced by those of `other`, of R points."""
        return Snapped(*(old.index_copy(0, rows, new) for old, new in zip(self, other, strict=True)))


@dataclass(frozen=True, eq=False)
class DenseSurface:
    """A mesh to snap to. normals: [V, 3] float32 vertex normals, or None if its faces are not oriented."""

    mesh: Mesh
    index: MeshIndex
    normals: Tensor | None

    @classmethod
    def of(cls, mesh: Mesh, oriented: bool) -> DenseSurface:
        """Indexes a mesh ([V, 3], [F, 3]). oriented: its faces have consistent outward winding.

        Raises ValueError for non-finite positions or face indices out of range.
        """
        index = build_index(mesh)
        return cls(mesh, index, vertex_normals(mesh) if oriented else None)

    def snap(
        self, points: Tensor, normals: Tensor, max_distance: float, min_cosine: float, *, backend: str = "auto"
    ) -> Snapped:
        """Closest surface points to `points` [P, 3] whose face normals agree with the unit `normals` [P, 3].

        Matches are within `max_distance` (world units), with a cosine between both normals of at least `min_cosine`
        (its absolute value if the surface is not oriented). Where the closest point is on the wrong side of a thin
        part, the search is repeated from points ahead of and behind the point. An unoriented surface returns face
        normals, flipped to the side of the point's normal. Deterministic.
        """
        snapped, near = self._closest(points, points, normals, max_distance, min_cosine, backend)
        for ahead in AHEAD:
            # Without any surface within the distance no start finds a match there.
            missed = (near & ~snapped.found).nonzero().squeeze(1)
            if len(missed) == 0:
                break
            here, facing = points.index_select(0, missed), normals.index_select(0, missed)
            start = here + facing * (ahead * max_distance)
            retry, _ = self._closest(start, here, facing, max_distance, min_cosine, backend)
            snapped = snapped.updated(missed, retry)
        return snapped

    def closest(
        self, points: Tensor, normals: Tensor, max_distance: float, min_cosine: float, *, backend: str = "auto"
    ) -> Snapped:
        """Matches of the closest surface point alone, as `snap` without repeated searches; points, normals: [P, 3]."""
        return self._closest(points, points, normals, max_distance, min_cosine, backend)[0]

    def _closest(
        self, start: Tensor, points: Tensor, normals: Tensor, max_distance: float, min_cosine: float, backend: str
    ) -> tuple[Snapped, Tensor]:
        """Closest points to `start` [P, 3] that match `points` and `normals` [P, 3], and whether any face is near
        [P] bool."""
        nearest = closest_point(self.index, start, max_distance, backend=backend)
        near = nearest.face >= 0
        # Several times faster than an index of two dimensions on a CPU.
        rows = self.mesh.faces.index_select(0, nearest.face.clamp_min(0)).long()
        corners = self.mesh.vertices.index_select(0, rows.flatten()).view(-1, 3, 3)
        closest = interpolate(corners, nearest.barycentric)
        flat = unit(cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
        cosine = dot(flat, normals).clamp(-1, 1)
        if self.normals is None:
            flat = smooth = flat * cosine.sign()[:, None]
            cosine = cosine.abs()
        else:
            smooth = unit(interpolate(self.normals.index_select(0, rows.flatten()).view(-1, 3, 3), nearest.barycentric))
        offset = closest - points
        found = near & (cosine >= min_cosine) & (dot(offset, offset) <= max_distance**2)
        kept = zip((closest, smooth, flat), (points, normals, normals), strict=True)
        face = torch.where(found, nearest.face, -1)
        points, smooth, flat = (torch.where(found[:, None], new, old) for new, old in kept)
        return Snapped(points, smooth, flat, found, face, nearest.barycentric), near
