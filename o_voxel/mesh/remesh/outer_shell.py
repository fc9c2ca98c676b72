"""What is seen of a surface from outside, as one closed solid that can be printed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...core.progress import Progress, scaled, silent
from ...ops.closest_point import MeshIndex, build_index
from ...ops.flood_fill import SIDE
from ...values import Mesh
from ..connectivity.topology import ValidMesh, check_mesh
from .contour import contour
from .narrow_band import sample_narrow_band
from .remesh import CORNER, check_part, check_resolution, empty_like, fit_grid
from .shrinkwrap import ProjectOptions, shrinkwrap
from .sparse_sdf import BLOCKS_A_CHUNK, SparseSDF, fill_unreached, flood_outside, reached_points

# Voxels that the shell stands off from the surface before it is moved back. A flood goes from point to point, and where
# the surface crosses its way one of the two is within half a voxel: more than that keeps it out.
WALL = 0.55
# How far beyond the surface, in voxels, it has to be solid for a vertex to be moved back.
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
    """The boundary of all that a flood from outside does not reach: one closed 2-manifold shell a solid, face outside.

    What is inside (a second shell, cavities, faces between solids) is gone; parts that do not touch stay apart.

    resolution: voxels along the longest side of the mesh's box, 8 to 1024. The grid is laid around the mesh.
    close_gaps: voxels, 0 to 32; the flood does not enter gaps and holes narrower than that, wherever they lead, and
    they are filled level with their rims, and concave corners rounded by half of that. Up to 1.1 it makes no
    difference: what the grid cannot resolve closes anyway.
    project: the part of the way back on the surface that vertices go, 0 to 1. At 0 the solid is larger than the
    surface by 0.55 voxels all around.
    backend: "triton" (GPU), "numba" (CPU), "reference" (plain torch) or "auto".
    progress: called with the part done, 0 to 1; may raise, to cancel.

    A sheet, or a wall thinner than about a voxel, is no solid: it becomes one about 1.1 voxels thick, whatever
    `project` is. A surface with a hole wider than the gaps closed is flooded inside, so that a wall of that thickness
    is left of it. Every edge has two faces and every vertex one fan; the signed volume is positive. Moving back turns
    no face over; solids that nearly touch may come to cut each other by less than a voxel. With `project` 1 edges come
    back sharp, but for what is finer than a voxel; where walls meet in an acute concave angle some vertices stay about
    half a voxel off, and with `close_gaps` of 3 or more such corners are round and even. Faces without an area may be
    lost. The same bytes each time, on one backend. An empty mesh gives an empty one.

    Raises ValueError for arguments out of range, positions not finite, faces of vertices that are not there, or a mesh
    that is a single point.
    """
    check_resolution(resolution)
    if not 0 <= close_gaps <= WIDEST:
        raise ValueError(f"close_gaps: expected 0 to {WIDEST:.0f} voxels, got {close_gaps}")
    check_part(project)
    if len(check_mesh(mesh).faces) == 0:
        return empty_like(mesh)
    report = progress or silent
    level = max(WALL, close_gaps / 2)
    # Worn down by the second pass, the solid has another level as far outside of its surface, which nothing is made of.
    grid = fit_grid(mesh, resolution, 2 * level - WALL)
    target = ValidMesh(grid.to_grid(mesh.vertices), mesh.faces)
    index = build_index(target)
    report(0.1)
    shape = tuple(n // SIDE for n in grid.shape)
    field, reached = _solid(index, shape, level, backend, scaled(report, 0.1, 0.3))
    shell = contour(field)
    if level > WALL:
        del field
        far = shrinkwrap(shell, target, index, ProjectOptions(level, 0.0, level + CORNER), backend=backend)
        field = _worn(far, reached, level - WALL, backend, scaled(report, 0.4, 0.2))
        shell = contour(field)
    del reached
    report(0.7)

    def thin(here: Tensor, nearest: Tensor) -> Tensor:
        """Whether it is not solid beyond the surface."""
        way = torch.nn.functional.normalize(nearest - here, dim=1)
        return ~field.inside_near(nearest + way * DEPTH)

    projection = ProjectOptions(WALL, project, level + CORNER, level > WALL, thin)
    made = shrinkwrap(shell, target, index, projection, backend=backend, report=scaled(report, 0.7, 0.3))
    report(1.0)
    return ValidMesh(grid.to_world(made.vertices), made.faces.to(mesh.faces.dtype))


def _solid(
    index: MeshIndex, shape: tuple[int, int, int], level: float, backend: str, report: Progress
) -> tuple[SparseSDF, Tensor]:
    """(field, bits that the flood reached): inside is what is within `level` of the mesh, or not reached."""
    field = sample_narrow_band(index, shape, level, backend=backend, report=report)
    reached = flood_outside(field, backend)
    return fill_unreached(field, reached), reached


def _worn(shell: Mesh, reached: Tensor, depth: float, backend: str, report: Progress) -> SparseSDF:
    """The solid within `shell`, as flooded around, worn down evenly by `depth`.

    With the shell that far out, a gap that it spans stays closed, and all else is as if it had not been.
    """
    # What the flood has all of is outside, and so are the places next to it, as long as all around is too.
    partly = (reached != -1).to(torch.float32)[None, None]
    wanted = torch.nn.functional.max_pool3d(partly, 3, 1, 1)[0, 0] > 0
    del partly
    shape = tuple(reached.shape)
    field = sample_narrow_band(build_index(shell), shape, depth, wanted=wanted, backend=backend, report=report)
    values = field.values.clone()
    for start in range(0, len(field.coords), BLOCKS_A_CHUNK):
        rows = slice(start, min(start + BLOCKS_A_CHUNK, len(field.coords)))
        # What is outside stays so, and goes on as far as `depth` below the shell.
        out = reached_points(field, reached, rows)
        values[rows] = torch.where(out, values[rows] + 2 * depth, -values[rows])
    deep = (field.table == field.outside) & (reached == 0)
    table = torch.where(field.table > field.outside, field.outside, field.table)
    return replace(field, table=torch.where(deep, field.outside + 1, table), values=values)
