"""Symmetric Dirichlet relaxation in plain torch, and the distortion of faces.

At a corner, with u and w the face's two edges from it in the plane, and the rest triangle's Gram matrix
[[g11, g12], [g12, g22]] of the same edges, |J|^2 = a |u|^2 - 2 b u.w + c |w|^2 with
(a, b, c) = (g22, g12, g11) / det G, and det J = (u x w) / sqrt(det G). |J^-1|^2 is |J|^2 / (det J)^2.

Letters: U vertices, F faces, C corners, N vertices of one colour.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-9  # a face with det J up to this counts as flipped
SOFTNESS = 0.1  # regularisation of det J in the untangling energy
HALVINGS = 8
CONVEXITY = 1e-3  # least eigenvalue of a Newton step's Hessian, as a fraction of its trace


def corner_table(corner: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (next vertex, previous vertex [3 F] int64, (a, b, c, sqrt(det G)) [3 F, 4] float64) of corners 3 f + k.

    corner: [F, 3] int64.  rest: [F, 3] float64, squared edge lengths.
    """
    shape = _gram(rest, rest.roll(1, dims=1), rest.roll(-1, dims=1))
    return corner.roll(-1, dims=1).reshape(-1), corner.roll(1, dims=1).reshape(-1), shape.view(-1, 4)


def _gram(g11: Tensor, g22: Tensor, opposite: Tensor) -> Tensor:
    """(a, b, c, sqrt(det G)) [..., 4] of corners with edges of squared lengths g11 and g22 [...], and the one between
    their ends."""
    g12 = (g11 + g22 - opposite) / 2
    det = g11 * g22 - g12 * g12
    return torch.stack((g22 / det, g12 / det, g11 / det, det.sqrt()), dim=-1)


