"""Vertices for the concave creases of a surface, which nearest points never name.

Of two walls that meet, a vertex over the crease is nearest to one or the other, and the row of them runs like teeth.
Its own nearest point and those of its neighbours give planes, though, and the crease is where they meet (as the
quadric of dual contouring has it: Ju, Losasso, Schaefer and Warren 2002).
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from ...core.exact_sums import precise, scatter_sums
from ...core.vectors import cross, dot, length
from .contour import Contour

QUADS_A_CHUNK = 1 << 20
# Walls that bend by less than some 37 degrees are taken for one that is round.
SHARP = 0.8
# In voxels; points on one plane are in front of each other by no more than rounding.
IN_FRONT = 1e-3
# Pull to a vertex's own nearest point, against planes of weight one: decides along a crease, and hardly across.
PULL = 0.01
# Grid units that a crease may be outside of a vertex's cube.
OVERLAP = 0.3
# Grid units from where a vertex would go otherwise; walls so acute that they meet further away are left blunt.
FURTHEST = 2.0


def sharp_feature_points(
    shell: Contour, nearest: Tensor, normal: Tensor, level: float, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """(rows [K] int64, points [K, 3] float32): the vertices in whose cubes a concave crease runs, and where it does.

    shell: a contour at `level` from a surface.  nearest, normal: [V, 3], the surface's point nearest to each vertex,
    and the unit direction from there to it, zero for those to leave out.  offset: [V] float32, how far from the surface
    the points are wanted. Deterministic.
    """
    quads = [chunk[_concave(nearest[chunk], normal[chunk])] for chunk in shell.quads.split(QUADS_A_CHUNK)]
    rows, corner = torch.cat(quads).to(torch.int64).unique(return_inverse=True)
    if len(rows) == 0:
        return rows, shell.vertices[:0]
    # Each corner of a quad sees the planes of all four.
    here, there = corner.repeat_interleave(4, 1).flatten(), corner.repeat(1, 4).flatten()
    at, plane = precise(nearest[rows]), precise(normal[rows])
    n = plane[there]
    height = dot(n, at[there] - at[here])[:, None]
    products = torch.stack([n[:, i] * n[:, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], 1)
    total = scatter_sums(torch.cat([products, n * height, n], 1), here, len(rows))
    inverse = _inverse(total[:, :6])

    def solve(distance: Tensor) -> Tensor:
        """The points [K, 3] at that distance from all planes, as near as can be."""
        right = total[:, 6:9] + distance[:, None] * total[:, 9:]
        return at + torch.stack([dot(row, right) for row in inverse], 1)

    vertex = precise(shell.vertices[rows])
    away = solve(torch.full_like(vertex[:, 0], level)) - vertex.floor() - 0.5
    wanted = precise(offset[rows])
    points = solve(wanted)
    own = (away.abs() <= 0.5 + OVERLAP).all(1) & (length(points - at - plane * wanted[:, None]) <= FURTHEST)
    return rows[own], points[own].to(torch.float32)


def _concave(nearest: Tensor, normal: Tensor) -> Tensor:
    """Quads [Q] bool of which two corners, [Q, 4, 3], see different walls, each in front of the other."""
    found = torch.zeros(len(nearest), dtype=torch.bool, device=nearest.device)
    known = dot(normal, normal) > 0
    for k, j in combinations(range(4), 2):
        bent = (dot(normal[:, k], normal[:, j]) < SHARP) & known[:, k] & known[:, j]
        found |= bent & (dot(nearest[:, k] - nearest[:, j], normal[:, j] - normal[:, k]) > IN_FRONT)
    return found


def _inverse(entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns [K, 3] of the inverse of symmetric matrices xx, yy, zz, xy, xz, yz [K, 6], with PULL on the diagonal."""
    xx, yy, zz, xy, xz, yz = entries.unbind(1)
    a, b, c = (torch.stack(column, 1) for column in ((xx + PULL, xy, xz), (xy, yy + PULL, yz), (xz, yz, zz + PULL)))
    adjugate = cross(b, c), cross(c, a), cross(a, b)
    scale = dot(a, adjugate[0])[:, None]
    return tuple(column / scale for column in adjugate)
