"""Ambient occlusion from orthographic depth maps around the mesh (shadow mapping from many directions).

Each light direction is one depth map, shared by all points and drawn by the rasteriser. Exact to the maps'
resolution, without noise, and the same bytes each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend, triton_probe
from ...core.checks import check_tensor
from ...core.progress import Progress
from ...values import Mesh
from ..raster import rasterize

BACKENDS = (Backend("triton", triton_probe), Backend("numba", numba_probe), Backend("reference", always))
# Half a map's side over the mesh's radius, so that points just outside the mesh are still inside.
MARGIN = 1.02


@dataclass(frozen=True, eq=False)
class DepthMaps:
    """Depth maps of a mesh from N directions; row 0 of a map is its top.

    depth: [N, S, S] float32, height of the nearest surface towards the viewer, in world units from `center`; -inf if
    empty.  axes: [N, 3, 3] float32, the unit vectors right, up and towards the viewer of each map.
    center: [3] float32.  radius: [1] float32, half a map's side in world units.
    """

    depth: Tensor
    axes: Tensor
    center: Tensor
    radius: Tensor


def sphere_directions(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Returns `count` unit directions [count, 3] float32, evenly spread over the sphere (Fibonacci spiral)."""
    step = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * step + 1) / count
    turn = step * (math.pi * (3 - math.sqrt(5)))
    flat = (1 - z * z).sqrt()
    return torch.stack([flat * turn.cos(), flat * turn.sin(), z], 1).float().to(device)


def picture_axes(towards: Tensor) -> Tensor:
    """Returns view axes [N, 3, 3] (right, up, towards) for unit directions to the viewer `towards` [N, 3]."""
    # The helper is the coordinate axis with the smallest component of the direction.
    helper = torch.nn.functional.one_hot(towards.abs().argmin(1), 3).to(towards.dtype)
    right = torch.nn.functional.normalize(torch.linalg.cross(helper, towards), dim=1)
    return torch.stack([right, torch.linalg.cross(towards, right), towards], 1)


def render_depth_maps(
    mesh: Mesh,
    directions: Tensor,
    side: int = 1024,
    *,
    backend: str = "auto",
    progress: Progress | None = None,
) -> DepthMaps:
    """Renders `mesh` from `directions` [N, 3] float32, unit vectors towards the viewers, in side x side pixels each.

    Takes 4 N side^2 bytes; maps are drawn one after another. progress: called with the fraction done; may raise to
    stop. Raises ValueError as `rasterize` does.
    """
    check_tensor(directions, "directions", (None, 3), torch.float32)
    vertices = mesh.vertices
    axes = picture_axes(directions.to(vertices.device))
    low, high = (vertices.amin(0), vertices.amax(0)) if len(vertices) else (vertices.new_zeros(3),) * 2
    center = (low + high) / 2
    moved = vertices - center
    radius = (moved.square().sum(1).amax().sqrt() if len(moved) else center.new_zeros(())).clamp_min(1e-30) * MARGIN
    depth = torch.empty(len(axes), side, side, dtype=torch.float32, device=vertices.device)
    x, y, z = (moved / radius).unbind(1)
    for i, picture in enumerate(axes.tolist()):
        # Not a matmul: TF32 on a GPU would move the vertices.
        right, up, towards = (a * x + b * y + c * z for a, b, c in picture)
        clip = torch.stack([right, up, -towards, torch.ones_like(x)], 1)
        depth[i] = -radius * rasterize(clip, mesh.faces, (side, side), backend=backend).depth
        if progress is not None:
            progress((i + 1) / len(axes))
    return DepthMaps(depth, axes, center, radius[None])


def ambient_occlusion(
    depth_maps: DepthMaps,
    points: Tensor,
    normals: Tensor,
    flat: Tensor | None = None,
    *,
    reach: float | None = None,
    backend: str = "auto",
) -> Tensor:
    """Returns the visible fraction [P] float32 of a uniform sky at `points`, weighted by the cosine; 1 is unoccluded.

    points: [P, 3] float32, world units, on the mesh of `depth_maps`.  normals: [P, 3] float32 unit vectors, for the
    cosine.  flat: [P, 3] float32 unit face normals, where `normals` are smooth: without them the faces of a rounded
    edge occlude each other. None: `normals`.
    reach: world units; blockers farther away are ignored (of several blockers in a line the farthest counts).
    Points without a direction in front also get 1. A blocker must rise one pixel above the plane of the point's face,
    and directions within 6 degrees of that plane are skipped. Maps are read bilinearly, so shadow edges are one pixel
    soft. backend: "triton" (GPU), "numba" (CPU), "reference" (plain torch) or "auto"; equal up to rounding.
    Deterministic.
    """
    count = len(check_tensor(points, "points", (None, 3), torch.float32))
    check_tensor(normals, "normals", (count, 3), torch.float32)
    flat = check_tensor(normals if flat is None else flat, "flat", (count, 3), torch.float32)
    if reach is not None and not reach > 0:
        raise ValueError(f"reach: expected None or more than 0, got {reach}")
    chosen = resolve_backend(backend, BACKENDS, points.device)
    limit = math.inf if reach is None else float(reach)
    if chosen == "triton":
        from .kernel import ambient_occlusion_gpu as implementation
    elif chosen == "numba":
        from .kernel_cpu import ambient_occlusion_cpu as implementation
    else:
        from .reference import ambient_occlusion_torch as implementation
    parts = depth_maps.depth, depth_maps.axes, depth_maps.center, depth_maps.radius, points, normals, flat
    depth, axes, center, radius, points, normals, flat = (part.contiguous() for part in parts)
    return implementation(depth, axes, center, radius, points, normals, flat, limit)


__all__ = ["BACKENDS", "DepthMaps", "ambient_occlusion", "picture_axes", "render_depth_maps", "sphere_directions"]
