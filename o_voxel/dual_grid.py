"""Flexible dual grid to triangle mesh.

A grid edge that the surface crosses is shared by four voxels; their dual vertices are the corners of one quad
(facts: TRELLIS.2's O-Voxel). Each quad is split into two triangles along the diagonal with the larger weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ops.hash_grid import HashGrid, hash_grid
from .values import DualGrid, Mesh

# The voxels around a crossed edge, by the edge's axis, in the quad's order, relative to the voxel that owns the edge.
QUAD_OFFSETS = (
    ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
)
SPLIT_02 = (0, 1, 2, 0, 2, 3)
SPLIT_13 = (0, 1, 3, 3, 1, 2)


def dual_vertices(dual_grid: DualGrid) -> Tensor:
    """World positions [N, 3] float32 of the dual vertices, one a voxel, in the order of the voxels."""
    return dual_grid.grid.to_world(dual_grid.coords + dual_grid.dual)


def dual_grid_to_mesh(dual_grid: DualGrid) -> Mesh:
    """The surface of a dual grid, exactly as the reference orders it.

    Vertex i is voxel i's dual vertex, also where no face uses it. Quads follow (voxel, axis) in row-major order and
    need all four voxels; each gives two triangles. Faces are int32. Winding is NOT consistent: every quad faces the
    negative direction of its axis, whichever side is outside. Without split weights the 0-2 diagonal is taken, which
    is what the reference does whatever its two normals say. Deterministic.
    """
    return Mesh(dual_vertices(dual_grid), triangulate(quads(dual_grid), dual_grid.split_weight))


def quads(dual_grid: DualGrid, index: HashGrid | None = None) -> Tensor:
    """Vertex rows [Q, 4] int64 of the surface's quads. `index`: the hash grid of its coordinates, if at hand."""
    coords = dual_grid.coords
    index = hash_grid(coords) if index is None else index
    voxel, axis = dual_grid.intersected.nonzero(as_tuple=True)
    offsets = torch.tensor(QUAD_OFFSETS, dtype=torch.int32, device=coords.device)
    corners = index.find(coords[voxel][:, None] + offsets[axis])
    return corners[(corners >= 0).all(1)]


def triangulate(quad: Tensor, split_weight: Tensor | None) -> Tensor:
    """Two triangles a quad: [Q, 4] vertex rows to [2 Q, 3] int32, split by the product of the ends' weights [V]."""
    first = quad[:, SPLIT_02]
    if split_weight is None:
        return first.reshape(-1, 3).to(torch.int32)
    w0, w1, w2, w3 = split_weight[quad].unbind(1)
    use_first = (w0 * w2 > w1 * w3)[:, None]
    return torch.where(use_first, first, quad[:, SPLIT_13]).reshape(-1, 3).to(torch.int32)
