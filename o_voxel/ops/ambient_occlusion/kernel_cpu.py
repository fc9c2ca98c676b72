"""Depth map look-up in numba: one point at a time over all maps, on all of torch's threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...core.kernel_cpu import cached_njit
from .reference import BIAS_PIXELS, MIN_COSINE

POINTS_A_TASK = 1 << 13

_compiled = partial(cached_njit, error_model="numpy")


def ambient_occlusion_cpu(
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
    share = np.empty(len(points), np.float32)
    depth_maps = tuple(part.numpy() for part in (depth, axes, center, radius))
    positions, directions, planes = points.numpy(), normals.numpy(), flat.numpy()

    def look(start: int) -> None:
        span = slice(start, start + POINTS_A_TASK)
        look_up(*depth_maps, positions[span], directions[span], planes[span], np.float32(reach), share[span])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(look, range(0, len(points), POINTS_A_TASK)))
    return torch.from_numpy(share)


@_compiled
def look_up(depth, axes, center, radius, points, normals, flat, reach, share):
    """Writes the visible fraction [P] float32 at points [P, 3]."""
    side = depth.shape[1]
    half, one = np.float32(side / 2), np.float32(1)
    scale, pixel = one / radius[0], np.float32(2) * radius[0] / np.float32(side)
    bias, least = np.float32(BIAS_PIXELS) * pixel, np.float32(MIN_COSINE)
    light, whole = np.zeros(len(points), np.float32), np.zeros(len(points), np.float32)
    # Map by map: near points read near pixels, and all maps together are far larger than a cache.
    for k in range(len(depth)):
        rx, ry, rz = axes[k, 0, 0], axes[k, 0, 1], axes[k, 0, 2]
        ux, uy, uz = axes[k, 1, 0], axes[k, 1, 1], axes[k, 1, 2]
        tx, ty, tz = axes[k, 2, 0], axes[k, 2, 1], axes[k, 2, 2]
        for p in range(len(points)):
            nx, ny, nz = flat[p, 0], flat[p, 1], flat[p, 2]
            cosine = normals[p, 0] * tx + normals[p, 1] * ty + normals[p, 2] * tz
            steepness = nx * tx + ny * ty + nz * tz
            if not (steepness > least and cosine > 0):
                continue
            x, y, z = points[p, 0] - center[0], points[p, 1] - center[1], points[p, 2] - center[2]
            column = ((x * rx + y * ry + z * rz) * scale + one) * half - np.float32(0.5)
            row = (one - (x * ux + y * uy + z * uz) * scale) * half - np.float32(0.5)
            height = x * tx + y * ty + z * tz
            slope = pixel / steepness
            right_slope = -(nx * rx + ny * ry + nz * rz) * slope
            down_slope = (nx * ux + ny * uy + nz * uz) * slope
            left, top = np.int64(np.floor(column)), np.int64(np.floor(row))
            seen = np.float32(0)
            for tap in range(4):
                px, py = left + (tap >> 1), top + (tap & 1)
                along, down = np.float32(px) - column, np.float32(py) - row
                weight = (one - abs(along)) * (one - abs(down))
                if 0 <= px < side and 0 <= py < side:
                    rise = depth[k, py, px] - (height + along * right_slope + down * down_slope)
                    if rise > bias and rise < reach:
                        continue
                seen += weight
            light[p] += cosine * seen
            whole[p] += cosine
    for p in range(len(points)):
        share[p] = light[p] / whole[p] if whole[p] > 0 else one
