"""A mesh cut into charts and laid flat: the cloth that stays the same, and the layouts it goes through.

The surface is scaled to a total area of 1, so that lengths compare with the side of a full atlas. Half-edge h = 3 f + k
and corner c = 3 f + k as in `topology`.

Letters: V vertices, F faces, E edges that can be sewn, K charts, U UV vertices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.parameterize import distortion, relax
from ..ops.parameterize.reference import FLAT
from ..values import Mesh
from .charts import LENGTH_UNIT, Facets, Links
from .crossings import crossing_charts
from .surface import has_twin_corners, proper_edges
from .topology import area_vectors, cross, dot, following, length, unit

THINNEST = 0.02  # least height of a rest shape, about, of its longest edge
THINNEST_TEXELS = 0.1
FIXED = 2.0**40  # fixed point for sums over charts
SWEEPS = 6


@dataclass(frozen=True, eq=False)
class Cloth:
    """What does not change as a surface is cut and laid flat.

    faces: [F, 3] int64.  points: [V, 3] float64, scaled.  facets: of the scaled surface.  half: [E, 2] int64, the two
    half-edges of each edge that two faces share, running in opposite directions.  length: [E] int64, in LENGTH_UNIT.
    rest: [F, 3] float64, squared lengths that edge k of a face should have in the plane; never of a sliver.
    color: [V] int64, different along every edge.
    """

    faces: Tensor
    points: Tensor
    facets: Facets
    half: Tensor
    length: Tensor
    rest: Tensor
    color: Tensor

    @property
    def links(self) -> Links:
        """The faces at each edge."""
        return Links(self.half[:, 0] // 3, self.half[:, 1] // 3, self.length)


@dataclass(frozen=True, eq=False)
class Layout:
    """Charts in the plane; each UV vertex belongs to one chart, and charts may lie over each other.

    position: [U, 2] float64; rows may be unused.  corner: [F, 3] int64, rows of `position`.  chart: [F] int64.
    sewn: [E] bool, edges whose two faces share both UV vertices.  source: [U] int64, the mesh's vertex.
    """

    position: Tensor
    corner: Tensor
    chart: Tensor
    sewn: Tensor
    source: Tensor


def weave(mesh: Mesh, texel: float, *, backend: str = "auto") -> Cloth:
    """The cloth of a mesh with at least one face; texel: the length of one, as a share of the side of a full atlas.

    An edge with more than two faces, or whose faces run along it in the same direction, cannot be sewn. Rest shapes
    are as on the surface, but slivers and specks are made thicker, so that they have area in the plane.
    """
    faces = mesh.faces.to(torch.int64)
    vectors = area_vectors(mesh.vertices, faces)
    total = float(length(vectors).sum())
    points = mesh.vertices.double() * (1 / math.sqrt(total) if total > 0 else 1.0)
    corners = points[faces]
    vectors = area_vectors(points, faces)
    sides = length(corners.roll(-1, dims=1) - corners)
    fixed = (sides / LENGTH_UNIT).round().to(torch.int64)
    facets = Facets(unit(vectors), length(vectors), fixed.sum(dim=1), corners.amin(dim=1), corners.amax(dim=1))
    order, start = proper_edges(faces, len(points), backend)
    first = start[:-1][start.diff() == 2]
    a, b = order[first], order[first + 1]
    opposite = faces.flatten()[a] != faces.flatten()[b]
    half = torch.stack((a[opposite], b[opposite]), dim=1)
    squares = sides * sides
    floor = (THINNEST**2 * squares.amax(dim=1) + (THINNEST_TEXELS * texel) ** 2)[:, None]
    color = color_vertices(faces, len(points))
    return Cloth(faces, points, facets, half, fixed.flatten()[half[:, 0]], squares + floor, color)


def color_vertices(faces: Tensor, count: int) -> Tensor:
    """A colour [count] int64 for each vertex, different from that of all others in its faces [F, 3] int64.

    A vertex takes the round in which it has the highest number, well mixed, among those without a colour (Jones and
    Plassmann, A Parallel Graph Coloring Heuristic, 1993). Deterministic.
    """
    rank = torch.arange(count, device=faces.device) * 0x9E3779B1 % 2**32
    first, second = faces.flatten(), faces.roll(-1, dims=1).flatten()
    apart = (first != second).nonzero().squeeze(1)
    first, second = first[apart], second[apart]
    color = torch.full_like(rank, -1)
    shade = 0
    while bool((color < 0).any()):
        highest = torch.full_like(rank, -1)
        highest.scatter_reduce_(0, first, rank[second], "amax").scatter_reduce_(0, second, rank[first], "amax")
        color = torch.where((color < 0) & (rank > highest), shade, color)
        left = ((color[first] < 0) & (color[second] < 0)).nonzero().squeeze(1)
        first, second = first[left], second[left]
        shade += 1
    return color


def flatten(cloth: Cloth, chart: Tensor, *, backend: str = "auto") -> Layout:
    """Charts [F] int64, 0 to K - 1, each projected along its mean normal and relaxed; a lone face as its rest shape.

    Nothing is promised: a projection may fold over (see `broken_charts`), a chart of one face never does.
    """
    charts, count = int(chart.max()) + 1, len(cloth.points)
    key = (chart[:, None] * count + cloth.faces).flatten()
    corners = torch.arange(len(key), device=key.device)
    twins = has_twin_corners(cloth.faces).repeat_interleave(3)
    key, corner = torch.where(twins, charts * count + corners, key).unique(return_inverse=True)
    corner = corner.view(-1, 3)
    owner = torch.empty_like(key).scatter_(0, corner.flatten(), chart.repeat_interleave(3))
    source = torch.empty_like(key).scatter_(0, corner.flatten(), cloth.faces.flatten())
    axes = _frames(cloth.facets, chart, charts)
    points = cloth.points[source]
    position = torch.stack([dot(points, axis[owner]) for axis in axes], dim=1)
    alone = (torch.bincount(chart, minlength=charts)[chart] == 1).nonzero().squeeze(1)
    position[corner[alone].flatten()] = _upright(cloth.rest[alone]).view(-1, 2)
    face = (torch.bincount(chart, minlength=charts)[chart] > 1).nonzero().squeeze(1)
    links = cloth.links
    sewn = chart[links.first] == chart[links.second]
    color = cloth.color[source]
    position = relax(position, corner[face], cloth.rest[face], color, owner, SWEEPS, backend=backend)
    return Layout(position, corner, chart, sewn, source)


def _frames(facets: Facets, chart: Tensor, charts: int) -> tuple[Tensor, Tensor]:
    """Two axes [K, 3] of the plane that each chart's mean normal looks down on, counter-clockwise seen from there."""
    whole = (facets.normal * (facets.area[:, None] * FIXED)).to(torch.int64)
    total = torch.zeros(charts, 3, dtype=torch.int64, device=chart.device)
    normal = unit(total.scatter_add_(0, chart[:, None].expand(-1, 3), whole).to(torch.float64))
    helper = torch.zeros_like(normal).scatter_(1, normal.abs().argmin(dim=1, keepdim=True), 1.0)
    across = unit(cross(helper, normal))
    return across, cross(normal, across)


