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
    for p in range(len(points)):
        light, whole = np.float32(0), np.float32(0)
        x, y, z = points[p, 0] - center[0], points[p, 1] - center[1], points[p, 2] - center[2]
        nx, ny, nz = flat[p, 0], flat[p, 1], flat[p, 2]
        for k in range(len(depth)):
            right, up, towards = axes[k]
            cosine = normals[p, 0] * towards[0] + normals[p, 1] * towards[1] + normals[p, 2] * towards[2]
            steepness = nx * towards[0] + ny * towards[1] + nz * towards[2]
            if not (steepness > least and cosine > 0):
                continue
            column = ((x * right[0] + y * right[1] + z * right[2]) * scale + one) * half - np.float32(0.5)
            row = (one - (x * up[0] + y * up[1] + z * up[2]) * scale) * half - np.float32(0.5)
            height = x * towards[0] + y * towards[1] + z * towards[2]
            slope = pixel / steepness
            right_slope = -(nx * right[0] + ny * right[1] + nz * right[2]) * slope
            down_slope = (nx * up[0] + ny * up[1] + nz * up[2]) * slope
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
            light += cosine * seen
            whole += cosine
        share[p] = light / whole if whole > 0 else one
