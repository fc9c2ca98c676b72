"""Symmetric Dirichlet relaxation in Triton: one vertex per lane, one launch per colour, so neighbours move in turn."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from .reference import CONVEXITY, FLAT, HALVINGS, SOFTNESS, corner_table

BLOCK = 32
_FLAT, _SOFTNESS, _CONVEXITY = tl.constexpr(FLAT), tl.constexpr(SOFTNESS), tl.constexpr(CONVEXITY)
_TRIALS = tl.constexpr(HALVINGS + 1)


@device_guard
def relax_gpu(position: Tensor, corner: Tensor, rest: Tensor, color: Tensor, sweeps: int) -> Tensor:
    """As `relax`: positions [U, 2] float64."""
    moved = position.contiguous().clone()
    following, preceding, shape = corner_table(corner, rest)
    by_vertex = corner.reshape(-1).sort(stable=True)
    ends = torch.stack((following[by_vertex.indices], preceding[by_vertex.indices]), dim=1)
    shape = shape[by_vertex.indices].contiguous()
    vertex = torch.arange(len(position), device=position.device)
    start = torch.searchsorted(by_vertex.values, torch.arange(len(position) + 1, device=position.device))
    key, order = torch.where(start.diff() > 0, color.long(), 64).sort(stable=True)
    upto = torch.searchsorted(key, torch.arange(65, device=key.device)).tolist()
    vertex = vertex[order]
    batches = [vertex[a:b] for a, b in zip(upto, upto[1:], strict=False) if a < b]
    for _ in range(sweeps):
        for batch in batches:
            grid = (triton.cdiv(len(batch), BLOCK),)
            _move[grid](moved, ends, shape, start, batch, len(batch), BLOCK, num_warps=1, enable_fp_fusion=False)
    return moved


@triton.jit
def _face(position_ptr, ends_ptr, shape_ptr, at, ok, x, y):
    """Returns (a, b, c, sqrt(det G), u, w, |J|^2, det J) of the faces at corners `at`, with their vertex at (x, y)."""
    p, q = tl.load(ends_ptr + 2 * at, mask=ok, other=0), tl.load(ends_ptr + 2 * at + 1, mask=ok, other=0)
    a, b = tl.load(shape_ptr + 4 * at, mask=ok, other=0.0), tl.load(shape_ptr + 4 * at + 1, mask=ok, other=0.0)
    c, root = tl.load(shape_ptr + 4 * at + 2, mask=ok, other=0.0), tl.load(shape_ptr + 4 * at + 3, mask=ok, other=1.0)
    ux, uy = (
        tl.load(position_ptr + 2 * p, mask=ok, other=0.0) - x,
        tl.load(position_ptr + 2 * p + 1, mask=ok, other=0.0) - y,
    )
    wx, wy = (
        tl.load(position_ptr + 2 * q, mask=ok, other=0.0) - x,
        tl.load(position_ptr + 2 * q + 1, mask=ok, other=0.0) - y,
    )
    norm = a * (ux * ux + uy * uy) - 2 * b * (ux * wx + uy * wy) + c * (wx * wx + wy * wy)
    return a, b, c, root, ux, uy, wx, wy, norm, (ux * wy - uy * wx) / root


@triton.jit
def _energy(position_ptr, ends_ptr, shape_ptr, first, count, most, x, y, tangled):
    """Returns the energy of the faces around each lane's vertex at (x, y); inf if one flips and it is not `tangled`."""
    total = tl.zeros_like(x)
    for t in range(most):
        ok = t < count
        _, _, _, root, _, _, _, _, norm, det = _face(position_ptr, ends_ptr, shape_ptr, first + t, ok, x, y)
        loose = (norm + 1 + det * det) * 2 / (det + tl.sqrt(det * det + _SOFTNESS * _SOFTNESS))
        flat = det <= _FLAT
        safe = tl.where(flat, 1.0, det)
        tight = tl.where(flat, float("inf"), norm * (1 + 1 / (safe * safe)))
        total += tl.where(ok, root * tl.where(tangled, loose, tight), 0.0)
    return total


