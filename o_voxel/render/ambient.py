"""Screen-space ambient occlusion (SSAO) from the depth buffer."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from .camera import View
from .vectors import dot, for_each, spans

TAPS = 16
REACH = 0.22  # of the subject's radius
STRENGTH = 2.0
BIAS = 0.06  # avoids self-occlusion of flat surfaces
GOLDEN_TURN = 0.618034
BLUR = 4  # pixels per side of the blur, and of the tile of tap rotations


def occlusion_reach(radius: float) -> float:
    """Returns the maximum occluder distance, world units, for a subject of this radius."""
    return radius * REACH


def occlusion(depth: Tensor, normal: Tensor, view: View, reach: float) -> Tensor:
    """Computes visibility [H, W] float32 in (0, 1] per pixel, 1 where empty; noisy, to be filtered by `smoothed`.

    depth: [H, W] float32 along the line of sight, inf where empty.  normal: [3, H, W] float32, world.
    Each of TAPS nearby pixels above the tangent plane and within `reach`, world units, occludes. Deterministic.
    """
    normals, flat = normal.flatten(1), depth.flatten()
    left = torch.ones_like(flat)
    covered = flat.isfinite().nonzero().flatten()

    def take(span: slice) -> None:
        pixel = covered[span]
        normal = view.rotate_to_eye(normals.index_select(1, pixel))
        left.index_copy_(0, pixel, _visibility(flat, normal, pixel, tuple(depth.shape), view, reach))

    for_each(spans(len(covered), depth.device), depth.device, take)
    return left.view(depth.shape)


def _eye_position(depth: Tensor, x: Tensor, y: Tensor, size: tuple[int, int], view: View) -> Tensor:
    """Unprojects pixels x, y [N] int at `depth` [N] to eye-space positions [3, N]."""
    height, width = size
    spread = torch.ones_like(depth) if view.orthographic else depth
    across, upward = (2 * x + 1) / width - 1, 1 - (2 * y + 1) / height
    return torch.stack((across * spread / view.scale[0], upward * spread / view.scale[1], depth))


def _visibility(
    depth: Tensor, normal: Tensor, pixel: Tensor, size: tuple[int, int], view: View, reach: float
) -> Tensor:
    """Computes visibility [N] at `pixel` [N] int64 of `depth` [H W], with eye-space normals [3, N]."""
    height, width = size
    x, y = pixel % width, pixel // width
    here = _eye_position(depth.index_select(0, pixel), x, y, size, view)
    spread = torch.ones_like(here[2]) if view.orthographic else here[2]
    radius_pixels = (reach * view.scale[1] * height / 2 / spread).clamp(2, max(height / 6, 2))
    start = ((x % BLUR) * BLUR + (y % BLUR) * 7) % (BLUR * BLUR)
    turns = torch.arange(BLUR * BLUR, dtype=here.dtype, device=here.device) / (BLUR * BLUR)
    taken = torch.zeros_like(here[2])
    for tap in range(TAPS):
        angle = 2 * pi * (turns + tap * GOLDEN_TURN)
        far = radius_pixels * ((tap + 0.5) / TAPS) ** 0.75
        tap_x = (x + 0.5 + far * angle.cos().index_select(0, start)).clamp(0, width - 1).long()
        tap_y = (y + 0.5 + far * angle.sin().index_select(0, start)).clamp(0, height - 1).long()
        there = depth.index_select(0, tap_y * width + tap_x)
        offset = _eye_position(torch.where(there.isfinite(), there, 1e15), tap_x, tap_y, size, view) - here
        square = dot(offset, offset)
        rise = dot(offset, normal) * square.clamp(min=1e-30).rsqrt() - BIAS
        taken += rise.clamp(min=0) * (1 - square / (reach * reach)).clamp(min=0)
    return (1 - STRENGTH / TAPS * taken).clamp(min=0.05)


def smoothed(values: Tensor, depth: Tensor, reach: float, rows: slice) -> Tensor:
    """Box-filters `values` [H, W] over BLUR x BLUR pixels of similar `depth` [H, W]: [rows, W]; 1 where empty."""
    height, width = depth.shape
    total, weight = torch.zeros_like(values[rows]), torch.zeros_like(values[rows])
    for down in range(-(BLUR // 2), BLUR - BLUR // 2):
        for across in range(-(BLUR // 2), BLUR - BLUR // 2):
            first, last = max(rows.start, -down), min(rows.stop, height - down)
            left, right = max(0, -across), min(width, width - across)
            if first >= last or left >= right:
                continue
            there = slice(first + down, last + down), slice(left + across, right + across)
            here = slice(first - rows.start, last - rows.start), slice(left, right)
            near = ((depth[there] - depth[first:last, left:right]).abs() < reach / 4).to(values)
            total[here] += near * values[there]
            weight[here] += near
    return torch.where(weight > 0, total / weight.clamp(min=1), 1.0)
