"""Convex hulls for physics engines: one around a mesh, or several that follow its shape."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import torch

from ..core.progress import Progress, in_background
from ..values import Mesh
from .connectivity.topology import check_mesh

MOST_HULLS = 256
# Corners of a hull; physics engines take no more than about 255.
MOST_CORNERS = 64
# A flat mesh gets this thickness, as a part of its longest side.
THICKNESS = 1e-3
# For the estimates of the time, on two CPU cores.
HULL_SECONDS, DECOMPOSE_SECONDS = 1.0, 60.0


def collision_hulls(
    mesh: Mesh,
    hulls: int = 1,
    *,
    concavity: float = 0.05,
    corners: int = MOST_CORNERS,
    progress: Progress | None = None,
) -> tuple[Mesh, ...]:
    """Returns convex, closed meshes with outward winding, which together cover `mesh`: [V, 3], [F, 3], on its device.

    hulls: 1 makes the convex hull (Barber, Dobkin and Huhdanpaa, The Quickhull Algorithm, 1996). More: at most so many
    by approximate convex decomposition (Wei, Liu, Ling and Su, CoACD, 2022): needs the package coacd, and a minute.
    concavity: how far the hulls may stand out, as a part of the size; less makes more of them.
    corners: most corners of a hull, 4 to 255; one with more is cut to its extreme points in as many directions, which
    puts it slightly inside.
    A flat mesh gets a thickness of THICKNESS. Deterministic. progress: by estimate; may raise, to cancel.
    Raises ValueError for a mesh without faces, a number out of range, or points on one line; ImportError without coacd.
    """
    check_mesh(mesh)
    if len(mesh.faces) == 0:
        raise ValueError("mesh: expected faces, got none")
    if not 1 <= hulls <= MOST_HULLS:
        raise ValueError(f"hulls: expected 1 to {MOST_HULLS}, got {hulls}")
    if not 0.01 <= concavity <= 1:
        raise ValueError(f"concavity: expected 0.01 to 1, got {concavity}")
    if not 4 <= corners <= 255:
        raise ValueError(f"corners: expected 4 to 255, got {corners}")
    if hulls > 1 and find_spec("coacd") is None:
        raise ImportError("hulls: more than 1 needs the package coacd (pip install coacd); 1 works without it")
    seconds = HULL_SECONDS if hulls == 1 else DECOMPOSE_SECONDS
    return in_background(lambda _: tuple(_hulls(mesh, hulls, concavity, corners)), progress, seconds)


def _hulls(mesh: Mesh, hulls: int, concavity: float, corners: int) -> Iterator[Mesh]:
    points = mesh.vertices.cpu().double().numpy()
    faces = mesh.faces.cpu().long().numpy()
    clouds = [points[np.unique(faces)]] if hulls == 1 else _decomposed(points, faces, hulls, concavity)
    for cloud in clouds:
        vertices, triangles = _hull(cloud, corners)
        yield Mesh(
            torch.from_numpy(vertices.astype(np.float32)).to(mesh.vertices.device),
            torch.from_numpy(triangles).to(mesh.faces.dtype).to(mesh.faces.device),
        )


def _decomposed(points: np.ndarray, faces: np.ndarray, hulls: int, concavity: float) -> list[np.ndarray]:
    """The points of each part."""
    import coacd

    coacd.set_log_level("error")
    parts = coacd.run_coacd(coacd.Mesh(points, faces), threshold=concavity, max_convex_hull=hulls, seed=0)
    return [np.asarray(vertices) for vertices, _ in parts]


def _hull(points: np.ndarray, corners: int) -> tuple[np.ndarray, np.ndarray]:
    """(vertices [V, 3] float64, faces [F, 3] int64 wound outwards) of the convex hull of `points` [N, 3]."""
    from scipy.spatial import ConvexHull

    points = _thickened(points)
    found = ConvexHull(points)
    if len(found.vertices) > corners:
        extreme = np.unique((points[found.vertices] @ _directions(corners).T).argmax(0))
        points = points[found.vertices][extreme]
        found = ConvexHull(points)
    rows = np.full(len(points), -1)
    rows[found.vertices] = np.arange(len(found.vertices))
    triangles = found.simplices.astype(np.int64)
    a, b, c = (points[triangles[:, k]] for k in range(3))
    inward = (np.cross(b - a, c - a) * found.equations[:, :3]).sum(1) < 0
    triangles[inward] = triangles[inward][:, ::-1]
    return points[found.vertices], rows[triangles]


def _thickened(points: np.ndarray) -> np.ndarray:
    """`points` [N, 3], doubled on both sides of their plane if they have one. Raises ValueError for a line."""
    moved = points - points.mean(0)
    _, size, axes = np.linalg.svd(moved, full_matrices=False)
    if len(size) < 3 or size[1] <= 1e-9 * size[0]:
        raise ValueError("mesh: expected a surface, got points on one line")
    if size[2] > 1e-7 * size[0]:
        return points
    step = axes[2] * THICKNESS / 2 * float(np.ptp(points, 0).max())
    return np.concatenate([points - step, points + step])


def _directions(count: int) -> np.ndarray:
    """[count, 3] float64 unit directions, evenly spread (Fibonacci spiral)."""
    step = np.arange(count)
    z = 1 - (2 * step + 1) / count
    turn = step * (np.pi * (3 - np.sqrt(5)))
    flat = np.sqrt(1 - z * z)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z], 1)
