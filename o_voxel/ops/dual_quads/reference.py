"""Quad look-up in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..hash_grid import HashGrid

# Offsets of the four voxels around an intersected edge from the voxel that owns it, by edge axis, in quad order.
QUAD_OFFSETS = (
    ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
)


def find_corners(coords: Tensor, index: HashGrid, edges: Tensor) -> Tensor:
    """Returns the rows [E, 4] int32 of the voxels around each edge, -1 where absent.

    coords: [N, 3] int32.  edges: [E] int64, voxel * 3 + axis.
    """
    offsets = torch.tensor(QUAD_OFFSETS, dtype=torch.int32, device=coords.device)
    voxel, axis = edges // 3, edges % 3
    return index.find(coords[voxel][:, None] + offsets[axis]).to(torch.int32)
