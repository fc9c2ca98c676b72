"""Uniform remeshing of any triangle mesh: offset distance field, manifold dual contouring, projection."""

from __future__ import annotations

import math

import torch

from ...core.grid import Grid
from ...core.progress import Progress, in_background, scaled
from ...ops.closest_point import build_index
from ...ops.flood_fill import SIDE
from ...values import Mesh
from ..connectivity.topology import ValidMesh, check_mesh
from .contour import contour
from .narrow_band import sample_narrow_band
from .shrinkwrap import ProjectOptions, shrinkwrap

LEAST, MOST = 8, 1024
# For the estimate of the time, at 512 on two CPU cores.
SECONDS = 10
# Distance beyond the level, in voxels, that contour vertices may have: in a concave corner a vertex is the mean of
# crossings most of a voxel away, the further the sharper the corner.
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
    """Remeshes the offset surface at distance `band` and projects it back: uniform, closed and 2-manifold.

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces.
    resolution: voxels along the longest side of the mesh's bounding box, 8 to 1024. The grid is fitted to the mesh.
    band: offset, 0.55 to 8 voxels. Gaps narrower than twice that close.
    project: fraction of the distance back that vertices move, 0 to 1. A little less than 1 keeps the two sides of a
    sheet apart.
    backend: for distances, "triton", "numba", "reference" or "auto" (see ops.closest_point).
    progress: called with the fraction done, 0 to 1; may raise, to cancel.

    The mesh may be open, non-manifold, self-intersecting and inconsistently wound; degenerate faces count as points or
    segments. Unsigned distance is two-sided: a closed surface gets an outer and an inner shell (`outer_shell` gives
    one). Every edge has two faces, every vertex one fan; faces point away from the mesh. Vertices held back to avoid
    flipped faces may stay up to `band` away, mostly in acute corners. With `project` 1 edges and corners are reproduced
    sharp, except features finer than a voxel. Deterministic per backend. An empty mesh gives an empty one.

    Raises ValueError for arguments out of range, non-finite positions, face indices out of range, or a mesh without
    extent.
    """
    check_resolution(resolution)
    if not 0.55 <= band <= 8:
        raise ValueError(f"band: expected 0.55 to 8 voxels, got {band}")
    check_part(project)
    if len(check_mesh(mesh).faces) == 0:
        return empty_like(mesh)
    options = ProjectOptions(band, project, band + CORNER)
    return in_background(lambda report: _remeshed(mesh, resolution, options, backend, report), progress, SECONDS)


def _remeshed(mesh: Mesh, resolution: int, projection: ProjectOptions, backend: str, report: Progress) -> Mesh:
    """`remesh` of a checked mesh; the offset is projection's level."""
    band = projection.level
    grid = fit_grid(mesh, resolution, band)
    target = ValidMesh(grid.to_grid(mesh.vertices), mesh.faces)
    index = build_index(target)
    report(0.1)
    blocks = tuple(n // SIDE for n in grid.shape)
    field = sample_narrow_band(index, blocks, band, backend=backend, report=scaled(report, 0.1, 0.4))
    shell = contour(field)
    del field
    report(0.7)
    made = shrinkwrap(shell, target, index, projection, backend=backend, report=scaled(report, 0.7, 0.3))
    report(1.0)
    return ValidMesh(grid.to_world(made.vertices), made.faces.to(mesh.faces.dtype))


def check_resolution(resolution: int) -> None:
    """Raises ValueError unless LEAST <= resolution <= MOST."""
    if not LEAST <= resolution <= MOST:
        raise ValueError(f"resolution: expected {LEAST} to {MOST} voxels, got {resolution}")


def check_part(project: float) -> None:
    """Raises ValueError unless 0 <= project <= 1."""
    if not 0 <= project <= 1:
        raise ValueError(f"project: expected 0 to 1, got {project}")


def empty_like(mesh: Mesh) -> Mesh:
    """An empty mesh ([0, 3] vertices and faces) with the dtypes and device of `mesh`."""
    return ValidMesh(mesh.vertices[:0], mesh.faces[:0])


def fit_grid(mesh: Mesh, resolution: int, level: float) -> Grid:
    """Fits a grid of whole blocks around the faces of a mesh ([V, 3], [F, 3]), padded for an offset of `level` voxels.

    Field points are the corners of its voxels. Raises ValueError for a mesh without extent.
    """
    used = mesh.vertices[mesh.faces.flatten().to(torch.int64)]
    low, high = (end.tolist() for end in (used.amin(0), used.amax(0)))
    size = max(far - near for near, far in zip(low, high, strict=True)) / resolution
    if size <= 0:
        raise ValueError(f"mesh: expected faces with some extent, got all at {low}")
    # Border blocks must be outside: more than one block of padding below the surface, at least one above.
    margin = SIDE + math.ceil(level) + 1
    points = [
        margin + math.ceil((far - near) / size) + math.ceil(level) + 1 for near, far in zip(low, high, strict=True)
    ]
    shape = tuple((-(-n // SIDE) + 2) * SIDE for n in points)
    return Grid(shape, tuple(near - margin * size for near in low), (size,) * 3)
