"""Removal of the faces that nobody sees from outside: inner shells, buried parts, layers under the skin.

Visibility is decided by depth maps from directions all around (shadow mapping, Williams 1978), in orthographic
pictures whose pixels are about an edge of the mesh wide. A face is seen where it wins a pixel, or where its middle is
on the nearest surface, which finds the faces that are smaller than a pixel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.progress import Progress, in_background
from ...core.vectors import length, unit
from ...ops.ambient_occlusion import MARGIN, picture_axes, sphere_directions
from ...ops.raster import rasterize
from ...values import Mesh
from ..connectivity.row_map import RowMap, select_faces
from ..connectivity.topology import area_vectors, check_mesh

DIRECTIONS = 128
MOST_DIRECTIONS = 4096
LEAST_SIDE, MOST_SIDE = 128, 1024
# How far a face's middle may lie under the surface of its pixel and still belong to it, in pixels: the surface bends,
# and is met at the pixel's middle.
UNDER = 0.5
# Smallest cosine between a face and the direction: nearer to the silhouette a pixel spans much depth.
MIN_COSINE = 0.5
# Directions between two questions whether enough is seen: each waits for the device.
LOOKS = 8
# For the estimate of the time, on two CPU cores.
FACES_A_SECOND = 20_000_000


@torch.no_grad()
def remove_hidden_faces(
    mesh: Mesh,
    margin: int = 1,
    *,
    directions: int = DIRECTIONS,
    progress: Progress | None = None,
    backend: str = "auto",
) -> tuple[Mesh, RowMap]:
    """Removes the faces that no direction around the mesh sees, and unreferenced vertices; returns (mesh, rows).

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces, in any state; both sides of a face count.
    margin: rings of faces around what is seen that stay, 0 or more.  directions: 1 to 4096, spread over the sphere;
    what an opening shows stays if one of them looks through it, 128 are 18 degrees apart.
    progress: called with the fraction done, 0 to 1; its exceptions propagate.
    backend: of `rasterize`. Time: a picture of the whole mesh for each direction. Deterministic.

    The cut is open where a hidden surface met a seen one. Raises ValueError for arguments out of range, non-finite
    vertices or face indices out of range.
    """
    return select_faces(mesh, ~hidden_faces(mesh, margin, directions=directions, progress=progress, backend=backend))


@torch.no_grad()
def hidden_faces(
    mesh: Mesh,
    margin: int = 1,
    *,
    directions: int = DIRECTIONS,
    enough: float = 1.0,
    progress: Progress | None = None,
    backend: str = "auto",
) -> Tensor:
    """Mask [F] bool of the faces that `remove_hidden_faces` removes from a mesh with faces [F, 3].

    enough: part of the area, 0 to 1; once this much is seen no further direction is looked from, and the mask may hold
    faces that another one would have seen.
    """
    if margin < 0:
        raise ValueError(f"margin: expected 0 rings or more, got {margin}")
    if not 1 <= directions <= MOST_DIRECTIONS:
        raise ValueError(f"directions: expected 1 to {MOST_DIRECTIONS}, got {directions}")
    checked = check_mesh(mesh)
    if len(mesh.faces) == 0:
        return torch.zeros(0, dtype=torch.bool, device=mesh.faces.device)
    seconds = 0.5 + directions * len(mesh.faces) / FACES_A_SECOND
    axes = picture_axes(_scattered(sphere_directions(directions))).tolist()
    return in_background(lambda report: _hidden(checked, margin, axes, enough, backend, report), progress, seconds)


def area_share(mesh: Mesh, mask: Tensor) -> float:
    """The part, 0 to 1, of the area of a mesh with faces [F, 3] that the faces in `mask` [F] bool have."""
    area = length(area_vectors(mesh.vertices, mesh.faces.long()))
    total = float(area.sum())
    return float(area[mask].sum()) / total if total > 0 else 0.0


def _scattered(directions: Tensor) -> Tensor:
    """`directions` [N, 3] in an order whose first few already look from all around."""
    count = len(directions)
    step = next(step for step in range(max(1, round(0.618 * count)), count + 2) if math.gcd(step, count) == 1)
    return directions[torch.arange(count) * step % count]


def _hidden(
    mesh: Mesh, margin: int, axes: list[list[list[float]]], enough: float, backend: str, report: Progress
) -> Tensor:
    """axes: right, up and towards the viewer of each picture, as `picture_axes`."""
    faces = mesh.faces.long()
    corners = mesh.vertices[faces]
    across = area_vectors(mesh.vertices, faces)
    middle, normal, area = corners.mean(1), unit(across).float(), length(across)
    wanted = enough * float(area.sum())
    used = torch.zeros(len(mesh.vertices), dtype=torch.bool, device=faces.device)
    used[faces.flatten()] = True
    kept = mesh.vertices[used]
    centre = (kept.amin(0) + kept.amax(0)) / 2
    radius = float(length(kept - centre).amax()) * MARGIN
    if radius == 0:
        return torch.zeros_like(used[: len(faces)])
    side = _picture_side(corners, radius)
    points, middle = (mesh.vertices - centre) / radius, (middle - centre) / radius
    points = torch.where(used[:, None], points, 0.0)
    seen = torch.zeros(len(faces), dtype=torch.bool, device=faces.device)
    for done, picture in enumerate(axes):
        raster = rasterize(_turned(points, picture), mesh.faces, (side, side), backend=backend)
        seen[raster.face[raster.face >= 0].long()] = True
        rows = (~seen).nonzero().squeeze(1)
        # `index_select` is several times faster than an index of two dimensions on a CPU.
        place, facing = middle.index_select(0, rows), normal.index_select(0, rows)
        seen[rows] = _on_top(_turned(place, picture), facing, picture[2], raster.depth)
        report((done + 1) / len(axes))
        if enough < 1 and done % LOOKS == LOOKS - 1 and float(area[seen].sum()) > wanted:
            break
    for _ in range(margin):
        near = torch.zeros_like(used)
        near[faces[seen].flatten()] = True
        seen = near[faces].any(1)
    return ~seen


def _picture_side(corners: Tensor, radius: float) -> int:
    """Pixels a side at which a pixel is about a typical edge of the faces with `corners` [F, 3, 3] wide."""
    edge = float(length(corners[:, 1] - corners[:, 0]).median())
    wanted = 2 * radius / edge if edge > 0 else MOST_SIDE
    return int(min(max(wanted, LEAST_SIDE), MOST_SIDE))


def _turned(points: Tensor, picture: list[list[float]]) -> Tensor:
    """Clip coordinates [N, 4] of `points` [N, 3] in the picture with the axes right, up and towards the viewer."""
    # Not a matmul: TF32 on a GPU would move the points.
    x, y, z = points.unbind(1)
    right, up, towards = (a * x + b * y + c * z for a, b, c in picture)
    return torch.stack([right, up, -towards, torch.ones_like(x)], 1)


def _on_top(clip: Tensor, normal: Tensor, towards: list[float], depth: Tensor) -> Tensor:
    """Mask [N] bool of the points `clip` [N, 4], on faces with unit normals [N, 3], on the surface in `depth`."""
    side = depth.shape[0]
    column = ((clip[:, 0] + 1) * (side / 2)).long().clamp(0, side - 1)
    row = ((1 - clip[:, 1]) * (side / 2)).long().clamp(0, side - 1)
    a, b, c = towards
    cosine = (a * normal[:, 0] + b * normal[:, 1] + c * normal[:, 2]).abs()
    # The face rises by its slope over half a pixel's diagonal.
    slope = (1 - cosine * cosine).clamp_min(0).sqrt() / cosine.clamp_min(MIN_COSINE)
    allowed = (UNDER * slope + UNDER) * (2 / side)
    return (clip[:, 2] - depth[row, column] <= allowed) & (cosine >= MIN_COSINE)


__all__ = ["DIRECTIONS", "area_share", "hidden_faces", "remove_hidden_faces"]
