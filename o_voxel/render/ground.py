"""Soft contact shadow on the ground plane, from a height map of the subject seen from below."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor
from torch.nn.functional import conv1d, grid_sample

from ..ops.raster import rasterize
from .camera import Bounds, View

SIDE = 256
REACH = 1.75  # half the shadow map's side / cylinder radius
# Ambient light from above: geometry near the ground casts a dark, sharp shadow, high geometry a light, wide one.
# Per layer: falloff height, blur standard deviation (both / cylinder radius), strength.
LAYERS = ((0.05, 0.025, 0.42), (0.20, 0.09, 0.34), (0.90, 0.24, 0.34))


def ground_shadow(vertices: Tensor, faces: Tensor, bounds: Bounds) -> Tensor:
    """Computes the ground shadow [SIDE, SIDE] float32 in [0, 1] of `vertices` [V, 3] and `faces` [F, 3]; +y on top.

    Covers REACH cylinder radii around the centre of `bounds`.
    """
    x, y, z = bounds.center
    low, reach, height = z - bounds.half_height, bounds.cylinder_radius * REACH, 2 * bounds.half_height
    offset = vertices - vertices.new_tensor([x, y, low])
    clip = torch.cat((offset / offset.new_tensor([reach, reach, height / 2]), torch.ones_like(offset[:, :1])), dim=1)
    clip[:, 2] = ((clip[:, 2] - 1) * 0.999).clamp(-1, 1)
    raster = rasterize(clip, faces, (SIDE, SIDE))
    above = (raster.depth + 1) / 2 * (height / bounds.cylinder_radius)
    light = torch.ones_like(above)
    for fade, blur, strength in LAYERS:
        light = light * (1 - strength * _blurred(torch.exp(-above / fade), blur * SIDE / (2 * REACH)))
    return 1 - light


def _blurred(image: Tensor, deviation: float) -> Tensor:
    """Convolves a square image [S, S] with a Gaussian of `deviation` pixels; 0 outside."""
    reach = ceil(3 * deviation)
    weight = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / deviation) ** 2)
    weight = (weight / weight.sum()).to(image)[None, None]
    for _ in range(2):
        image = conv1d(image[:, None], weight, padding=reach)[:, 0].T.contiguous()
    return image


def ground_darkness(shadow: Tensor, bounds: Bounds, view: View, size: tuple[int, int], rows: slice) -> Tensor:
    """Projects `shadow` [SIDE, SIDE] of `ground_shadow` to pixels [rows, W]; 0 off the ground plane. size: (H, W)."""
    height, width = size
    x = ((torch.arange(width, device=shadow.device) * 2 + 1) / width - 1) / view.scale[0]
    y = (1 - (torch.arange(height, device=shadow.device)[rows] * 2 + 1) / height) / view.scale[1]
    plane = [x[None] * view.right[a] + y[:, None] * view.up[a] for a in range(3)]
    if view.orthographic:
        start = [view.position[a] + plane[a] for a in range(3)]
        step = [torch.full_like(plane[a], -view.back[a]) for a in range(3)]
    else:
        start = [torch.full_like(plane[a], view.position[a]) for a in range(3)]
        step = [plane[a] - view.back[a] for a in range(3)]
    fall = start[2] - (bounds.center[2] - bounds.half_height)
    seen = (fall > 0) & (step[2] < -1e-4)
    distance = fall / torch.where(seen, -step[2], 1.0)
    reach = bounds.cylinder_radius * REACH
    u, v = ((start[a] + step[a] * distance - bounds.center[a]) / reach for a in range(2))
    where = torch.stack((u, -v), dim=-1).clamp(-2, 2)
    return torch.where(seen, grid_sample(shadow[None, None], where[None], align_corners=False)[0, 0], 0.0)
