"""The look-ups in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..hash_grid import HashGrid

# The voxels around a crossed edge, by the edge's axis, in the quad's order, relative to the voxel that owns the edge.
QUAD_OFFSETS = (
    ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
)


def find_corners(coords: Tensor, index: HashGrid, edges: Tensor) -> Tensor:
    """Rows [E, 4] int32 of the voxels around each edge (voxel * 3 + axis), -1 where absent."""
    offsets = torch.tensor(QUAD_OFFSETS, dtype=torch.int32, device=coords.device)
    voxel, axis = edges // 3, edges % 3
    return index.find(coords[voxel][:, None] + offsets[axis]).to(torch.int32)
