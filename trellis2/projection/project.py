"""Where points project to in a picture, and the features that they find there.

The features of a picture are known at its patches; a point takes them by bilinear interpolation, beyond the picture's
edges those at the edge. Nothing is hidden: all points along a ray find the same features. Only points that are asked
for are computed; Pixal3D's own code samples all R^3 of a grid. Letters: N points, S pixels a side, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...o_voxel.core.checks import check_tensor
from .camera import focal_pixels

# Keeps a point in the camera's plane from dividing by zero.
PLANE = 1e-8


@dataclass(frozen=True, eq=False)
class Corners:
    """The four pixels of a map around each of N positions. pixels: [N, 4] int64, row times width + column.  weights:
    [N, 4] fp32, which add up to 1."""

    pixels: Tensor
    weights: Tensor


def project(points: Tensor, to_world: Tensor, fov: Tensor, size: int) -> Tensor:
    """Returns pixel coordinates [N, 2] fp32 (x to the right, y down; pixel centres are whole numbers) of points.

    points: [N, 3] fp32, z up.  to_world: [4, 4] fp32, the camera, see `camera`.  fov: [] fp32 radians, horizontal.
    size: S. Points outside of the picture or behind the camera are projected like the others.
    """
    check_tensor(points, "points", (None, 3), torch.float32)
    inverse = torch.linalg.inv(to_world.float())
    # By hand: a matrix product may round to TF32 on a GPU, which moves a point by half a pixel.
    x, y, z = ((points * row[:3]).sum(dim=1) + row[3] for row in inverse[:3])
    depth = PLANE - z
    focal = focal_pixels(fov, size)
    return torch.stack([focal * x / depth + size / 2, size / 2 - focal * y / depth], dim=1)


def corners(pixels: Tensor, size: int, side: int) -> Corners:
    """Returns the pixels of a map of `side` pixels a side that surround positions in a picture of `size` a side.

    pixels: [N, 2] fp32, from `project`.  Positions are relative to the whole picture, so that maps of any size agree.
    """
    place = ((pixels + 0.5) / size * side - 0.5).nan_to_num(0.0).clamp(0, side - 1)
    low = place.floor()
    part = place - low
    column, row = low.long().unbind(1)
    right, below = (column + 1).clamp(max=side - 1), (row + 1).clamp(max=side - 1)
    found = torch.stack([row * side + column, row * side + right, below * side + column, below * side + right], dim=1)
    x, y = part.unbind(1)
    weights = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], dim=1)
    return Corners(found, weights)


def sampled(values: Tensor, at: Corners) -> Tensor:
    """Returns a map's values [S S, C] interpolated at N positions, [N, C]."""
    total = values[at.pixels[:, 0]] * at.weights[:, :1]
    for corner in range(1, 4):
        total.addcmul_(values[at.pixels[:, corner]], at.weights[:, corner, None])
    return total
