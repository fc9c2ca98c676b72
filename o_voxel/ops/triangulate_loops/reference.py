"""Dynamic programming over the chords of a loop, many loops at once, in plain torch on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

# Weight of a bend against shape, both for an edge of unit length.
BEND = 4.0
# A triangle has no area when its doubled area is below this share of its longest side squared.
FLAT = 1e-6
# Loops done together: up to so many times points squared, and none more than so much longer than another.
BATCH, UNEVEN = 1 << 20, 1.3


def triangulate_loops(points: Tensor, rim: Tensor, start: Tensor, barred: Tensor) -> tuple[Tensor, Tensor]:
    """See the op; `barred` has the lower point first and both in one loop."""
    sizes = start.diff()
    whole = torch.zeros(len(sizes), dtype=torch.bool)
    parts, bysize, at = [torch.zeros(0, 5, dtype=torch.int64)], sizes.argsort(stable=True).tolist(), 0
    while at < len(bysize):
        end = at + 1
        while (
            end < len(bysize)
            and (end + 1 - at) * int(sizes[bysize[end]]) ** 2 <= BATCH
            and int(sizes[bysize[end]]) <= UNEVEN * int(sizes[bysize[at]])
        ):
            end += 1
        loops = torch.tensor(bysize[at:end])
        found, triangles = _batch(points, rim, start[loops], sizes[loops], barred)
        whole[loops] = found
        triangles[:, 0] = loops[triangles[:, 0]]
        parts.append(triangles)
        at = end
    triangles = torch.cat(parts)
    first, second = triangles[:, 1], triangles[:, 3]
    order = ((triangles[:, 0] * 256 + first) * 256 + second).argsort()
    triangles = triangles[order]
    return triangles[:, 1:4] + start[triangles[:, 0]][:, None], whole


def _batch(points: Tensor, rim: Tensor, start: Tensor, size: Tensor, barred: Tensor) -> tuple[Tensor, Tensor]:
    """(whole [L], triangles [T, 5]: loop of the batch, and three points of it) of loops padded to the longest."""
    most = int(size.max())
    row = torch.minimum(torch.arange(most), size[:, None] - 1) + start[:, None]
    points, rim = points[row], rim[row]
    closed = torch.zeros(len(size), most, most, dtype=torch.bool)
    inside = (barred[:, :1] >= start) & (barred[:, :1] < start + size)
    which, loop = inside.nonzero(as_tuple=True)
    pair = barred[which] - start[loop][:, None]
    closed[loop, pair[:, 0], pair[:, 1]] = True
    closed[torch.arange(len(size)), 0, size - 1] = False
    cost = torch.zeros(len(size), most, most, dtype=torch.float64)
    split = torch.zeros(len(size), most, most, dtype=torch.int64)
    normal = torch.zeros(len(size), most, most, 3, dtype=torch.float64)
    near = torch.arange(most - 1)
    normal[:, near, near + 1] = rim[:, :-1]
    ending = rim[torch.arange(len(size)), size - 1]
    for gap in range(2, most):
        _widen(points, ending, size, closed, cost, split, normal, gap)
    whole = cost[torch.arange(len(size)), 0, size - 1].isfinite()
    return whole, _collect(split, whole, size)


def _widen(points, ending, size, closed, cost, split, normal, gap) -> None:
    """Fills in the chords from each point to the one `gap` further, from those of shorter chords."""
    most = points.shape[1]
    i = torch.arange(most - gap)
    j, k = i + gap, i[:, None] + torch.arange(1, gap)
    i_k, j_k = i[:, None].expand_as(k), j[:, None].expand_as(k)
    a, b, c = points[:, i_k], points[:, k], points[:, j_k]
    ab, bc, ac = b - a, c - b, c - a
    face = torch.linalg.cross(ab, ac)
    sides = [_dot(side, side) for side in (ab, bc, ac)]
    doubled = _dot(face, face).sqrt()
    face = face / doubled.clamp_min(torch.finfo(torch.float64).tiny)[..., None]
    total = cost[:, i_k, k] + cost[:, k, j_k] + (sides[0] + sides[1] + sides[2])
    total = total + BEND * sides[0] * (1 - _dot(face, normal[:, i_k, k]))
    total = total + BEND * sides[1] * (1 - _dot(face, normal[:, k, j_k]))
    last = BEND * sides[2][:, :1] * (1 - _dot(face[:, :1], ending[:, None, None]))
    total[:, :1] += torch.where((size == gap + 1)[:, None, None], last, 0.0)
    flat = doubled <= FLAT * torch.maximum(torch.maximum(sides[0], sides[1]), sides[2])
    total = total.masked_fill(flat | closed[:, i, j][..., None], torch.inf)
    least = total.amin(2, keepdim=True)
    best = torch.where(total == least, k, most).amin(2)
    cost[:, i, j], split[:, i, j] = least[..., 0], best
    normal[:, i, j] = face.gather(2, (best - i - 1)[..., None, None].expand(-1, -1, 1, 3))[:, :, 0]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    product = a * b
    return product[..., 0] + product[..., 1] + product[..., 2]


def _collect(split: Tensor, whole: Tensor, size: Tensor) -> Tensor:
    """Triangles [T, 5] (loop, i, k, j, 0) of the best triangulations, chord by chord from the outermost."""
    loop = whole.nonzero().squeeze(1)
    i, j = torch.zeros_like(loop), size[loop] - 1
    parts = [torch.zeros(0, 5, dtype=torch.int64)]
    while len(loop):
        k = split[loop, i, j]
        parts.append(torch.stack([loop, i, k, j, torch.zeros_like(i)], 1))
        loop, i, j = torch.cat([loop, loop]), torch.cat([i, k]), torch.cat([k, j])
        wide = j - i > 1
        loop, i, j = loop[wide], i[wide], j[wide]
    return torch.cat(parts)
