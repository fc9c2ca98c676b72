"""Printable solids: the outer shell with as many bodies as asked, and no wall thinner than asked.

Thickness is measured along the inward normal, by sphere tracing (Hart 1996) of the distance to the surface. Where it is
too small, a ball of the wanted diameter is added around the middle of the wall: the union of both is contoured anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.exact_sums import Groups, precise
from ...core.progress import Progress, in_background, scaled
from ...core.vectors import cross, dot, unit
from ...ops.closest_point import MeshIndex, build_index, closest_point
from ...ops.flood_fill import SIDE
from ...values import Mesh
from ..connectivity.components import face_components
from ..connectivity.row_map import select_faces
from ..connectivity.topology import ValidMesh, area_vectors, check_mesh
from ..normals import vertex_normals
from .contour import contour
from .narrow_band import sample_narrow_band
from .outer_shell import WALL, flooded_solid, outer_shell
from .remesh import CORNER, SECONDS, fit_grid
from .shrinkwrap import ProjectOptions, limit_flips, shrinkwrap
from .sparse_sdf import SparseSDF, fill_unreached, flood_outside, union

# In voxels: where a ray starts under the surface, where it has met another, and the longest way of a ray.
START, MET, MOST_STEPS = 0.3, 0.05, 40
# The two sides of a wall face away from each other at least so much; a blunter edge, above 60 degrees, is no wall.
OPPOSED = -0.5
# Added to a ball's radius, voxels: the union of balls a voxel apart dips between them.
DIP = 0.2


@dataclass(frozen=True)
class SolidReport:
    """What `solid` did. thickened: share of the surface, 0 to 1, over walls that were too thin.  bodies: how many there
    are.  left_out: bodies removed.  left_out_share: their part of the volume, 0 to 1.
    """

    thickened: float
    bodies: int
    left_out: int
    left_out_share: float

    def lines(self, wall: str) -> list[str]:
        """The deviations from the input as text; wall: the asked thickness with its unit."""
        found = []
        if self.thickened > 0:
            found.append(f"walls thinner than {wall} were thickened: {self.thickened:.1%} of the surface")
        if self.left_out:
            found.append(f"{self.left_out:,} smaller bodies left out ({self.left_out_share:.2%} of the volume)")
        return found


@torch.no_grad()
def solid(
    mesh: Mesh,
    resolution: int,
    *,
    min_wall: float = 0.0,
    bodies: int | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> tuple[Mesh, SolidReport]:
    """Makes a printable solid from a mesh in any state: `outer_shell`, then bodies and walls; returns (solid, report).

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces.  resolution: see `outer_shell`.
    min_wall: least thickness in world units, 0 for none; walls are thickened on both sides alike, a sheet's border by
    about half of it. An edge blunter than 60 degrees is no wall.  bodies: how many are kept, the largest by volume;
    None: all.
    Closed and 2-manifold, vertices apart; walls thicken before bodies are counted, and may join some. Deterministic per
    backend. Raises ValueError as `outer_shell`, and for a negative min_wall or bodies below 1.
    """
    if not 0 <= min_wall < float("inf"):
        raise ValueError(f"min_wall: expected 0 or more, got {min_wall}")
    if bodies is not None and bodies < 1:
        raise ValueError(f"bodies: expected 1 or more, or None for all, got {bodies}")
    checked = check_mesh(mesh)

    def work(report: Progress) -> tuple[Mesh, SolidReport]:
        made = outer_shell(checked, resolution, backend=backend, progress=scaled(report, 0.0, 0.5))
        if len(made.faces) == 0:
            return made, SolidReport(0.0, 0, 0, 0.0)
        thickened = 0.0
        if min_wall > 0:
            made, thickened = _thicken(made, resolution, min_wall, backend, scaled(report, 0.5, 0.45))
        made, count, left_out, share = _largest_bodies(made, bodies)
        return made, SolidReport(thickened, count, left_out, share)

    return in_background(work, progress, 2 * SECONDS)


def longest_side(mesh: Mesh) -> float:
    """The longest side of the bounding box of a mesh's [V, 3] vertices, world units; 0 without any."""
    return float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).amax()) if len(mesh.vertices) else 0.0


