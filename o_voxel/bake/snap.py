"""From a point near a dense surface to the surface itself, on the side that the point stands for."""

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

# Where else to begin, of the distance allowed: thin parts need little, and a long step may land at something else.
AHEAD = (0.25, -0.25, 0.75, -0.75)


class Snapped(NamedTuple):
    """points: [P, 3] float32 on the surface, or as they were.  normals, flat: [P, 3] float32, the surface's, smooth and
    of the face, or as they were.  found: [P] bool, whether the surface was near and agreed.
    """

    points: Tensor
    normals: Tensor
    flat: Tensor
    found: Tensor


@dataclass(frozen=True, eq=False)
class DenseSurface:
    """A mesh to snap to. oriented: its faces wind alike, with their front outside; normals: [V, 3], None otherwise."""

    mesh: Mesh
    index: MeshIndex
    normals: Tensor | None

    @classmethod
    def of(cls, mesh: Mesh, oriented: bool) -> DenseSurface:
        """Raises ValueError for positions not finite or faces of vertices that are not there."""
        index = build_index(mesh)
        return cls(mesh, index, vertex_normals(mesh) if oriented else None)

    def snap(
        self, points: Tensor, normals: Tensor, max_distance: float, min_cosine: float, *, backend: str = "auto"
    ) -> Snapped:
        """The nearest places to `points` [P, 3] whose face agrees with the unit `normals` [P, 3].

        Nothing farther than `max_distance` (world units) counts, nor a face whose normal's cosine with the point's is
        below `min_cosine`, nor its absolute value where the surface is not oriented. Where the nearest place is on the
        wrong side of a thin part, the right one is sought from some places ahead of the point and behind it.
        A surface not oriented gives its faces' normals, turned to the point's side. Deterministic.
        """
        snapped = self._nearest(points, points, normals, max_distance, min_cosine, backend)
        for ahead in AHEAD:
            missed = (~snapped.found).nonzero().squeeze(1)
            if len(missed) == 0:
                break
            here, facing = points[missed], normals[missed]
            start = here + facing * (ahead * max_distance)
            again = self._nearest(start, here, facing, max_distance, min_cosine, backend)
            snapped = Snapped(*(old.index_copy(0, missed, new) for old, new in zip(snapped, again, strict=True)))
        return snapped

    def _nearest(
        self, start: Tensor, points: Tensor, normals: Tensor, max_distance: float, min_cosine: float, backend: str
    ) -> Snapped:
        """What is nearest to `start` [P, 3], if it is near `points` and agrees."""
        nearest = closest_point(self.index, start, max_distance, backend=backend)
        rows = self.mesh.faces[nearest.face.clamp_min(0)].long()
        corners = self.mesh.vertices[rows]
        place = interpolate(corners, nearest.barycentric)
        flat = unit(cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
        cosine = dot(flat, normals).clamp(-1, 1)
        if self.normals is None:
            flat = smooth = flat * cosine.sign()[:, None]
            cosine = cosine.abs()
        else:
            smooth = unit(interpolate(self.normals[rows], nearest.barycentric))
        offset = place - points
        found = (nearest.face >= 0) & (cosine >= min_cosine) & (dot(offset, offset) <= max_distance**2)
        kept = zip((place, smooth, flat), (points, normals, normals), strict=True)
        return Snapped(*(torch.where(found[:, None], new, old) for new, old in kept), found)