def distortion(position: Tensor, corner: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (det J [F], L2 stretch [F]) of the faces, stretch inf for flipped ones.

    position: [U, 2] float64.  corner: [F, 3] int64.  rest: [F, 3] float64, squared edge lengths.
    L2 stretch is sqrt(|J^-1|^2 / 2), 1 for an isometry.
    """
    place = position[corner]
    along, across = (place[:, 1:] - place[:, :1]).unbind(1)
    norm, det = _measure(along, across, _gram(rest[:, 0], rest[:, 2], rest[:, 1]))
    return det, torch.where(det > FLAT, (norm / 2).sqrt() / det.clamp(min=FLAT), torch.inf)


def relax_torch(position: Tensor, corner: Tensor, rest: Tensor, color: Tensor, sweeps: int) -> Tensor:
    """As `relax`: positions [U, 2] float64."""
    position = position.clone()
    following, preceding, shape = corner_table(corner, rest)
    by_vertex = corner.reshape(-1).sort(stable=True)
    owner_color = color[by_vertex.values]
    batches = []
    for shade in color.unique().tolist():
        rows = by_vertex.indices[owner_color == shade]
        vertex, slot = corner.reshape(-1)[rows].unique_consecutive(return_inverse=True)
        batches.append((vertex, slot, following[rows], preceding[rows], shape[rows]))
    for _ in range(sweeps):
        for batch in batches:
            if len(batch[0]):
                position[batch[0]] = _moved(position, *batch)
    return position


def _measure(u: Tensor, w: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Returns |J|^2 and det J, [C] each, of faces with edges u, w [C, 2]."""
    uu, uw, ww = (u * u).sum(dim=1), (u * w).sum(dim=1), (w * w).sum(dim=1)
    norm = shape[:, 0] * uu - 2 * shape[:, 1] * uw + shape[:, 2] * ww
    return norm, (u[:, 0] * w[:, 1] - u[:, 1] * w[:, 0]) / shape[:, 3]


def _soft(det: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a positive approximation of det J, and its derivative."""
    root = (det * det + SOFTNESS * SOFTNESS).sqrt()
    value = (det + root) / 2
    return value, value / root


def _energies(u: Tensor, w: Tensor, shape: Tensor, tangled: Tensor) -> Tensor:
    """Returns the energy [C] of each corner's face; tangled [C] bool selects the untangling energy."""
    norm, det = _measure(u, w, shape)
    tight = torch.where(det > FLAT, norm * (1 + 1 / det.square()), torch.inf)
    return shape[:, 3] * torch.where(tangled, (norm + 1 + det * det) / _soft(det)[0], tight)


def _moved(
    position: Tensor, vertex: Tensor, slot: Tensor, following: Tensor, preceding: Tensor, shape: Tensor
) -> Tensor:
    """Returns new positions [N, 2] of vertices no two of which share a face; slot [C]: the vertex of each corner."""

    def total(values: Tensor) -> Tensor:
        return torch.zeros(len(vertex), dtype=values.dtype, device=values.device).index_add_(0, slot, values)

    here, p, q = position[vertex], position[following], position[preceding]
    u, w = p - here[slot], q - here[slot]
    tangled = (total((_measure(u, w, shape)[1] <= FLAT).to(torch.float64)) > 0)[slot]
    terms = _derivatives(u, w, shape, tangled)
    gx, gy, hxx, hxy, hyy = (total(shape[:, 3] * term) for term in terms)
    lowest = (hxx + hyy - ((hxx - hyy).square() + 4 * hxy * hxy).sqrt()) / 2
    lift = (CONVEXITY * (hxx + hyy).abs() - lowest).clamp(min=0)
    hxx, hyy = hxx + lift, hyy + lift
    det = hxx * hyy - hxy * hxy
    step = torch.stack((hxy * gy - hyy * gx, hxy * gx - hxx * gy), dim=1) / det[:, None]
    step = torch.where((det > 0)[:, None] & step.isfinite(), step, 0.0)
    before = total(_energies(u, w, shape, tangled))
    best, found = here, torch.zeros_like(vertex, dtype=torch.bool)
    for halving in range(HALVINGS + 1):
        there = here + step * 0.5**halving
        lower = total(_energies(p - there[slot], q - there[slot], shape, tangled)) < before
        best = torch.where((lower & ~found)[:, None], there, best)
        found |= lower
    return best


def _derivatives(u: Tensor, w: Tensor, shape: Tensor, tangled: Tensor) -> tuple[Tensor, ...]:
    """Returns (gx, gy, hxx, hxy, hyy), [C] each: derivatives of each face's energy per area by its corner."""
    a, b, c, root = shape.unbind(dim=1)
    norm, det = _measure(u, w, shape)
    nx, ny = (-2 * ((a - b) * u[:, k] + (c - b) * w[:, k]) for k in (0, 1))
    dx, dy = (u[:, 1] - w[:, 1]) / root, (w[:, 0] - u[:, 0]) / root
    bend = 2 * (a - 2 * b + c)
    inverse = 1 / torch.where(tangled, 1.0, det)
    square = inverse * inverse
    weight, pull, stiff = 1 + square, 2 * square * inverse, 6 * norm * square * square
    tight = (
        nx * weight - norm * pull * dx,
        ny * weight - norm * pull * dy,
        bend * weight - 2 * pull * nx * dx + stiff * dx * dx,
        stiff * dx * dy - pull * (nx * dy + ny * dx),
        bend * weight - 2 * pull * ny * dy + stiff * dy * dy,
    )
    soft, slope = _soft(det)
    top, sx, sy = norm + 1 + det * det, slope * dx, slope * dy
    mx, my = nx + 2 * det * dx, ny + 2 * det * dy
    fall, stiff = 1 / soft.square(), 2 * top / (soft * soft * soft)
    loose = (
        mx / soft - top * fall * sx,
        my / soft - top * fall * sy,
        (bend + 2 * dx * dx) / soft - 2 * fall * mx * sx + stiff * sx * sx,
        2 * dx * dy / soft - fall * (mx * sy + my * sx) + stiff * sx * sy,
        (bend + 2 * dy * dy) / soft - 2 * fall * my * sy + stiff * sy * sy,
    )
    return tuple(torch.where(tangled, x, y) for x, y in zip(loose, tight, strict=True))