def _largest_bodies(mesh: Mesh, bodies: int | None) -> tuple[Mesh, int, int, float]:
    """(mesh with the largest `bodies` by volume, how many they are, how many were left out, their volume's share)."""
    groups = Groups.of_labels(face_components(mesh))
    a, b, c = (precise(mesh.vertices[mesh.faces[:, k].long()]) for k in range(3))
    volume = groups.sums(dot(a, cross(b, c))[:, None])[:, 0]
    order = volume.sort(descending=True, stable=True).indices
    kept = order[: groups.count if bodies is None else bodies]
    stays = torch.zeros(groups.count, dtype=torch.bool, device=volume.device)
    stays[kept] = True
    share = float(volume[~stays].sum() / volume.sum().clamp_min(torch.finfo(volume.dtype).tiny))
    return select_faces(mesh, stays[groups.number])[0], len(kept), groups.count - len(kept), share


def _thicken(mesh: Mesh, resolution: int, min_wall: float, backend: str, report: Progress) -> tuple[Mesh, float]:
    """(mesh with walls of at least `min_wall`, share of its vertices over thinner ones); mesh: closed and outward."""
    voxel = longest_side(mesh) / resolution
    radius = min_wall / 2 / voxel + DIP
    grid = fit_grid(mesh, resolution, radius + WALL)
    target = ValidMesh(grid.to_grid(mesh.vertices), mesh.faces)
    index = build_index(target)
    middle = _thin_middles(target, index, 2 * radius - 2 * DIP, backend)
    report(0.4)
    if len(middle) == 0:
        return mesh, 0.0
    rows = torch.arange(len(middle), device=middle.device)
    balls = build_index(ValidMesh(middle, rows[:, None].expand(-1, 3).contiguous()))
    shape = tuple(n // SIDE for n in grid.shape)
    field, _ = flooded_solid(index, shape, WALL, backend, scaled(report, 0.4, 0.1))
    field = union(field, sample_narrow_band(balls, shape, radius + WALL, backend=backend))
    field = fill_unreached(field, flood_outside(field, backend))
    report(0.7)
    made = _projected(field, target, index, (balls, middle, radius), backend)
    report(1.0)
    share = len(middle) / len(mesh.vertices)
    return ValidMesh(grid.to_world(made.vertices), made.faces.to(mesh.faces.dtype)), share


def _thin_middles(mesh: Mesh, index: MeshIndex, wall: float, backend: str) -> Tensor:
    """Middles [K, 3] of the walls thinner than `wall` under the vertices of a closed outward mesh; grid units."""
    at, inward = mesh.vertices, -vertex_normals(mesh)
    rows = torch.arange(len(at), device=at.device)
    way = torch.full_like(at[:, 0], START)
    normal = unit(area_vectors(mesh.vertices, mesh.faces.long())).float()
    middles = [at[:0]]
    for _ in range(MOST_STEPS):
        found = closest_point(index, at[rows] + inward[rows] * way[:, None], wall, backend=backend)
        met = found.distance <= MET
        # Away from the face where the ray starts, and from its neighbours.
        opposed = dot(normal[found.face.clamp_min(0)], inward[rows]) >= -OPPOSED
        hit = met & opposed & (found.face >= 0)
        middles.append(at[rows[hit]] + inward[rows[hit]] * (way[hit] / 2)[:, None])
        way = way + found.distance.clamp(MET, wall)
        goes = ~hit & (way < wall)
        rows, way = rows[goes], way[goes]
        if len(rows) == 0:
            break
    return torch.cat(middles)


def _projected(
    field: SparseSDF, target: Mesh, index: MeshIndex, balls: tuple[MeshIndex, Tensor, float], backend: str
) -> Mesh:
    """Contours a field WALL outside of `target` and balls (index, middles [K, 3], radius), and moves it onto them."""
    shell = contour(field)
    made = shrinkwrap(shell, target, index, ProjectOptions(WALL, 1.0, WALL + CORNER), backend=backend)
    tree, middle, radius = balls
    start = shell.vertices
    found = closest_point(tree, start, radius + WALL + CORNER, backend=backend)
    # On the balls' side of the union, or where the surface lies inside a ball.
    over = found.distance - radius <= closest_point(index, start, radius + WALL + CORNER, backend=backend).distance
    over |= closest_point(tree, made.vertices, radius, backend=backend).face >= 0
    rows = (over & (found.face >= 0)).nonzero().squeeze(1)
    nearest = middle[found.face[rows]]
    goal = made.vertices.clone()
    goal[rows] = nearest + unit(start[rows] - nearest) * radius
    return ValidMesh(shell.vertices + limit_flips(shell.vertices, made.faces, goal - shell.vertices), made.faces)


__all__ = ["SolidReport", "longest_side", "solid"]
