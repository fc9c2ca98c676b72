"""A new mesh around a surface, at an even resolution, whatever the old one's state."""

from __future__ import annotations

import math

import torch

from ...core.grid import Grid
from ...core.progress import Progress, scaled, silent
from ...ops.closest_point import build_index
from ...ops.flood_fill import SIDE
from ...values import Mesh
from ..connectivity.topology import ValidMesh, check_mesh
from .contour import contour
from .narrow_band import sample_narrow_band
from .shrinkwrap import ProjectOptions, shrinkwrap

LEAST, MOST = 8, 1024
# How far beyond its level, in voxels, a contour's vertex may be: in a concave corner it is the mean of crossings that
# are most of a voxel away, and more so the sharper the corner.
CORNER = 1.2


@torch.no_grad()
def remesh(
    mesh: Mesh,
    resolution: int,
    *,
    band: float = 1.0,
    project: float = 0.9,
    backend: str = "auto",
    progress: Progress | None = None,
) -> Mesh:
    """The surface that stands off from `mesh` by `band` on all sides, moved back on it: even, closed, 2-manifold.

    resolution: voxels along the longest side of the mesh's box, 8 to 1024. The grid is laid around the mesh.
    band: voxels, 0.55 to 8. Gaps narrower than twice that close.
    project: the part of the way back that vertices go, 0 to 1. A little less than 1 keeps the two sides of a sheet
    apart.
    backend: for distances, "triton", "numba", "reference" or "auto" (see ops.closest_point).
    progress: called with the part done, 0 to 1; may raise, to cancel.

    The mesh may be open, non-manifold, self-intersecting, wound at random; degenerate faces are points or lines of it.
    An unsigned distance has two sides everywhere: a closed surface gets a shell outside and another one inside
    (`shell.outer_shell` gives one). Every edge has two faces and every vertex one fan; faces look away from the mesh.
    Vertices that go back by less, so that no face turns over, may stay up to `band` away, mostly in acute corners. With
    `project` 1 edges and corners of the mesh come back sharp, but for what is finer than a voxel. The same bytes each
    time, on one backend. An empty mesh gives an empty one.

    Raises ValueError for arguments out of range, positions not finite, faces of vertices that are not there, or a mesh
    that is a single point.
    """
    check_resolution(resolution)
    if not 0.55 <= band <= 8:
        raise ValueError(f"band: expected 0.55 to 8 voxels, got {band}")
    check_part(project)
    if len(check_mesh(mesh).faces) == 0:
        return empty_like(mesh)
    report = progress or silent
    grid = fit_grid(mesh, resolution, band)
    target = ValidMesh(grid.to_grid(mesh.vertices), mesh.faces)
    index = build_index(target)
    report(0.1)
    blocks = tuple(n // SIDE for n in grid.shape)
    field = sample_narrow_band(index, blocks, band, backend=backend, report=scaled(report, 0.1, 0.4))
    shell = contour(field)
    del field
    report(0.7)
    projection = ProjectOptions(band, project, band + CORNER)
    made = shrinkwrap(shell, target, index, projection, backend=backend, report=scaled(report, 0.7, 0.3))
    report(1.0)
    return ValidMesh(grid.to_world(made.vertices), made.faces.to(mesh.faces.dtype))


def check_resolution(resolution: int) -> None:
    """Raises ValueError for a resolution that grids here do not go to."""
    if not LEAST <= resolution <= MOST:
        raise ValueError(f"resolution: expected {LEAST} to {MOST} voxels, got {resolution}")


def check_part(project: float) -> None:
    """Raises ValueError for a part of the way that is none."""
    if not 0 <= project <= 1:
        raise ValueError(f"project: expected 0 to 1, got {project}")


def empty_like(mesh: Mesh) -> Mesh:
    """A mesh with nothing in it, of the same types and on the same device."""
    return ValidMesh(mesh.vertices[:0], mesh.faces[:0])


def fit_grid(mesh: Mesh, resolution: int, level: float) -> Grid:
    """A grid of whole blocks around the faces of `mesh`, with room for what stands off from it by `level` voxels.

    The points of the fields here are the corners of its voxels. Raises ValueError for a mesh that is a single point.
    """
    used = mesh.vertices[mesh.faces.flatten().to(torch.int64)]
    low, high = (end.tolist() for end in (used.amin(0), used.amax(0)))
    size = max(far - near for near, far in zip(low, high, strict=True)) / resolution
    if size <= 0:
        raise ValueError(f"mesh: expected faces with some extent, got all at {low}")
    # The blocks at the border are outside: one block and more below the surface, at least one above.
    margin = SIDE + math.ceil(level) + 1
    points = [
        margin + math.ceil((far - near) / size) + math.ceil(level) + 1 for near, far in zip(low, high, strict=True)
    ]
    shape = tuple((-(-n // SIDE) + 2) * SIDE for n in points)
    return Grid(shape, tuple(near - margin * size for near in low), (size,) * 3)
