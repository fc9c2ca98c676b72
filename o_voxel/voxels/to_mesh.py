"""Dual contouring of a flexible dual grid to a triangle mesh.

The dual vertices of the four voxels around a crossed grid edge form one quad (facts: TRELLIS.2's O-Voxel), which is
split into two triangles along the diagonal of larger weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.progress import Progress, in_background
from ..ops.dual_quads import dual_quads
from ..values import DualGrid, Mesh

SPLIT_02 = (0, 1, 2, 0, 2, 3)
SPLIT_13 = (0, 1, 3, 3, 1, 2)
# For the estimate of the time, on two CPU cores.
VOXELS_A_SECOND = 1_000_000


def dual_vertices(dual_grid: DualGrid) -> Tensor:
    """Returns dual vertex positions [N, 3] float32, world units, in voxel order."""
    return dual_grid.grid.to_world(dual_grid.coords + dual_grid.dual)


def dual_grid_to_mesh(dual_grid: DualGrid, tile_size: int | None = None, *, progress: Progress | None = None) -> Mesh:
    """Extracts the surface of a dual grid of N voxels, in the order of the original.

    Returns vertices [N, 3] float32 in world units, vertex i being voxel i's dual vertex even if no face uses it, and
    faces [2 Q, 3] int32: two triangles per quad, quads by (voxel, axis) in row-major order. Edges without all four
    voxels give no quad. Winding is NOT consistent: every quad faces the negative direction of its axis. Without split
    weights the 0-2 diagonal is used, as in the original except for zero-area quads. Deterministic.

    tile_size: process slabs of this many voxels along the longest axis, to hold temporaries for one slab at a time.
    The result is bit-identical for every tile size.  progress: called with the fraction done, 0 to 1; may raise, to
    cancel. Raises ValueError below 1.
    """
    seconds = 1 + len(dual_grid.coords) / VOXELS_A_SECOND
    return in_background(lambda report: _surface(dual_grid, tile_size, report), progress, seconds)


def _surface(dual_grid: DualGrid, tile_size: int | None, report: Progress) -> Mesh:
    """`dual_grid_to_mesh`."""
    vertices = dual_vertices(dual_grid)
    if tile_size is not None:
        return Mesh(vertices, _tiled_faces(dual_grid, tile_size, report))
    quad = quads(dual_grid)
    report(0.8)
    return Mesh(vertices, triangulate(quad, dual_grid.split_weight))


def quads(dual_grid: DualGrid) -> Tensor:
    """Returns the quads [Q, 4] int32, rows of the voxels, by (voxel, axis) in row-major order."""
    return dual_quads(dual_grid.coords, dual_grid.intersected)[0]


def _tiled_faces(dual_grid: DualGrid, tile_size: int, report: Progress) -> Tensor:
    """Returns the faces [2 Q, 3] int32 of all slabs, in the order of the untiled result."""
    if tile_size < 1:
        raise ValueError(f"tile_size: expected at least 1 voxel, got {tile_size}")
    coords, crossed = dual_grid.coords, dual_grid.intersected
    if len(coords) == 0:
        return torch.zeros(0, 3, dtype=torch.int32, device=coords.device)
    # Inclusive prefix count of crossed edges. An edge's rank is the row of its two faces, before incomplete quads are
    # removed.
    x, y, z = crossed.to(torch.int8).unbind(1)
    ends = (x + y + z).cumsum(0, dtype=torch.int32)
    low, high, edges = torch.cat([coords.amin(0), coords.amax(0), ends[-1:]]).split((3, 3, 1))
    low, high, edges = low.tolist(), high.tolist(), int(edges)
    across = max(range(3), key=lambda a: high[a] - low[a])
    layer = coords[:, across]
    faces = torch.empty(edges, 6, dtype=torch.int32, device=coords.device)
    whole = torch.zeros(edges, dtype=torch.bool, device=coords.device)
    for start in range(low[across], high[across] + 1, tile_size):
        # Each voxel of a quad is at most one layer above its owner: the slab needs one more layer.
        rows = ((layer >= start) & (layer <= start + tile_size)).nonzero().squeeze(1)
        flags = crossed[rows]
        quad, edge = dual_quads(coords[rows], flags & (layer[rows] < start + tile_size)[:, None])
        last, (_, y, z) = ends[rows] - 1, flags.to(torch.int32).unbind(1)
        target = torch.stack([last - z - y, last - z, last], dim=1).reshape(-1)[edge]
        faces[target] = triangulate(rows.to(torch.int32)[quad], dual_grid.split_weight).view(-1, 6)
        whole[target] = True
        report((start - low[across] + 1) / (high[across] - low[across] + 1))
    return _kept(faces, whole).view(-1, 3)


def _kept(rows: Tensor, keep: Tensor) -> Tensor:
    """Returns rows[keep] of `rows` [N, C], `keep` [N] bool: compacts in place, in blocks, without a second copy."""
    end = 0
    for part, mask in zip(rows.split(2**18), keep.split(2**18), strict=True):
        kept = part[mask]
        rows[end : end + len(kept)] = kept
        end += len(kept)
    return rows[:end]


def triangulate(quad: Tensor, split_weight: Tensor | None) -> Tensor:
    """Splits quads [Q, 4] into faces [2 Q, 3] int32, by the product of `split_weight` [V] at each diagonal's ends."""
    first = quad[:, SPLIT_02]
    if split_weight is None:
        return first.reshape(-1, 3).to(torch.int32)
    w0, w1, w2, w3 = split_weight[quad].unbind(1)
    use_first = (w0 * w2 > w1 * w3)[:, None]
    return torch.where(use_first, first, quad[:, SPLIT_13]).reshape(-1, 3).to(torch.int32)
