"""Pairing of the faces around a non-manifold edge (radial edge, Weiler), sorted by angle about the edge.

Pairs are chosen for the smoothest continuation and for consistent outward sides where those are reliable. Where outside
and inside reliably alternate all around, the two sides of each solid are paired, so that touching solids separate.

Letters: M half-edges on non-manifold edges, K such edges, V vertices, F faces.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.exact_sums import precise
from ...core.vectors import cross, dot, unit

# Smoothness is in fixed point, so that sums are exact: from -STEPS, folded back, to STEPS, coplanar continuation.
STEPS = 1 << 20
# Score of inconsistent winding within one surface, and of (in)consistent winding of two reliably oriented surfaces.
INCONSISTENT, ORIENTED = -8 * STEPS, 4 * STEPS
# Opposite faces may be paired at edges with this many faces; otherwise only angular neighbours are.
CROSSING = 4


def pair_radial_faces(
    vertices: Tensor, faces: Tensor, half: Tensor, start: Tensor, label: Tensor, flip: Tensor, sure: Tensor
) -> Tensor:
    """Returns the partner half-edge [M] int64 of each half-edge `half`, -1 for an unpaired one.

    vertices: [V, 3] float32.  faces: [F, 3] int64.  half: [M] int64 half-edges; those of edge k are
    half[start[k] : start[k + 1]], 3 or more, ascending.  start: [K + 1] int64.  label: [F] int64, components joined
    across manifold edges.  flip: [F] bool, faces to flip for outward orientation.  sure: [F] bool, where `flip` is
    reliable.
    """
    size = start.diff()
    edge = torch.repeat_interleave(torch.arange(len(size), device=half.device), size)
    first, count = start[:-1][edge], size[edge]
    angle, up = _radial_angles(vertices, faces, half, first, flip)
    order = angle.sort(stable=True).indices
    order = order[edge[order].sort(stable=True).indices]
    half, up = half[order], up[order]
    label, sure = label[half // 3], sure[half // 3]
    radial = _directions(vertices, faces, half)[1]
    rank = torch.arange(len(half), device=half.device) - first

    def pair_score(step: int) -> Tensor:
        """Score [M] int64 of pairing each half-edge with the one `step` positions further around its edge."""
        other = first + (rank + step) % count
        smooth = (-dot(radial, radial[other]) * STEPS).round().to(torch.int64)
        consistent = up != up[other]
        oriented = torch.where(sure & sure[other], torch.where(consistent, ORIENTED, -ORIENTED), 0)
        return smooth + torch.where((label == label[other]) & ~consistent, INCONSISTENT, oriented)

    near = pair_score(1)
    next_row = first + (rank + 1) % count
    solid = _alternates(up, sure, next_row, edge, size)
    base = _even_base(near, solid, up, edge, rank, size)
    base = torch.where(size % 2 == 1, _odd_base(near, edge, first, rank, size), base)
    offset = (rank - base[edge]) % count
    partner = (rank + torch.where(offset % 2 == 0, 1, -1)) % count
    opposite = _pairs_opposite(near, pair_score(2), edge, rank, size) & ~solid
    partner = torch.where(opposite[edge], (rank + 2) % count, partner)
    partner = half[first + partner].masked_fill((offset == count - 1) & (count % 2 == 1), -1)
    return torch.empty_like(partner).scatter_(0, order, partner)


def _directions(vertices: Tensor, faces: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(unit axis [M, 3], unit direction from it to the face's third vertex [M, 3], runs along the axis [M] bool)."""
    face, corner = half // 3, half % 3
    a, b, tip = (faces[face, (corner + k) % 3] for k in range(3))
    base = precise(vertices[torch.minimum(a, b)])
    axis = unit(precise(vertices[torch.maximum(a, b)]) - base)
    away = precise(vertices[tip]) - base
    return axis, unit(away - axis * dot(away, axis)[:, None]), a < b


def _radial_angles(vertices: Tensor, faces: Tensor, half: Tensor, first: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    """(pseudo-angle [M] from the edge's first face, 0 to 4; mask [M] bool: runs along the axis once flipped)."""
    axis, radial, up = _directions(vertices, faces, half)
    x = dot(radial, radial[first])
    y = dot(radial, cross(axis, radial[first]))
    total = (x.abs() + y.abs()).clamp_min(torch.finfo(x.dtype).tiny)
    position = torch.where(y >= 0, 1 - x / total, 3 + x / total)
    return position, up ^ flip[half // 3]


def _alternates(up: Tensor, sure: Tensor, next_row: Tensor, edge: Tensor, size: Tensor) -> Tensor:
    """Mask [K] bool of the edges around which outside and inside reliably alternate."""
    wrong = (up == up[next_row]) | ~sure
    return (torch.zeros_like(size).index_add_(0, edge, wrong.to(torch.int64)) == 0) & (size % 2 == 0)


def _even_base(near: Tensor, solid: Tensor, up: Tensor, edge: Tensor, rank: Tensor, size: Tensor) -> Tensor:
    """Rank [K] int64, 0 or 1, of a face paired with the next one: around solids, or else the smoother choice."""
    signed = torch.where(rank % 2 == 0, -near, near)
    smoother = torch.zeros_like(size).index_add_(0, edge, signed) > 0
    up_first = torch.zeros_like(size).index_add_(0, edge, ((rank == 0) & up).to(torch.int64)) > 0
    return torch.where(solid, up_first, smoother).to(torch.int64)


def _pairs_opposite(near: Tensor, far: Tensor, edge: Tensor, rank: Tensor, size: Tensor) -> Tensor:
    """Mask [K] bool of the edges with four faces whose opposite faces pair best."""
    zero = torch.zeros_like(size)
    # Of four faces, 0 and 2 are opposite, and 1 and 3; the pairs of neighbours begin at 0 and 2, or at 1 and 3.
    opposite = zero.index_add(0, edge, far.masked_fill(rank >= 2, 0))
    even = zero.index_add(0, edge, near.masked_fill(rank % 2 == 1, 0))
    odd = zero.index_add(0, edge, near.masked_fill(rank % 2 == 0, 0))
    return (opposite > even) & (opposite > odd) & (size == CROSSING)


def _odd_base(near: Tensor, edge: Tensor, first: Tensor, rank: Tensor, size: Tensor) -> Tensor:
    """Rank [K] int64 after the face to leave unpaired at edges with an odd number of faces, for the smoothest rest.

    Steps of two visit an odd ring once, so the pairs of each choice are consecutive there: a prefix sum scores all.
    """
    count = size[edge]
    ring = first + (2 * rank) % count
    running = near[ring].cumsum(0)
    before = running - near[ring]
    total = running[first + count - 1] - before[first]
    begin = ((rank + 1) * ((count + 1) // 2)) % count
    end = begin + (count - 1) // 2
    wrapped = end > count
    upto = torch.where(end % count == 0, running[first + count - 1], before[first + end % count])
    score = upto - before[first + begin] + torch.where(wrapped, total, 0)
    best = torch.full_like(size, torch.iinfo(torch.int64).min).scatter_reduce_(0, edge, score, "amax")
    chosen = torch.where(score == best[edge], rank, count)
    return (torch.full_like(size, torch.iinfo(torch.int64).max).scatter_reduce_(0, edge, chosen, "amin") + 1) % size
