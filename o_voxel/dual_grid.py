"""Flexible dual grid to triangle mesh.

A grid edge that the surface crosses is shared by four voxels; their dual vertices are the corners of one quad
(facts: TRELLIS.2's O-Voxel). Each quad is split into two triangles along the diagonal with the larger weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .ops.dual_quads import dual_quads
from .values import DualGrid, Mesh

SPLIT_02 = (0, 1, 2, 0, 2, 3)
SPLIT_13 = (0, 1, 3, 3, 1, 2)


def dual_vertices(dual_grid: DualGrid) -> Tensor:
    """World positions [N, 3] float32 of the dual vertices, one a voxel, in the order of the voxels."""
    return dual_grid.grid.to_world(dual_grid.coords + dual_grid.dual)


def dual_grid_to_mesh(dual_grid: DualGrid, tile_size: int | None = None) -> Mesh:
    """The surface of a dual grid, exactly as the reference orders it.

    Vertex i is voxel i's dual vertex, also where no face uses it. Quads follow (voxel, axis) in row-major order and
    need all four voxels; each gives two triangles. Faces are int32. Winding is NOT consistent: every quad faces the
    negative direction of its axis, whichever side is outside. Without split weights the 0-2 diagonal is taken, which
    is what the reference does, but for quads without area. Deterministic.

    tile_size: voxels; the grid is then cut into slabs that thick across its longest axis, and what is needed besides
    input and output is held for one slab at a time. The result is the same, bit for bit, for every tile size.
    """
    quad = quads(dual_grid) if tile_size is None else _tiled_quads(dual_grid, tile_size)
    return Mesh(dual_vertices(dual_grid), triangulate(quad, dual_grid.split_weight))


def dual_grid_to_centered_mesh(dual_grid: DualGrid) -> Mesh:
    """The surface with every quad split into four triangles at a centre of its own, for training.

    The centre blends the midpoints of the two diagonals by the products of their ends' split weights (equally without
    weights), so vertices are differentiable in both the dual vertices and the weights. Vertices: N, then Q centres;
    faces [4 Q, 3] int32.
    """
    vertices, quad = dual_vertices(dual_grid), quads(dual_grid)
    weights = dual_grid.split_weight
    w = torch.ones_like(vertices[:, 0])[quad] if weights is None else weights[quad]
    corner = vertices[quad]
    w02, w13 = (w[:, 0] * w[:, 2])[:, None], (w[:, 1] * w[:, 3])[:, None]
    center = (w02 * (corner[:, 0] + corner[:, 2]) + w13 * (corner[:, 1] + corner[:, 3])) / (2 * (w02 + w13))
    middle = len(vertices) + torch.arange(len(quad), device=quad.device)
    sides = [torch.stack([quad[:, k], quad[:, (k + 1) % 4], middle], dim=1) for k in range(4)]
    return Mesh(torch.cat([vertices, center]), torch.stack(sides, dim=1).reshape(-1, 3).to(torch.int32))


def quads(dual_grid: DualGrid) -> Tensor:
    """Vertex rows [Q, 4] int32 of the surface's quads, by (voxel, axis) in row-major order."""
    return dual_quads(dual_grid.coords, dual_grid.intersected)[0]


def _tiled_quads(dual_grid: DualGrid, tile_size: int) -> Tensor:
    """`quads` with the look-ups done slab by slab."""
    if tile_size < 1:
        raise ValueError(f"tile_size: expected at least 1 voxel, got {tile_size}")
    coords = dual_grid.coords
    if len(coords) == 0:
        return torch.zeros(0, 4, dtype=torch.int32, device=coords.device)
    low, high = torch.stack([coords.amin(0), coords.amax(0)]).tolist()
    across = max(range(3), key=lambda a: high[a] - low[a])
    place = coords[:, across].contiguous()
    parts, owners = [], []
    for start in range(low[across], high[across] + 1, tile_size):
        # A quad's voxels lie at its owner or one further along each axis: one more layer completes the slab.
        rows = ((place >= start) & (place <= start + tile_size)).nonzero().squeeze(1)
        owned = dual_grid.intersected[rows] & (place[rows] < start + tile_size)[:, None]
        quad, edge = dual_quads(coords[rows], owned)
        parts.append(rows[quad].to(torch.int32))
        owners.append(rows[edge // 3] * 3 + edge % 3)
    quad, owner = torch.cat(parts), torch.cat(owners)
    if bool((owner.diff() > 0).all()):  # lexicographic voxels come out of x slabs in order
        return quad
    return quad.index_select(0, owner.argsort())


def triangulate(quad: Tensor, split_weight: Tensor | None) -> Tensor:
    """Two triangles a quad: [Q, 4] vertex rows to [2 Q, 3] int32, split by the product of the ends' weights [V]."""
    first = quad[:, SPLIT_02]
    if split_weight is None:
        return first.reshape(-1, 3).to(torch.int32)
    w0, w1, w2, w3 = split_weight[quad].unbind(1)
    use_first = (w0 * w2 > w1 * w3)[:, None]
    return torch.where(use_first, first, quad[:, SPLIT_13]).reshape(-1, 3).to(torch.int32)
