"""Voxel grid geometry: resolution, bounds, grid and world frames, and conversion between z-up and y-up.

Voxel (i, j, k) covers [i, i+1) x [j, j+1) x [k, k+1) in grid units; its centre is at +0.5.
world = origin + grid * voxel_size. World space is z-up; glTF and many programs are y-up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Vector3 = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """An axis-aligned voxel grid.

    shape: voxel counts along x, y, z.  origin: world position of the corner of voxel (0, 0, 0).
    voxel_size: world units along x, y, z.
    """

    shape: tuple[int, int, int]
    origin: Vector3
    voxel_size: Vector3

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or min(self.voxel_size) <= 0:
            raise ValueError(f"Grid: expected a positive shape and voxel size, got {self.shape} and {self.voxel_size}")

    @classmethod
    def cube(cls, resolution: int) -> Grid:
        """Returns the grid of the models: `resolution` voxels per side over [-0.5, 0.5]^3."""
        return cls((resolution,) * 3, (-0.5,) * 3, (1.0 / resolution,) * 3)

    @classmethod
    def fit(cls, low: Vector3, high: Vector3, shape: tuple[int, int, int]) -> Grid:
        """Returns the grid of `shape` voxels over the world box from `low` to `high`."""
        (nx, ny, nz), (x, y, z) = shape, low
        a, b, c = ((far - near) / n for near, far, n in zip(low, high, shape, strict=True))
        return cls((nx, ny, nz), (x, y, z), (a, b, c))

    @property
    def high(self) -> Vector3:
        """World position of the high corner."""
        x, y, z = (o + n * s for o, n, s in zip(self.origin, self.shape, self.voxel_size, strict=True))
        return x, y, z

    def to_world(self, points: Tensor) -> Tensor:
        """Converts points [..., 3] float from grid to world units."""
        return points * points.new_tensor(self.voxel_size) + points.new_tensor(self.origin)

    def to_grid(self, points: Tensor) -> Tensor:
        """Converts points [..., 3] float from world to grid units."""
        return (points - points.new_tensor(self.origin)) / points.new_tensor(self.voxel_size)

    def centers(self, coords: Tensor) -> Tensor:
        """Returns the voxel centres [N, 3] float32, world units, of `coords` [N, 3] int."""
        return self.to_world(coords.to(torch.float32) + 0.5)


def to_y_up(vectors: Tensor) -> Tensor:
    """Rotates vectors [N, 3], any dtype, from the z-up frame to glTF's y-up frame: (x, y, z) to (x, z, -y)."""
    x, y, z = vectors.unbind(1)
    return torch.stack([x, z, -y], dim=1)


def to_z_up(vectors: Tensor) -> Tensor:
    """Rotates vectors [N, 3], any dtype, from glTF's y-up frame to the z-up frame: (x, y, z) to (x, -z, y)."""
    x, y, z = vectors.unbind(1)
    return torch.stack([x, -z, y], dim=1)
