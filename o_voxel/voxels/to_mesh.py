"""Flexible dual grid to triangle mesh.

A grid edge that the surface crosses is shared by four voxels; their dual vertices are the corners of one quad
(facts: TRELLIS.2's O-Voxel). Each quad is split into two triangles along the diagonal with the larger weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.dual_quads import dual_quads
from ..values import DualGrid, Mesh

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
    if tile_size is None:
        return Mesh(dual_vertices(dual_grid), triangulate(quads(dual_grid), dual_grid.split_weight))
    return Mesh(dual_vertices(dual_grid), _tiled_faces(dual_grid, tile_size))


def quads(dual_grid: DualGrid) -> Tensor:
    """Vertex rows [Q, 4] int32 of the surface's quads, by (voxel, axis) in row-major order."""
    return dual_quads(dual_grid.coords, dual_grid.intersected)[0]


def _tiled_faces(dual_grid: DualGrid, tile_size: int) -> Tensor:
    """The faces [2 Q, 3] int32, slab by slab, each written where the whole would have put it."""
    if tile_size < 1:
        raise ValueError(f"tile_size: expected at least 1 voxel, got {tile_size}")
    coords, crossed = dual_grid.coords, dual_grid.intersected
    if len(coords) == 0:
        return torch.zeros(0, 3, dtype=torch.int32, device=coords.device)
    # Crossed edges up to and including each voxel's. An edge's rank among them is the place of its two faces, as long
    # as no quad is incomplete.
    x, y, z = crossed.to(torch.int8).unbind(1)
    ends = (x + y + z).cumsum(0, dtype=torch.int32)
    low, high, edges = torch.cat([coords.amin(0), coords.amax(0), ends[-1:]]).split((3, 3, 1))
    low, high, edges = low.tolist(), high.tolist(), int(edges)
    across = max(range(3), key=lambda a: high[a] - low[a])
    layer = coords[:, across]
    faces = torch.empty(edges, 6, dtype=torch.int32, device=coords.device)
    whole = torch.zeros(edges, dtype=torch.bool, device=coords.device)
    for start in range(low[across], high[across] + 1, tile_size):
        # A quad's voxels lie at its owner or one further along each axis: one more layer completes the slab.
        rows = ((layer >= start) & (layer <= start + tile_size)).nonzero().squeeze(1)
        flags = crossed[rows]
        quad, edge = dual_quads(coords[rows], flags & (layer[rows] < start + tile_size)[:, None])
        last, (_, y, z) = ends[rows] - 1, flags.to(torch.int32).unbind(1)
        target = torch.stack([last - z - y, last - z, last], dim=1).reshape(-1)[edge]
        faces[target] = triangulate(rows.to(torch.int32)[quad], dual_grid.split_weight).view(-1, 6)
        whole[target] = True
    return _kept(faces, whole).view(-1, 3)


def _kept(rows: Tensor, keep: Tensor) -> Tensor:
    """rows[keep] [N, C], moved together in place, a part at a time, so that no second copy exists."""
    end = 0
    for part, wanted in zip(rows.split(2**18), keep.split(2**18), strict=True):
        left = part[wanted]
        rows[end : end + len(left)] = left
        end += len(left)
    return rows[:end]


def triangulate(quad: Tensor, split_weight: Tensor | None) -> Tensor:
    """Two triangles a quad: [Q, 4] vertex rows to [2 Q, 3] int32, split by the product of the ends' weights [V]."""
    first = quad[:, SPLIT_02]
    if split_weight is None:
        return first.reshape(-1, 3).to(torch.int32)
    w0, w1, w2, w3 = split_weight[quad].unbind(1)
    use_first = (w0 * w2 > w1 * w3)[:, None]
    return torch.where(use_first, first, quad[:, SPLIT_13]).reshape(-1, 3).to(torch.int32)
