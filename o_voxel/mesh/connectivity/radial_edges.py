"""Which faces belong together at an edge that more than two share.

The faces stand around the edge like the pages of a book. They are paired so that the surfaces go on as smoothly as
they can, and fronts with fronts where those are known. Where outside and inside surely alternate all around, the two
sides of each solid are paired, so that solids which touch come apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.exact_sums import precise
from ...core.vectors import cross, dot, unit

# Smoothness is counted in whole steps, so that sums are exact: from -STEPS, folded back, to STEPS, straight on.
STEPS = 1 << 20
# What it counts that a pair winds alike, or not: within one surface, and between two whose fronts are sure.
AGAINST, SURE = -8 * STEPS, 4 * STEPS
# Faces of a fan that may be paired across others; more are only paired with a neighbour.
CROSSING = 4


def pair_radial_faces(
    vertices: Tensor, faces: Tensor, half: Tensor, start: Tensor, label: Tensor, flip: Tensor, sure: Tensor
) -> Tensor:
    """The half-edge [M] int64 that each of `half` continues in, -1 for one left over.

    half [M] int64: half-edges of K fans, those of fan k at start[k] to start[k + 1] ([K + 1] int64), 3 or more each,
    ascending.  label, flip [F]: the surfaces known so far and the faces to turn for their fronts to be outside, as far
    as `sure` [F] bool.
    """
    size = start.diff()
    fan = torch.repeat_interleave(torch.arange(len(size), device=half.device), size)
    first, count = start[:-1][fan], size[fan]
    angle, up = _pages(vertices, faces, half, first, flip)
    order = angle.sort(stable=True).indices
    order = order[fan[order].sort(stable=True).indices]
    half, up = half[order], up[order]
    label, sure = label[half // 3], sure[half // 3]
    spread = _directions(vertices, faces, half)[1]
    place = torch.arange(len(half), device=half.device) - first

    def bond(step: int) -> Tensor:
        """How well each goes on in the page `step` further round."""
        other = first + (place + step) % count
        smooth = (-dot(spread, spread[other]) * STEPS).round().to(torch.int64)
        alike = up != up[other]
        known = torch.where(sure & sure[other], torch.where(alike, SURE, -SURE), 0)
        return smooth + torch.where((label == label[other]) & ~alike, AGAINST, known)

    near = bond(1)
    next_page = first + (place + 1) % count
    solid = _solid(up, sure, next_page, fan, size)
    base = _even_base(near, solid, up, fan, place, size)
    base = torch.where(size % 2 == 1, _odd_base(near, fan, first, place, size), base)
    turn = (place - base[fan]) % count
    partner = (place + torch.where(turn % 2 == 0, 1, -1)) % count
    straight = _goes_straight(near, bond(2), fan, place, size) & ~solid
    partner = torch.where(straight[fan], (place + 2) % count, partner)
    partner = half[first + partner].masked_fill((turn == count - 1) & (count % 2 == 1), -1)
    return torch.empty_like(partner).scatter_(0, order, partner)


def _directions(vertices: Tensor, faces: Tensor, half: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(unit axis [M, 3], unit direction from it to the face's third vertex [M, 3], runs along the axis [M] bool)."""
    face, corner = half // 3, half % 3
    a, b, tip = (faces[face, (corner + k) % 3] for k in range(3))
    base = precise(vertices[torch.minimum(a, b)])
    axis = unit(precise(vertices[torch.maximum(a, b)]) - base)
    away = precise(vertices[tip]) - base
    return axis, unit(away - axis * dot(away, axis)[:, None]), a < b


def _pages(vertices: Tensor, faces: Tensor, half: Tensor, first: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    """(position around the axis from the fan's first page, 0 to 4; whether, turned, it runs up the axis), both [M]."""
    axis, spread, up = _directions(vertices, faces, half)
    x = dot(spread, spread[first])
    y = dot(spread, cross(axis, spread[first]))
    total = (x.abs() + y.abs()).clamp_min(torch.finfo(x.dtype).tiny)
    position = torch.where(y >= 0, 1 - x / total, 3 + x / total)
    return position, up ^ flip[half // 3]


def _solid(up: Tensor, sure: Tensor, next_page: Tensor, fan: Tensor, size: Tensor) -> Tensor:
    """Fans [K] bool in which outside and inside surely alternate all around."""
    wrong = (up == up[next_page]) | ~sure
    return (torch.zeros_like(size).index_add_(0, fan, wrong.to(torch.int64)) == 0) & (size % 2 == 0)


def _even_base(near: Tensor, solid: Tensor, up: Tensor, fan: Tensor, place: Tensor, size: Tensor) -> Tensor:
    """The place [K] of a page that is paired with the next, 0 or 1: around solids, or else the smoother."""
    signed = torch.where(place % 2 == 0, -near, near)
    smoother = torch.zeros_like(size).index_add_(0, fan, signed) > 0
    up_first = torch.zeros_like(size).index_add_(0, fan, ((place == 0) & up).to(torch.int64)) > 0
    return torch.where(solid, up_first, smoother).to(torch.int64)


def _goes_straight(near: Tensor, far: Tensor, fan: Tensor, place: Tensor, size: Tensor) -> Tensor:
    """Fans [K] bool of four pages that go on best in the page opposite."""
    zero = torch.zeros_like(size)
    # Of four pages, 0 and 2 and 1 and 3 are opposite; the pairs of neighbours begin at 0 and 2, or at 1 and 3.
    opposite = zero.index_add(0, fan, far.masked_fill(place >= 2, 0))
    even = zero.index_add(0, fan, near.masked_fill(place % 2 == 1, 0))
    odd = zero.index_add(0, fan, near.masked_fill(place % 2 == 0, 0))
    return (opposite > even) & (opposite > odd) & (size == CROSSING)


def _odd_base(bonds: Tensor, fan: Tensor, first: Tensor, place: Tensor, size: Tensor) -> Tensor:
    """The place [K] after the page to leave over, in fans with an odd number of pages, so that the rest is smoothest.

    In steps of two an odd ring is visited once, and the pairs that one choice keeps are a run of it.
    """
    count = size[fan]
    ring = first + (2 * place) % count
    running = bonds[ring].cumsum(0)
    before = running - bonds[ring]
    total = running[first + count - 1] - before[first]
    begin = ((place + 1) * ((count + 1) // 2)) % count
    end = begin + (count - 1) // 2
    wrapped = end > count
    upto = torch.where(end % count == 0, running[first + count - 1], before[first + end % count])
    score = upto - before[first + begin] + torch.where(wrapped, total, 0)
    best = torch.full_like(size, torch.iinfo(torch.int64).min).scatter_reduce_(0, fan, score, "amax")
    chosen = torch.where(score == best[fan], place, count)
    return (torch.full_like(size, torch.iinfo(torch.int64).max).scatter_reduce_(0, fan, chosen, "amin") + 1) % size
