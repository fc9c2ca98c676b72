"""Depth map look-up in Triton: one point per lane, over all maps, sums in registers.

Neighbouring points read neighbouring pixels. Traffic: 24 bytes in and 4 out per point, and the maps once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from .reference import BIAS_PIXELS, MIN_COSINE

BLOCK = 128
POINTS_A_LAUNCH = 1 << 20
_BIAS_PIXELS = tl.constexpr(BIAS_PIXELS)
_MIN_COSINE = tl.constexpr(MIN_COSINE)


@device_guard
def ambient_occlusion_gpu(
    depth: Tensor,
    axes: Tensor,
    center: Tensor,
    radius: Tensor,
    points: Tensor,
    normals: Tensor,
    flat: Tensor,
    reach: float,
) -> Tensor:
    """As reference.ambient_occlusion_torch: visible fraction [P] float32 at points [P, 3]."""
    share = torch.empty_like(points[:, 0])
    for start in range(0, len(points), POINTS_A_LAUNCH):
        part = slice(start, start + POINTS_A_LAUNCH)
        size = len(points[part])
        _look_up[(triton.cdiv(size, BLOCK),)](
            depth, axes, center, radius, points[part], normals[part], flat[part], share[part], size, reach, len(depth),
            depth.shape[1], BLOCK=BLOCK,
        )  # fmt: skip
    return share


@triton.jit
def _load_row(row, live):
    return tl.load(row, live, 0.0), tl.load(row + 1, live, 0.0), tl.load(row + 2, live, 0.0)


@triton.jit
def _dot(x, y, z, row):
    return x * tl.load(row) + y * tl.load(row + 1) + z * tl.load(row + 2)


@triton.jit(do_not_specialize=["n", "reach"])
def _look_up(depth, axes, center, radius, points, normals, flat, share, n, reach, count, side, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    row = at.to(tl.int64) * 3
    x, y, z = _load_row(points + row, live)
    x, y, z = x - tl.load(center), y - tl.load(center + 1), z - tl.load(center + 2)
    nx, ny, nz = _load_row(normals + row, live)
    fx, fy, fz = _load_row(flat + row, live)
    half = side * 0.5
    scale, pixel = 1 / tl.load(radius), 2 * tl.load(radius) / side
    light = tl.zeros([BLOCK], dtype=tl.float32)
    whole = tl.zeros([BLOCK], dtype=tl.float32)
    picture, right = depth, axes
    for _ in range(count):
        up, towards = right + 3, right + 6
        cosine = _dot(nx, ny, nz, towards)
        steepness = _dot(fx, fy, fz, towards)
        faces_it = live & (steepness > _MIN_COSINE) & (cosine > 0)
        column = (_dot(x, y, z, right) * scale + 1) * half - 0.5
        line = (1 - _dot(x, y, z, up) * scale) * half - 0.5
        height = _dot(x, y, z, towards)
        slope = pixel / tl.maximum(steepness, _MIN_COSINE)
        right_slope = -_dot(fx, fy, fz, right) * slope
        down_slope = _dot(fx, fy, fz, up) * slope
        left, top = tl.floor(column), tl.floor(line)
        seen = tl.zeros([BLOCK], dtype=tl.float32)
        for tap in tl.static_range(4):
            px, py = left + (tap >> 1), top + (tap & 1)
            along, down = px - column, py - line
            inside = faces_it & (px >= 0) & (py >= 0) & (px < side) & (py < side)
            where = tl.where(inside, py, 0.0).to(tl.int32) * side + tl.where(inside, px, 0.0).to(tl.int32)
            found = tl.load(picture + where, inside, float("-inf"))
            rise = found - (height + along * right_slope + down * down_slope)
            blocked = (rise > pixel * _BIAS_PIXELS) & (rise < reach)
            seen += tl.where(blocked, 0.0, (1 - tl.abs(along)) * (1 - tl.abs(down)))
        weight = tl.where(faces_it, cosine, 0.0)
        light += weight * seen
        whole += weight
        picture += side * side
        right += 9
    tl.store(share + at, tl.where(whole > 0, light / tl.where(whole > 0, whole, 1.0), 1.0), live)
