"""Dual vertices on concave feature edges, which closest-point projection misses.

Vertices above a concave crease project alternately onto one wall or the other, as a sawtooth. The closest points of a
vertex and its neighbours define tangent planes; the vertex is placed at their intersection, by the quadric error of
dual contouring (Ju, Losasso, Schaefer and Warren 2002).
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from ...core.exact_sums import precise, scatter_sums
from ...core.vectors import cross, dot, length
from .contour import Contour

QUADS_A_CHUNK = 1 << 20
# Cosine of the least bend of a crease, about 37 degrees; smaller bends count as one curved wall.
SHARP = 0.8
# Tolerance in voxels: rounding puts points of one plane in front of each other by less.
IN_FRONT = 1e-3
# Regularisation towards the vertex's own closest point, against unit plane weights: acts mostly along the crease.
PULL = 0.01
# Distance in grid units that a crease may lie outside the vertex's cube.
OVERLAP = 0.3
# Largest move in grid units from the plain projection; more acute creases stay blunt.
FURTHEST = 2.0


def sharp_feature_points(
    shell: Contour, nearest: Tensor, normal: Tensor, level: float, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Finds vertices with a concave crease in their cube: (rows [K] int64, points [K, 3] float32 on the crease).

    shell: a contour at distance `level` from a surface.  nearest: [V, 3] float32, closest surface point of each vertex.
    normal: [V, 3] float32, unit direction from there to the vertex, zero to exclude it.  offset: [V] float32, target
    distance from the surface. Grid units. Deterministic.
    """
    quads = [chunk[_concave(nearest[chunk], normal[chunk])] for chunk in shell.quads.split(QUADS_A_CHUNK)]
    rows, corner = torch.cat(quads).to(torch.int64).unique(return_inverse=True)
    if len(rows) == 0:
        return rows, shell.vertices[:0]
    # Each corner of a quad collects the planes of all four.
    here, there = corner.repeat_interleave(4, 1).flatten(), corner.repeat(1, 4).flatten()
    at, plane = precise(nearest[rows]), precise(normal[rows])
    n = plane[there]
    height = dot(n, at[there] - at[here])[:, None]
    products = torch.stack([n[:, i] * n[:, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], 1)
    total = scatter_sums(torch.cat([products, n * height, n], 1), here, len(rows))
    inverse = _inverse(total[:, :6])

    def solve(distance: Tensor) -> Tensor:
        """Least-squares points [K, 3] at `distance` [K] from all planes."""
        right = total[:, 6:9] + distance[:, None] * total[:, 9:]
        return at + torch.stack([dot(row, right) for row in inverse], 1)

    vertex = precise(shell.vertices[rows])
    away = solve(torch.full_like(vertex[:, 0], level)) - vertex.floor() - 0.5
    target = precise(offset[rows])
    points = solve(target)
    inside = (away.abs() <= 0.5 + OVERLAP).all(1) & (length(points - at - plane * target[:, None]) <= FURTHEST)
    return rows[inside], points[inside].to(torch.float32)


def _concave(nearest: Tensor, normal: Tensor) -> Tensor:
    """Mask [Q] bool of quads (inputs [Q, 4, 3]) with two corners that project onto different walls of a concavity."""
    found = torch.zeros(len(nearest), dtype=torch.bool, device=nearest.device)
    valid = dot(normal, normal) > 0
    for k, j in combinations(range(4), 2):
        bent = (dot(normal[:, k], normal[:, j]) < SHARP) & valid[:, k] & valid[:, j]
        found |= bent & (dot(nearest[:, k] - nearest[:, j], normal[:, j] - normal[:, k]) > IN_FRONT)
    return found


def _inverse(entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns [K, 3] of inverse symmetric matrices xx, yy, zz, xy, xz, yz [K, 6], with PULL added to the diagonal."""
    xx, yy, zz, xy, xz, yz = entries.unbind(1)
    a, b, c = (torch.stack(column, 1) for column in ((xx + PULL, xy, xz), (xy, yy + PULL, yz), (xz, yz, zz + PULL)))
    adjugate = cross(b, c), cross(c, a), cross(a, b)
    scale = dot(a, adjugate[0])[:, None]
    x, y, z = (column / scale for column in adjugate)
    return x, y, z