def _upright(rest: Tensor) -> Tensor:
    """Corners [N, 3, 2] of triangles with squared edge lengths `rest` [N, 3], counter-clockwise, the first at 0."""
    base = rest[:, 0].sqrt()
    x = (rest[:, 0] + rest[:, 2] - rest[:, 1]) / (2 * base)
    y = (rest[:, 2] - x * x).clamp(min=0).sqrt()
    zero = torch.zeros_like(x)
    return torch.stack((zero, zero, base, zero, x, y), dim=1).view(-1, 3, 2)


def broken_charts(cloth: Cloth, layout: Layout, face: Tensor | None = None) -> Tensor:
    """Charts [K] bool with a face turned over or with borders that cross. face: [N] int64, all faces to look at."""
    if face is None:
        face = torch.arange(len(layout.chart), device=layout.chart.device)
    chart, corner = layout.chart[face], layout.corner[face]
    charts = int(layout.chart.max()) + 1
    det = distortion(layout.position, corner, cloth.rest[face])[0]
    broken = torch.zeros(charts, dtype=torch.bool, device=chart.device)
    broken[chart[~(det > FLAT)]] = True
    half = open_halves(cloth, layout, face)
    start, end = layout.corner.flatten()[half], layout.corner.flatten()[following(half)]
    return broken | crossing_charts(layout.position, start, end, layout.chart[half // 3], charts)


def open_halves(cloth: Cloth, layout: Layout, face: Tensor) -> Tensor:
    """Half-edges [N] int64 of the faces `face` that are not sewn to another."""
    inside = torch.zeros(3 * len(layout.chart), dtype=torch.bool, device=face.device)
    inside[cloth.half[layout.sewn].flatten()] = True
    half = (3 * face[:, None] + torch.arange(3, device=face.device)).flatten()
    return half[~inside[half]]
