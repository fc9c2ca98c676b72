"""Pixal3D's frame, y up with the front at +z as its camera sees it, turned to the z-up frame of everything else.

A grid's voxel (x, y, z) of R a side becomes (x, R - 1 - z, y), a point (x, y, z) becomes (x, -z, y). Nowhere else are
axes exchanged: cameras look at points that are z up already.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...o_voxel.core.grid import to_z_up
from ...o_voxel.values import Mesh, VoxelField


def voxels_to_z_up(voxels: Tensor, resolution: int | Tensor) -> Tensor:
    """Returns voxels [N, 3], integers (x, y, z) of a y-up grid, in the z-up one. resolution: R, or [N] of each."""
    x, y, z = voxels.unbind(1)
    return torch.stack([x, resolution - 1 - z, y], dim=1).to(voxels.dtype)


def grid_points(voxels: Tensor, resolution: int | Tensor, scale: float = 1.0) -> Tensor:
    """Returns where the voxels [N, 3] of a y-up grid are sampled, [N, 3] float32 (x, y, z), z up, in the unit cube
    divided by `scale`.

    The outermost voxels lie on the cube's faces, index / (R - 1) and not at the voxels' centres: as Pixal3D's were in
    training.
    """
    sides = torch.as_tensor(resolution, dtype=torch.float32, device=voxels.device)
    steps = voxels.float() / (sides - 1)[..., None] * 2 - 1
    return to_z_up(steps) / (2 * scale)


def mesh_to_z_up(mesh: Mesh) -> Mesh:
    """Returns a mesh of the y-up frame, vertices [V, 3], in the z-up one; its faces keep their order and side."""
    return replace(mesh, vertices=to_z_up(mesh.vertices).contiguous())


def field_to_z_up(field: VoxelField) -> VoxelField:
    """Returns the field of a y-up cube of voxels, coords [N, 3], in the z-up one; rows keep their order."""
    return replace(field, coords=voxels_to_z_up(field.coords, field.grid.shape[0]).contiguous())
