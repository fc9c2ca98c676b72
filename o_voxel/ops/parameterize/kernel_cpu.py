"""Symmetric Dirichlet relaxation in numba: group after group, with groups distributed over torch's threads."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ...core.kernel_cpu import cached_njit
from . import reference
from .reference import CONVEXITY, FLAT, HALVINGS, SOFTNESS, corner_table

SHARES_A_THREAD = 4


def relax_cpu(position: Tensor, corner: Tensor, rest: Tensor, color: Tensor, group: Tensor, sweeps: int) -> Tensor:
    """As `relax`: positions [U, 2] float64."""
    moved = position.contiguous().clone()
    following, preceding, shape = corner_table(corner, rest)
    rows = corner.reshape(-1)
    by_vertex = rows.sort(stable=True).indices
    start = torch.zeros(len(position) + 1, dtype=torch.int64)
    start[1:] = torch.bincount(rows, minlength=len(position)).cumsum(0)
    ends = torch.stack((following[by_vertex], preceding[by_vertex]), dim=1)
    order = (group.long() * 64 + color.long()).sort(stable=True).indices
    members = group.long()[order].unique_consecutive(return_counts=True)[1].cumsum(0)
    members = torch.cat((members.new_zeros(1), members))
    threads = torch.get_num_threads()
    wanted = torch.linspace(0, len(order), threads * SHARES_A_THREAD + 1).long()
    cuts = torch.searchsorted(members, wanted).unique().tolist()
    arrays = (moved, ends, shape[by_vertex].contiguous(), start, order, members)
    arrays = [part.numpy() for part in arrays]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda share: relax_groups(*arrays, *share, sweeps), zip(cuts, cuts[1:], strict=False)))
    return moved


def relax_groups(position, ends, shape, start, order, members, first, last, sweeps):
    """Moves the vertices of groups first to last in place: rows members[g] to members[g + 1] of `order`, by colour.

    position: [U, 2].  ends: [3 F, 2], next and previous vertex, shape: [3 F, 4], both sorted by vertex; start: [U + 1].
    """
    for g in range(first, last):
        for _ in range(sweeps):
            for n in range(members[g], members[g + 1]):
                v = order[n]
                if start[v + 1] > start[v]:
                    _move(position, ends, shape, start[v], start[v + 1], v)


def _energy(position, ends, shape, first, last, x, y, tangled):
    """Returns the energy of the faces of corners first to last, with their vertex at (x, y); inf if a face flips."""
    total = 0.0
    for t in range(first, last):
        p, q = ends[t, 0], ends[t, 1]
        ux, uy, wx, wy = position[p, 0] - x, position[p, 1] - y, position[q, 0] - x, position[q, 1] - y
        det = (ux * wy - uy * wx) / shape[t, 3]
        norm = shape[t, 0] * (ux * ux + uy * uy) - 2 * shape[t, 1] * (ux * wx + uy * wy)
        norm += shape[t, 2] * (wx * wx + wy * wy)
        if tangled:
            total += shape[t, 3] * (norm + 1 + det * det) * 2 / (det + math.sqrt(det * det + SOFTNESS * SOFTNESS))
        elif det <= FLAT:
            return np.inf
        else:
            total += shape[t, 3] * norm * (1 + 1 / (det * det))
    return total


def _move(position, ends, shape, first, last, v):
    """Moves vertex v by one Newton step, halved until it lowers the energy."""
    x, y = position[v, 0], position[v, 1]
    before = _energy(position, ends, shape, first, last, x, y, False)
    tangled = before == np.inf
    if tangled:
        before = _energy(position, ends, shape, first, last, x, y, True)
    gx, gy, hxx, hxy, hyy = 0.0, 0.0, 0.0, 0.0, 0.0
    for t in range(first, last):
        p, q = ends[t, 0], ends[t, 1]
        a, b, c, area = shape[t, 0], shape[t, 1], shape[t, 2], shape[t, 3]
        ux, uy, wx, wy = position[p, 0] - x, position[p, 1] - y, position[q, 0] - x, position[q, 1] - y
        norm = a * (ux * ux + uy * uy) - 2 * b * (ux * wx + uy * wy) + c * (wx * wx + wy * wy)
        det = (ux * wy - uy * wx) / area
        nx, ny = -2 * ((a - b) * ux + (c - b) * wx), -2 * ((a - b) * uy + (c - b) * wy)
        dx, dy = (uy - wy) / area, (wx - ux) / area
        bend = 2 * (a - 2 * b + c)
        if tangled:
            root = math.sqrt(det * det + SOFTNESS * SOFTNESS)
            soft = (det + root) / 2
            sx, sy = soft / root * dx, soft / root * dy
            mx, my, top = nx + 2 * det * dx, ny + 2 * det * dy, norm + 1 + det * det
            fall = 1 / (soft * soft)
            stiff = 2 * top * fall / soft
            gx += area * (mx / soft - top * fall * sx)
            gy += area * (my / soft - top * fall * sy)
            hxx += area * ((bend + 2 * dx * dx) / soft - 2 * fall * mx * sx + stiff * sx * sx)
            hxy += area * (2 * dx * dy / soft - fall * (mx * sy + my * sx) + stiff * sx * sy)
            hyy += area * ((bend + 2 * dy * dy) / soft - 2 * fall * my * sy + stiff * sy * sy)
        else:
            square = 1 / (det * det)
            weight, pull, stiff = 1 + square, 2 * square / det, 6 * norm * square * square
            gx += area * (nx * weight - norm * pull * dx)
            gy += area * (ny * weight - norm * pull * dy)
            hxx += area * (bend * weight - 2 * pull * nx * dx + stiff * dx * dx)
            hxy += area * (stiff * dx * dy - pull * (nx * dy + ny * dx))
            hyy += area * (bend * weight - 2 * pull * ny * dy + stiff * dy * dy)
    lowest = (hxx + hyy - math.sqrt((hxx - hyy) ** 2 + 4 * hxy * hxy)) / 2
    lift = max(CONVEXITY * abs(hxx + hyy) - lowest, 0.0)
    hxx, hyy = hxx + lift, hyy + lift
    determinant = hxx * hyy - hxy * hxy
    if not determinant > 0:
        return
    sx, sy = (hxy * gy - hyy * gx) / determinant, (hxy * gx - hxx * gy) / determinant
    for _ in range(HALVINGS + 1):
        if _energy(position, ends, shape, first, last, x + sx, y + sy, tangled) < before:
            position[v, 0], position[v, 1] = x + sx, y + sy
            return
        sx, sy = sx / 2, sy / 2


_energy = cached_njit(_energy, reference)
_move = cached_njit(_move, reference)
relax_groups = cached_njit(relax_groups, reference)
