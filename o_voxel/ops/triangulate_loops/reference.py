"""Minimum-weight triangulation of loops in plain torch on the CPU: dynamic programming over chords, many loops at once.

Letters: L loops of a batch, n points of its longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Weights relative to squared edge lengths: BEND of a dihedral bend, for an edge of unit length; FOLD of a bend above a
# right angle, for an edge of unit length in a loop of unit perimeter.
BEND, FOLD = 4.0, 128.0
# A triangle is degenerate if its doubled area is below this share of its longest side squared.
FLAT = 1e-6
# Limits of a batch: loops times points squared, and the length ratio of its longest and shortest loop.
BATCH, UNEVEN = 1 << 20, 1.3


@dataclass(frozen=True, eq=False)
class _Chords:
    """Dynamic programming table over the chords i to j of each loop, all [L, n, n], filled in place by growing gap.

    cost: float64, of the best triangulation.  apex: int64, the third point of the triangle at the chord.
    normal: [..., 3] float64, of that triangle, or beyond the rim.  barred: bool.  perimeter: [L, 1, 1] float64.
    """

    cost: Tensor
    apex: Tensor
    normal: Tensor
    barred: Tensor
    perimeter: Tensor

    def bend(self, squared: Tensor, face: Tensor, beyond: Tensor) -> Tensor:
        """Returns the dihedral cost of an edge: squared length [L, ...], unit normals [L, ..., 3] on either side."""
        cosine = _dot(face, beyond)
        folded = FOLD * self.perimeter
        return BEND * squared * (1 - cosine) + folded * squared.sqrt() * (-cosine).clamp_min(0)


def triangulate_loops(points: Tensor, rim: Tensor, start: Tensor, barred: Tensor) -> tuple[Tensor, Tensor]:
    """See the op: (triangles [T, 3] int64, whole [L] bool)."""
    sizes = start.diff()
    loop = torch.repeat_interleave(sizes)
    barred = barred[loop[barred[:, 0]] == loop[barred[:, 1]]].sort(1).values
    whole = torch.zeros(len(sizes), dtype=torch.bool)
    triangles = [torch.zeros(0, 4, dtype=torch.int64)]
    for loops in _batches(sizes):
        whole[loops], found = _batch(points, rim, start[loops], sizes[loops], barred)
        found[:, 0] = loops[found[:, 0]]
        triangles.append(found)
    loop, i, k, j = torch.cat(triangles).unbind(1)
    order = ((loop * 256 + i) * 256 + j).argsort()
    return (torch.stack([i, k, j], 1) + start[loop][:, None])[order], whole


def _batches(sizes: Tensor) -> list[Tensor]:
    """Splits the rows of `sizes` [L] into batches of similar size."""
    ordered, rows = sizes.sort(stable=True)
    batches, begin = [], 0
    for end in range(1, len(sizes) + 1):
        full = end == len(sizes) or ordered[end] > UNEVEN * ordered[begin]
        if full or (end + 1 - begin) * int(ordered[end]) ** 2 > BATCH:
            batches.append(rows[begin:end])
            begin = end
    return batches


def _batch(points: Tensor, rim: Tensor, start: Tensor, size: Tensor, barred: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (whole [L] bool, triangles [T, 4]: loop of the batch, three points) of loops padded to the longest."""
    loops, most = torch.arange(len(size)), int(size.max())
    row = torch.minimum(torch.arange(most), size[:, None] - 1) + start[:, None]
    ending = rim[start + size - 1]
    points, rim = points[row], rim[row]
    side = points.roll(-1, 1) - points
    perimeter = _dot(side, side).sqrt().cumsum(1)[:, -1, None, None]
    shape = (len(size), most, most)
    cost, normal = torch.zeros(shape, dtype=torch.float64), torch.zeros(*shape, 3, dtype=torch.float64)
    chords = _Chords(
        cost, torch.zeros(shape, dtype=torch.int64), normal, torch.zeros(shape, dtype=torch.bool), perimeter
    )
    pair, loop = ((barred[:, :1] >= start) & (barred[:, :1] < start + size)).nonzero(as_tuple=True)
    i, j = (barred[pair] - start[loop][:, None]).unbind(1)
    chords.barred[loop, i, j] = True
    chords.barred[loops, 0, size - 1] = False
    near = torch.arange(most - 1)
    chords.normal[:, near, near + 1] = rim[:, :-1]
    for gap in range(2, most):
        _widen(chords, points, ending, size, gap)
    whole = chords.cost[loops, 0, size - 1].isfinite()
    return whole, _collect(chords.apex, whole, size)


def _widen(chords: _Chords, points: Tensor, ending: Tensor, size: Tensor, gap: int) -> None:
    """Fills in the chords from each point to the one `gap` further, from those of shorter chords."""
    most = points.shape[1]
    i = torch.arange(most - gap)
    j, k = i + gap, i[:, None] + torch.arange(1, gap)
    i_k, j_k = i[:, None].expand_as(k), j[:, None].expand_as(k)
    a, b, c = points[:, i_k], points[:, k], points[:, j_k]
    out, back = b - a, c - a
    ab, bc, ac = _dot(out, out), _dot(back - out, back - out), _dot(back, back)
    face = torch.linalg.cross(out, back)
    doubled = _dot(face, face).sqrt()
    face = face / doubled.clamp_min(torch.finfo(torch.float64).tiny)[..., None]
    total = chords.cost[:, i_k, k] + chords.cost[:, k, j_k] + (ab + bc + ac)
    total = total + chords.bend(ab, face, chords.normal[:, i_k, k])
    total = total + chords.bend(bc, face, chords.normal[:, k, j_k])
    closing = chords.bend(ac[:, :1], face[:, :1], ending[:, None, None])
    total[:, :1] += torch.where((size == gap + 1)[:, None, None], closing, 0.0)
    flat = doubled <= FLAT * torch.maximum(torch.maximum(ab, bc), ac)
    total = total.masked_fill(flat | chords.barred[:, i, j][..., None], torch.inf)
    least = total.amin(2, keepdim=True)
    best = torch.where(total == least, k, most).amin(2)
    chords.cost[:, i, j], chords.apex[:, i, j] = least[..., 0], best
    chords.normal[:, i, j] = face.gather(2, (best - i - 1)[..., None, None].expand(-1, -1, 1, 3))[:, :, 0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    product = a * b
    return product[..., 0] + product[..., 1] + product[..., 2]


def _collect(apex: Tensor, whole: Tensor, size: Tensor) -> Tensor:
    """Returns triangles [T, 4] (loop, i, k, j) of the best triangulations, from the outermost chord inwards."""
    loop = whole.nonzero().squeeze(1)
    i, j = torch.zeros_like(loop), size[loop] - 1
    parts = [torch.zeros(0, 4, dtype=torch.int64)]
    while len(loop):
        k = apex[loop, i, j]
        parts.append(torch.stack([loop, i, k, j], 1))
        loop, i, j = torch.cat([loop, loop]), torch.cat([i, k]), torch.cat([k, j])
        wide = j - i > 1
        loop, i, j = loop[wide], i[wide], j[wide]
    return torch.cat(parts)
