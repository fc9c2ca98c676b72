"""Shrinkwraps an offset surface onto its source without flipping a face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.progress import Progress, silent
from ...core.vectors import cross, dot, unit
from ...ops.closest_point import MeshIndex, closest_point
from ...values import Mesh
from ..connectivity.topology import ValidMesh
from ..connectivity.weld import close_vertices
from .contour import Contour, cut_quads
from .sharp_features import sharp_feature_points

VERTICES_A_CHUNK = 1 << 20
# In grid units; vertices nearer to the surface have no defined side of it.
TOO_NEAR = 1e-3
# Discretisation error of a contour's distance from its level, in grid units; vertices further away are in corners too
# sharp for the grid and keep the excess.
SLACK = 0.4
FACES_A_CHUNK = 1 << 20
# Vertices nearer to each other, in grid units, may become one in a file: then two touching sheets share an edge.
APART = 1e-3
# Fractions of its move that a vertex tries in turn while one of its faces flips. Faces around a convex edge lose all
# their area only at the very end of the move.
PARTS = (1.0, 0.95, 0.8, 0.5, 0.25, 0.0)


@dataclass(frozen=True)
class ProjectOptions:
    """Targets of the vertices of a contour, in grid units.

    level: nominal distance of the contour from its surface.  part: fraction of the distance back to the surface, 0 to
    1; 0 puts vertices exactly at `level`.  reach: vertices further away do not move.  spans: keep the excess distance
    where the contour spans gaps and corners, and do not sharpen corners.  spare: maps positions [N, 3] and closest
    points [N, 3] to a mask [N] bool of the vertices put at `level` whatever `part` is; None for none.
    """

    level: float
    part: float
    reach: float
    spans: bool = False
    spare: Callable[[Tensor, Tensor], Tensor] | None = None


def shrinkwrap(
    shell: Contour,
    target: Mesh,
    index: MeshIndex,
    projection: ProjectOptions,
    *,
    backend: str = "auto",
    report: Progress = silent,
) -> Mesh:
    """Moves the vertices of a contour ([V, 3]) towards `target` and triangulates it; returns faces [F, 3] int32.

    index: of `target`. No face turns by 90 degrees or more or loses all its area, and no two vertices meet: vertices
    move less far where needed, in the worst case not at all. Deterministic.
    """
    count = len(shell.vertices)
    nearest, normal = torch.empty_like(shell.vertices), torch.empty_like(shell.vertices)
    offset = torch.full_like(nearest[:, 0], projection.level * (1 - projection.part))
    excess = torch.empty_like(offset)
    for start in range(0, count, VERTICES_A_CHUNK):
        rows = slice(start, start + VERTICES_A_CHUNK)
        here = shell.vertices[rows]
        found = closest_point(index, here, projection.reach, backend=backend)
        corners = target.vertices[target.faces[found.face.clamp_min(0)].to(torch.int64)]
        nearest[rows] = (corners * found.barycentric[..., None]).sum(1)
        # Vertices on the surface already have no defined side.
        valid = (found.face >= 0) & (found.distance > TOO_NEAR)
        normal[rows] = torch.where(valid[:, None], unit(here - nearest[rows]), 0.0)
        excess[rows] = found.distance - projection.level - (0.0 if projection.spans else SLACK)
        if projection.spare is not None:
            offset[rows].masked_fill_(projection.spare(here, nearest[rows]), projection.level)
        report(min(1.0, (start + len(here)) / count))
    goal = nearest + normal * (offset + excess.clamp_(0, projection.reach))[:, None]
    if not projection.spans:
        rows, points = sharp_feature_points(shell, nearest, normal, projection.level, offset)
        goal[rows] = points
    goal = torch.where((normal == 0).all(1, keepdim=True), shell.vertices, goal)
    faces = cut_quads(shell, goal, normal)
    del nearest, normal, offset, excess
    return ValidMesh(shell.vertices + limit_flips(shell.vertices, faces, goal - shell.vertices), faces)


def limit_flips(vertices: Tensor, faces: Tensor, move: Tensor) -> Tensor:
    """Scales `move` [V, 3] down by PARTS until no face [F, 3] flips and no two vertices [V, 3] meet."""
    step = torch.zeros(len(move), dtype=torch.uint8, device=move.device)
    part = move.new_tensor(PARTS)
    active = faces
    # Terminates: every round shortens some move, and faces whose vertices do not move keep their orientation.
    while len(active):
        scaled = move * part[step.to(torch.int32)][:, None]
        flipped = [chunk[_flips(vertices, scaled, chunk)] for chunk in active.split(FACES_A_CHUNK)]
        shorter = torch.zeros(len(move), dtype=torch.bool, device=move.device)
        shorter[torch.cat(flipped).flatten().to(torch.int64)] = True
        shorter &= step < len(PARTS) - 1
        if not bool(shorter.any()):
            shorter = _met(vertices + scaled) & (step < len(PARTS) - 1)
        step += shorter
        active = faces[shorter[faces].any(1)]
    return move * part[step.to(torch.int32)][:, None]


def _met(positions: Tensor) -> Tensor:
    """Mask [V] bool of the vertices that another one of `positions` [V, 3] is nearer to than APART."""
    label = close_vertices(positions, APART)
    return torch.bincount(label, minlength=len(label))[label] > 1


def _flips(vertices: Tensor, move: Tensor, faces: Tensor) -> Tensor:
    """Mask [F] bool of the `faces` [F, 3] that `move` [V, 3] turns by 90 degrees or more, or leaves without area."""
    before = vertices[faces]
    after = before + move[faces]
    old, new = (cross(at[:, 1] - at[:, 0], at[:, 2] - at[:, 0]) for at in (before, after))
    return dot(old, new) <= 0
