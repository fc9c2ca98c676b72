"""Smoothing that keeps the volume: Taubin's two steps (A signal processing approach to fair surface design, 1995)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.exact_sums import precise, scatter_sums
from ...core.progress import Progress, in_background
from ...core.vectors import dot, length
from ...values import Mesh
from ..connectivity.topology import Edges, ValidMesh, area_vectors, check_mesh, edges

# Waves along the surface with an eigenvalue below this keep their height; the umbrella operator's go from 0 to 2.
PASS_BAND = 0.1
MOST_ROUNDS = 1000
# For the estimate of the time, on two CPU cores.
VERTICES_A_SECOND = 3_000_000


@torch.no_grad()
def smooth_taubin(
    mesh: Mesh,
    rounds: int = 10,
    strength: float = 0.5,
    *,
    crease_deg: float = 60.0,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Mesh:
    """Smooths a mesh without shrinking it; returns it with moved vertices, faces and their order unchanged.

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces.
    rounds: 0 to 1000, each a step of `strength` towards the mean of a vertex's neighbours and a slightly longer one
    back.  strength: above 0 to 1, Taubin's lambda; his mu follows from a pass band of 0.1.
    crease_deg: vertices of edges with more degrees between their faces stay, as those of non-manifold edges do; 180
    keeps none. Vertices of a border move along the border only; the ends and junctions of borders stay.
    progress: called with the fraction done, 0 to 1; its exceptions propagate.

    Vertices at one place count as separate: weld first. Deterministic; `backend` as `edges`. Raises ValueError for
    arguments out of range, non-finite vertices or face indices out of range.
    """
    if not 0 <= rounds <= MOST_ROUNDS:
        raise ValueError(f"rounds: expected 0 to {MOST_ROUNDS}, got {rounds}")
    if not 0 < strength <= 1:
        raise ValueError(f"strength: expected above 0 to 1, got {strength}")
    if not 0 <= crease_deg <= 180:
        raise ValueError(f"crease_deg: expected 0 to 180 degrees, got {crease_deg}")
    checked = check_mesh(mesh)
    if rounds == 0 or len(mesh.faces) == 0:
        return checked
    back = 1 / (PASS_BAND - 1 / strength)

    def work(report: Progress) -> Mesh:
        source, target = _links(checked, edges(checked, backend=backend), crease_deg)
        count = torch.bincount(target, minlength=len(mesh.vertices)).clamp_min(1)[:, None]
        at = precise(mesh.vertices)
        for done in range(rounds):
            for step in (strength, back):
                at = at + step * scatter_sums(at[source] - at[target], target, len(at)) / count
            report((done + 1) / rounds)
        return ValidMesh(at.to(torch.float32), mesh.faces)

    return in_background(work, progress, 0.5 + rounds * len(mesh.vertices) / VERTICES_A_SECOND)


def _links(mesh: Mesh, found: Edges, crease_deg: float) -> tuple[Tensor, Tensor]:
    """(neighbour, vertex) [L] int64: which neighbours draw each vertex that may move."""
    ends = found.ends(mesh.faces).to(torch.int64)
    border = found.sizes == 1
    fixed = (found.sizes > 2) | (_sharp(mesh, found, crease_deg))
    rims = torch.bincount(ends[border].flatten(), minlength=len(mesh.vertices))
    stays = torch.bincount(ends[fixed].flatten(), minlength=len(mesh.vertices)) > 0
    stays |= (rims != 0) & (rims != 2)
    source, target = torch.cat([ends, ends.flip(1)]).unbind(1)
    along = torch.cat([border, border])
    drawn = ~stays[target] & (along | (rims[target] == 0))
    return source[drawn], target[drawn]


def _sharp(mesh: Mesh, found: Edges, crease_deg: float) -> Tensor:
    """Mask [E] bool of the edges of two faces whose normals differ by more than `crease_deg`."""
    pairs = (found.sizes == 2).nonzero().squeeze(1)
    first = found.order[found.start[:-1][pairs]] // 3
    second = found.order[found.start[:-1][pairs] + 1] // 3
    normal = area_vectors(mesh.vertices, mesh.faces.to(torch.int64))
    cosine = dot(normal[first], normal[second])
    sharp = torch.zeros(len(found.sizes), dtype=torch.bool, device=pairs.device)
    limit = math.cos(math.radians(crease_deg)) if crease_deg < 180 else -2.0
    sharp[pairs] = cosine < limit * length(normal[first]) * length(normal[second])
    return sharp
