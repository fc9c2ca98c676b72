"""Outer shell of a mesh as closed printable solids: flood fill of an offset field, closing of gaps, contouring."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...core.progress import Progress, in_background, scaled
from ...ops.closest_point import MeshIndex, build_index
from ...ops.flood_fill import SIDE
from ...values import Mesh
from ..connectivity.topology import ValidMesh, check_mesh
from .contour import contour
from .narrow_band import sample_narrow_band
from .remesh import CORNER, SECONDS, check_part, check_resolution, empty_like, fit_grid
from .shrinkwrap import ProjectOptions, shrinkwrap
from .sparse_sdf import BLOCKS_A_CHUNK, SparseSDF, fill_unreached, flood_outside, reached_points

# Offset of the shell before projection, in voxels. The flood moves between adjacent points; where the surface crosses
# such a step, one end is within half a voxel of it, so any larger offset is watertight.
WALL = 0.55
# Solid depth, in voxels behind the surface, required to project a vertex.
DEPTH = 1.5
WIDEST = 32.0


@torch.no_grad()
def outer_shell(
    mesh: Mesh,
    resolution: int,
    *,
    close_gaps: float = 0.0,
    project: float = 1.0,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Mesh:
    """Remeshes the boundary of the region unreachable from outside: one closed outward 2-manifold shell per solid.

    Interior geometry (inner shells, cavities, faces between solids) is removed; separate parts stay separate.

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces, in any state.
    resolution: voxels along the longest side of the mesh's bounding box, 8 to 1024. The grid is fitted to the mesh.
    close_gaps: 0 to 32 voxels; gaps and holes narrower than this are closed, wherever they lead, and filled level with
    their rims; concave corners are rounded by half of it. No effect up to 1.1: the grid closes such gaps anyway.
    project: fraction of the distance back to the surface that vertices move, 0 to 1. At 0 the solid is larger than the
    surface by 0.55 voxels on all sides.
    backend: "triton" (GPU), "numba" (CPU), "reference" (plain torch) or "auto".
    progress: called with the fraction done, 0 to 1; may raise, to cancel.

    Sheets, and walls thinner than about a voxel, become about 1.1 voxels thick, whatever `project` is. A surface with a
    hole wider than `close_gaps` is flooded inside and becomes a wall of that thickness. Every edge has two faces, every
    vertex one fan; the signed volume is positive. Projection flips no face; solids that nearly touch may intersect by
    less than a voxel. With `project` 1 edges are reproduced sharp, except features finer than a voxel; at acute concave
    angles some vertices stay about half a voxel off, and with `close_gaps` of 3 or more such corners are evenly
    rounded. Faces without area may be lost. Deterministic per backend. An empty mesh gives an empty one.

    Raises ValueError for arguments out of range, non-finite positions, face indices out of range, or a mesh without
    extent.
    """
    check_resolution(resolution)
    if not 0 <= close_gaps <= WIDEST:
        raise ValueError(f"close_gaps: expected 0 to {WIDEST:.0f} voxels, got {close_gaps}")
    check_part(project)
    if len(check_mesh(mesh).faces) == 0:
        return empty_like(mesh)
    sizes = resolution, close_gaps, project
    return in_background(lambda report: _outer_shell(mesh, sizes, backend, report), progress, SECONDS)


def _outer_shell(mesh: Mesh, sizes: tuple[int, float, float], backend: str, report: Progress) -> Mesh:
    """`outer_shell` of a checked mesh. sizes: resolution, close_gaps, project."""
    resolution, close_gaps, project = sizes
    level = max(WALL, close_gaps / 2)
    # Erosion samples a two-sided distance: its outer level set, never contoured, needs room in the grid too.
    grid = fit_grid(mesh, resolution, 2 * level - WALL)
    target = ValidMesh(grid.to_grid(mesh.vertices), mesh.faces)
    index = build_index(target)
    report(0.1)
    shape = tuple(n // SIDE for n in grid.shape)
    field, reached = flooded_solid(index, shape, level, backend, scaled(report, 0.1, 0.3))
    shell = contour(field)
    if level > WALL:
        del field
        offset_shell = shrinkwrap(shell, target, index, ProjectOptions(level, 0.0, level + CORNER), backend=backend)
        field = _erode(offset_shell, reached, level - WALL, backend, scaled(report, 0.4, 0.2))
        shell = contour(field)
    del reached
    report(0.7)

    def thin(here: Tensor, nearest: Tensor) -> Tensor:
        """Mask [N] bool: is the wall behind `nearest` [N, 3], seen from `here` [N, 3], thinner than DEPTH?"""
        direction = torch.nn.functional.normalize(nearest - here, dim=1)
        return ~field.inside_near(nearest + direction * DEPTH)

    projection = ProjectOptions(WALL, project, level + CORNER, level > WALL, thin)
    made = shrinkwrap(shell, target, index, projection, backend=backend, report=scaled(report, 0.7, 0.3))
    report(1.0)
    return ValidMesh(grid.to_world(made.vertices), made.faces.to(mesh.faces.dtype))


def flooded_solid(
    index: MeshIndex, shape: tuple[int, int, int], level: float, backend: str, report: Progress
) -> tuple[SparseSDF, Tensor]:
    """(field, flood bits [X, Y, Z] int64): inside are the points within `level` of the mesh or not flooded."""
    field = sample_narrow_band(index, shape, level, backend=backend, report=report)
    reached = flood_outside(field, backend)
    return fill_unreached(field, reached), reached


def _erode(shell: Mesh, reached: Tensor, depth: float, backend: str, report: Progress) -> SparseSDF:
    """Erodes the solid inside `shell` by `depth`; reached: flood bits [X, Y, Z] int64 of its outside.

    Completes the morphological closing: gaps spanned by the offset shell stay closed, the rest is restored.
    """
    # Fully flooded blocks need no distances, unless a neighbour is not fully flooded.
    partly = (reached != -1).to(torch.float32)[None, None]
    wanted = torch.nn.functional.max_pool3d(partly, 3, 1, 1)[0, 0] > 0
    del partly
    shape = tuple(reached.shape)
    field = sample_narrow_band(build_index(shell), shape, depth, wanted=wanted, backend=backend, report=report)
    values = field.values.clone()
    for start in range(0, len(field.coords), BLOCKS_A_CHUNK):
        rows = slice(start, min(start + BLOCKS_A_CHUNK, len(field.coords)))
        # Outside points stay outside; the new surface lies `depth` below the shell.
        out = reached_points(field, reached, rows)
        values[rows] = torch.where(out, values[rows] + 2 * depth, -values[rows])
    interior = (field.table == field.outside) & (reached == 0)
    table = torch.where(field.table > field.outside, field.outside, field.table)
    return replace(field, table=torch.where(interior, field.outside + 1, table), values=values)
