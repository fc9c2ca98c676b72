"""Batches: what a task's forward pass receives, and how voxels are packed into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....o_voxel.core.grid import Grid
from ....o_voxel.values import DualGrid, OVoxel, VoxelField
from ...capabilities import LATENT_STRIDE

# One sample (a Sample or a LatentSample) and the seed of its augmentation: view, noise and time.
Item = tuple[Any, int]
# By name: tensors, and tuples of Python numbers that stay on the host.
Batch = dict[str, Any]


def occupancy(grids: Sequence[DualGrid], side: int) -> Tensor:
    """Dense occupancy [B, 1, S, S, S] fp32 on a grid of S = `side` cells a side: 1 where a cell holds a voxel."""
    out = torch.zeros(len(grids), 1, side, side, side)
    for volume, grid in zip(out, grids, strict=True):
        x, y, z = (grid.coords.long() * side // grid.grid.shape[0]).unbind(1)
        volume[0, x, y, z] = 1
    return out


def block_of(voxels: OVoxel, side: int, generator: torch.Generator) -> OVoxel:
    """The voxels of a random cube of `side` voxels a side, around one of them and on borders of 16 voxels, the stride
    of a latent."""
    grid, field = voxels.dual_grid, voxels.field
    middle = grid.coords[int(torch.randint(len(grid.coords), (1,), generator=generator))]
    first = ((middle - side // 2).clamp(0, max(0, grid.grid.shape[0] - side)) + LATENT_STRIDE // 2) // LATENT_STRIDE
    first = first * LATENT_STRIDE
    inside = ((grid.coords >= first) & (grid.coords < first + side)).all(1)
    coords = grid.coords[inside]
    return OVoxel(
        DualGrid(coords, grid.dual[inside], grid.intersected[inside], grid.grid),
        VoxelField(coords, field.attrs[inside], field.grid),
    )


def pack_voxels(objects: Sequence[OVoxel]) -> Batch:
    """Concatenate objects with materials, on cube grids of one resolution; few tensors are cheap to send to a process.

    With N voxels of all B objects: coords [N, 3] int32, dual [N, 3] fp32 in [0, 1], intersected [N, 3] bool,
    materials [N, 6] fp32 in [0, 1]; lengths: B ints; resolution: voxels a side.
    """
    return {
        "coords": torch.cat([voxels.dual_grid.coords for voxels in objects]),
        "dual": torch.cat([voxels.dual_grid.dual for voxels in objects]),
        "intersected": torch.cat([voxels.dual_grid.intersected for voxels in objects]),
        "materials": torch.cat([voxels.field.attrs.float() for voxels in objects]),
        "lengths": tuple(len(voxels.dual_grid.coords) for voxels in objects),
        "resolution": objects[0].dual_grid.grid.shape[0],
    }


def unpack_voxels(batch: Batch) -> list[OVoxel]:
    """The B objects of a batch by `pack_voxels`, as views of its tensors."""
    grid = Grid.cube(batch["resolution"])
    packed = (batch[key].split(batch["lengths"]) for key in ("coords", "dual", "intersected", "materials"))
    return [
        OVoxel(DualGrid(coords, dual, crossed, grid), VoxelField(coords, materials, grid))
        for coords, dual, crossed, materials in zip(*packed, strict=True)
    ]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`; copies from pinned memory are asynchronous."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in batch.items()
    }
