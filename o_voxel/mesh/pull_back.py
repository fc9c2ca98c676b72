"""Vertices moved back on the surface that theirs stands off from, as far as no face turns over."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.closest_point import MeshIndex, closest_point
from ..values import Mesh
from .topology import cross, dot

VERTICES_A_CHUNK = 1 << 20
FACES_A_CHUNK = 1 << 20
# The parts of its way that a vertex goes at last: all, or less in turn while a face of it turns over. Around a convex
# edge faces lose all their area at the end of it, and hardly any of their place shortly before.
PARTS = (1.0, 0.95, 0.8, 0.5, 0.25, 0.0)


def pull_back(
    shell: Mesh,
    target: Mesh,
    index: MeshIndex,
    part: float,
    reach: float,
    *,
    spare: Callable[[Tensor, Tensor], Tensor] | None = None,
    backend: str = "auto",
    report: Callable[[float], None] = lambda part: None,
) -> Tensor:
    """Vertices [V, 3] float32 of `shell`, each moved by `part` of its way to the nearest point of `target`.

    index: of `target`.  reach: those further away stay, in the meshes' units.  spare: from positions [N, 3] and the
    nearest points [N, 3] to [N] bool, those that stay as well. No face comes to turn by 90 degrees or more from how it
    stood, nor loses all its area; for that, vertices go less far, at worst not at all. Deterministic.
    """
    moved = []
    for start in range(0, len(shell.vertices), VERTICES_A_CHUNK):
        here = shell.vertices[start : start + VERTICES_A_CHUNK]
        found = closest_point(index, here, reach, backend=backend)
        corners = target.vertices[target.faces[found.face.clamp_min(0)].to(torch.int64)]
        nearest = (corners * found.barycentric[..., None]).sum(1)
        stays = found.face < 0
        if spare is not None:
            stays |= spare(here, nearest)
        moved.append(torch.where(stays[:, None], 0.0, (nearest - here) * part))
        report(min(1.0, (start + len(here)) / len(shell.vertices)))
    if not moved:
        return shell.vertices
    return shell.vertices + _unturned(shell, torch.cat(moved))


def _unturned(shell: Mesh, move: Tensor) -> Tensor:
    """`move` [V, 3], made shorter where a face would turn over."""
    step = torch.zeros(len(move), dtype=torch.uint8, device=move.device)
    part = move.new_tensor(PARTS)
    faces = shell.faces
    # Every round takes a step from some vertex, and faces whose vertices have none left stand as they stood.
    while len(faces):
        turned = [
            chunk[_turns(shell.vertices, move * part[step.to(torch.int32)][:, None], chunk)]
            for chunk in faces.split(FACES_A_CHUNK)
        ]
        shorter = torch.zeros(len(move), dtype=torch.bool, device=move.device)
        shorter[torch.cat(turned).flatten().to(torch.int64)] = True
        shorter &= step < len(PARTS) - 1
        step += shorter
        faces = faces[shorter[faces].any(1)]
    return move * part[step.to(torch.int32)][:, None]


def _turns(vertices: Tensor, move: Tensor, faces: Tensor) -> Tensor:
    """Whether each of `faces` [F, 3] turns by 90 degrees or more, or loses its area: [F] bool."""
    before = vertices[faces]
    after = before + move[faces]
    old, new = (cross(at[:, 1] - at[:, 0], at[:, 2] - at[:, 0]) for at in (before, after))
    return dot(old, new) <= 0
