"""Vertices moved back on the surface that theirs stands off from, as far as no face turns over."""

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
from .contour import Contour, cut_quads
from .sharp_features import sharp_feature_points

VERTICES_A_CHUNK = 1 << 20
# Grid units.
TOO_NEAR = 1e-3
# How far a contour may be from its level by its cubes' doing; what is further away is in a corner too sharp for it, and
# keeps the rest of its distance.
SLACK = 0.4
FACES_A_CHUNK = 1 << 20
# The parts of its way that a vertex goes at last: all, or less in turn while a face of it turns over. Around a convex
# edge faces lose all their area at the end of it, and hardly any of their place shortly before.
PARTS = (1.0, 0.95, 0.8, 0.5, 0.25, 0.0)


@dataclass(frozen=True)
class ProjectOptions:
    """Where the vertices of a contour go, in grid units.

    level: what the contour's distance from its surface was meant to be.  part: of the way back on the surface; with 0
    they come to be exactly at `level`.  reach: those further away than that stay where they are.  spans: the contour
    spans gaps and corners, where it is further away than `level`; that stays so, and corners are not made sharp.
    spare: from positions [N, 3] and their nearest points [N, 3] to [N] bool, those that come to be at `level` whatever
    the part; None for none.
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
    """The mesh of a contour around `target`, which `index` is of, with its vertices moved; faces int32.

    No face comes to turn by 90 degrees or more from how it stood, nor loses all its area; for that, vertices go less
    far, at worst not at all. Deterministic.
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
        # What is on the surface already has no side of it to be on.
        known = (found.face >= 0) & (found.distance > TOO_NEAR)
        normal[rows] = torch.where(known[:, None], unit(here - nearest[rows]), 0.0)
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
    return ValidMesh(shell.vertices + _unturned(shell.vertices, faces, goal - shell.vertices), faces)


def _unturned(vertices: Tensor, faces: Tensor, move: Tensor) -> Tensor:
    """`move` [V, 3], made shorter where a face would turn over."""
    step = torch.zeros(len(move), dtype=torch.uint8, device=move.device)
    part = move.new_tensor(PARTS)
    touched = faces
    # Every round takes a step from some vertex, and faces whose vertices have none left stand as they stood.
    while len(touched):
        moved = move * part[step.to(torch.int32)][:, None]
        turned = [chunk[_turns(vertices, moved, chunk)] for chunk in touched.split(FACES_A_CHUNK)]
        shorter = torch.zeros(len(move), dtype=torch.bool, device=move.device)
        shorter[torch.cat(turned).flatten().to(torch.int64)] = True
        shorter &= step < len(PARTS) - 1
        step += shorter
        touched = faces[shorter[faces].any(1)]
    return move * part[step.to(torch.int32)][:, None]


def _turns(vertices: Tensor, move: Tensor, faces: Tensor) -> Tensor:
    """Whether each of `faces` [F, 3] turns by 90 degrees or more, or loses its area: [F] bool."""
    before = vertices[faces]
    after = before + move[faces]
    old, new = (cross(at[:, 1] - at[:, 0], at[:, 2] - at[:, 0]) for at in (before, after))
    return dot(old, new) <= 0
