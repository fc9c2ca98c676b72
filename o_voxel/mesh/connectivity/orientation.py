"""Outward orientation of mesh components: by signed volume, or by visibility from 14 orthographic views."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.exact_sums import Groups, precise
from ...core.vectors import dot, length
from ...ops.raster import rasterize
from .topology import area_vectors

# |volume| / area^1.5 is 0.094 for a sphere. The sign of a closed component's volume is always used; that of an open
# one, about its own centroid, only if it is clearly curved.
CLOSED_FLATNESS, OPEN_FLATNESS = 1e-12, 1e-2

VIEW_PIXELS = 512
VIEWS = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if 0 < abs(x) + abs(y) + abs(z) != 2]


def by_volume(vertices: Tensor, faces: Tensor, label: Tensor, flip: Tensor, boundary: Tensor) -> Tensor:
    """Returns the faces to flip [F] bool so that each component encloses a positive signed volume.

    vertices: [V, 3] float32.  faces: [F, 3] int64.  label: [F] int64 components.  flip: [F] bool, flips for consistent
    winding.  boundary: [F] bool, faces on a boundary. A flat open component keeps its faces' majority winding.
    """
    return enclosing(vertices, faces, label, flip, boundary)[0]


def enclosing(vertices: Tensor, faces: Tensor, label: Tensor, flip: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
    """As `by_volume` (vertices [V, 3], faces [F, 3]): (faces to flip [F] bool, faces oriented by volume [F] bool)."""
    groups = Groups.of_labels(label)
    vector = area_vectors(vertices, faces)
    a, b, c = (precise(vertices[faces[:, k]]) for k in range(3))
    center, size = (a + b + c) / 3, length(vector)[:, None]
    sums = groups.sums(torch.cat([center * size, size], 1))
    tiny = torch.finfo(sums.dtype).tiny
    centroid = sums[:, :3] / sums[:, 3:].clamp_min(tiny)
    sign = torch.where(flip, -1, 1)
    part = dot(center - centroid[groups.number], vector)[:, None] / 3 * sign[:, None]
    volume = groups.sums(part)[:, 0]
    is_open = torch.zeros(groups.count, dtype=torch.bool, device=label.device)
    is_open[groups.number[boundary]] = True
    flatness = volume.abs() / sums[:, 3].pow(1.5).clamp_min(tiny)
    reliable = flatness > torch.where(is_open, OPEN_FLATNESS, CLOSED_FLATNESS)
    votes = groups.totals(sign[:, None])[:, 0]
    inward = torch.where(reliable, volume < 0, votes < 0)
    return flip ^ inward[groups.number], reliable[groups.number]


def by_views(vertices: Tensor, faces: Tensor, label: Tensor, flip: Tensor, boundary: Tensor) -> Tensor:
    """As `by_volume`, by a vote of the pixels of 14 orthographic views that show a component's front or back.

    vertices: [V, 3] float32.  faces: [F, 3] int64. Components invisible in every view are oriented by volume.
    """
    fallback = by_volume(vertices, faces, label, flip, boundary)
    if len(faces) == 0:
        return fallback
    groups = Groups.of_labels(label)
    votes = torch.zeros(groups.count, 1, dtype=torch.int64, device=label.device)
    for view in VIEWS:
        front, pixels = _visible_pixels(vertices, faces, view)
        facing = torch.where(flip, -1, 1) * front * pixels
        votes += groups.totals(facing[:, None])
    votes = votes[:, 0]
    return torch.where((votes == 0)[groups.number], fallback, flip ^ (votes < 0)[groups.number])


def _visible_pixels(vertices: Tensor, faces: Tensor, view: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """(1 if front-facing, -1 if back-facing; number of visible pixels), each [F] int64, from direction `view`."""
    towards = torch.tensor(view, dtype=torch.float64)
    towards = towards / towards.norm()
    across = torch.linalg.cross(torch.eye(3, dtype=torch.float64)[int(towards.abs().argmin())], towards)
    across = across / across.norm()
    frame = torch.stack([across, torch.linalg.cross(towards, across), -towards], 1)
    points = precise(vertices) @ frame.to(precise(vertices))
    low, high = points.amin(0), points.amax(0)
    points = (points - (low + high) / 2) / ((high - low).amax() / 2).clamp_min(torch.finfo(torch.float32).tiny) * 0.99
    clip = torch.cat([points, torch.ones_like(points[:, :1])], 1).to(torch.float32)
    face = rasterize(clip, faces, (VIEW_PIXELS, VIEW_PIXELS)).face.flatten()
    pixels = torch.bincount(face[face >= 0].to(torch.int64), minlength=len(faces))
    normal = area_vectors(vertices, faces) @ towards.to(precise(vertices))
    return torch.where(normal < 0, -1, 1), pixels