@triton.jit
def _newton_step(position_ptr, ends_ptr, shape_ptr, first, count, most, x, y, tangled):
    """Returns the Newton step [2] of each lane's vertex, its Hessian lifted to be convex; 0 if there is none."""
    gx, gy, hxx = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    hxy, hyy = tl.zeros_like(x), tl.zeros_like(x)
    for t in range(most):
        ok = t < count
        a, b, c, root, ux, uy, wx, wy, norm, det = _face(position_ptr, ends_ptr, shape_ptr, first + t, ok, x, y)
        nx, ny = -2 * ((a - b) * ux + (c - b) * wx), -2 * ((a - b) * uy + (c - b) * wy)
        dx, dy = (uy - wy) / root, (wx - ux) / root
        bend = 2 * (a - 2 * b + c)
        inverse = 1 / tl.where(tangled | (det <= _FLAT), 1.0, det)
        square = inverse * inverse
        weight, pull, stiff = 1 + square, 2 * square * inverse, 6 * norm * square * square
        soft_root = tl.sqrt(det * det + _SOFTNESS * _SOFTNESS)
        soft = (det + soft_root) / 2
        slope = soft / soft_root
        sx, sy = slope * dx, slope * dy
        mx, my, top = nx + 2 * det * dx, ny + 2 * det * dy, norm + 1 + det * det
        fall = 1 / (soft * soft)
        steep = 2 * top * fall / soft
        area = tl.where(ok, root, 0.0)
        gx += area * tl.where(tangled, mx / soft - top * fall * sx, nx * weight - norm * pull * dx)
        gy += area * tl.where(tangled, my / soft - top * fall * sy, ny * weight - norm * pull * dy)
        loose = (bend + 2 * dx * dx) / soft - 2 * fall * mx * sx + steep * sx * sx
        hxx += area * tl.where(tangled, loose, bend * weight - 2 * pull * nx * dx + stiff * dx * dx)
        loose = 2 * dx * dy / soft - fall * (mx * sy + my * sx) + steep * sx * sy
        hxy += area * tl.where(tangled, loose, stiff * dx * dy - pull * (nx * dy + ny * dx))
        loose = (bend + 2 * dy * dy) / soft - 2 * fall * my * sy + steep * sy * sy
        hyy += area * tl.where(tangled, loose, bend * weight - 2 * pull * ny * dy + stiff * dy * dy)
    lowest = (hxx + hyy - tl.sqrt((hxx - hyy) * (hxx - hyy) + 4 * hxy * hxy)) / 2
    lift = tl.maximum(tl.abs(hxx + hyy) * _CONVEXITY - lowest, 0.0)
    hxx += lift
    hyy += lift
    determinant = hxx * hyy - hxy * hxy
    good = determinant > 0
    determinant = tl.where(good, determinant, 1.0)
    step_x = tl.where(good, (hxy * gy - hyy * gx) / determinant, 0.0)
    return step_x, tl.where(good, (hxy * gx - hxx * gy) / determinant, 0.0)


@triton.jit(do_not_specialize=["n"])
def _move(position_ptr, ends_ptr, shape_ptr, start_ptr, batch_ptr, n, BLOCK: tl.constexpr):
    """Moves each vertex of a batch by one Newton step, halved until it lowers the energy of its faces."""
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = lane < n
    v = tl.load(batch_ptr + lane, mask=used, other=0)
    first = tl.load(start_ptr + v, mask=used, other=0)
    count = tl.load(start_ptr + v + 1, mask=used, other=0) - first
    most = tl.max(count, 0)
    x, y = tl.load(position_ptr + 2 * v, mask=used, other=0.0), tl.load(position_ptr + 2 * v + 1, mask=used, other=0.0)
    none = x != x
    before = _energy(position_ptr, ends_ptr, shape_ptr, first, count, most, x, y, none)
    tangled = before == float("inf")
    if tl.sum(tangled.to(tl.int32), 0) > 0:
        loose = _energy(position_ptr, ends_ptr, shape_ptr, first, count, most, x, y, tangled)
        before = tl.where(tangled, loose, before)
    sx, sy = _newton_step(position_ptr, ends_ptr, shape_ptr, first, count, most, x, y, tangled)
    best_x, best_y = x, y
    searching = used
    trial = 0
    while (tl.sum(searching.to(tl.int32), 0) > 0) & (trial < _TRIALS):
        there = _energy(position_ptr, ends_ptr, shape_ptr, first, count, most, x + sx, y + sy, tangled)
        better = searching & (there < before)
        best_x, best_y = tl.where(better, x + sx, best_x), tl.where(better, y + sy, best_y)
        searching = searching & (better == 0)
        sx, sy = sx / 2, sy / 2
        trial += 1
    tl.store(position_ptr + 2 * v, best_x, mask=used)
    tl.store(position_ptr + 2 * v + 1, best_y, mask=used)
