"""Chart parameterisation: projection along the mean normal, then symmetric Dirichlet relaxation (`ops.parameterize`).

The surface is scaled to a total area of 1, so that lengths are relative to the side of a full atlas. Half-edge
h = 3 f + k and corner c = 3 f + k as in `topology`.

Letters: V vertices, F faces, E sewable edges (two faces, opposite directions), K charts, U UV vertices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...core.vectors import cross, dot, length, unit
from ...ops.connected_components import connected
from ...ops.parameterize import distortion, relax
from ...values import Mesh
from ..connectivity.surface import proper_edges
from ..connectivity.topology import area_vectors, following
from .overlaps import find_overlaps
from .segment import LENGTH_UNIT, DualGraph, FaceGeometry

THINNEST = 0.02  # minimum height of a rest shape, about, relative to its longest edge
THINNEST_TEXELS = 0.1
FIXED = 2.0**40  # fixed-point scale of sums over charts
SWEEPS = 6
LEAST_DET = 0.02  # minimum area of a face relative to its rest shape; below, it counts as collapsed
MOST_COLORS = 64  # limit of vertex colours in `relax`
STRETCHED_SHARE = 0.005  # share of a chart's area that may exceed the stretch limit
MEAN_STRETCH = 0.08  # maximum mean stretch of a chart, above 1


@dataclass(frozen=True, eq=False)
class UnwrapMesh:
    """Constant data of a surface during unwrapping.

    faces: [F, 3] int64.  points: [V, 3] float64, scaled.  geometry: of the scaled surface.  half: [E, 2] int64, the two
    half-edges of each sewable edge.  length: [E] int64, in LENGTH_UNIT.  rest: [F, 3] float64, target squared length of
    edge k of each face in the plane; never a sliver.  color: [V] int64 vertex colouring, different along every edge.
    """

    faces: Tensor
    points: Tensor
    geometry: FaceGeometry
    half: Tensor
    length: Tensor
    rest: Tensor
    color: Tensor

    @property
    def graph(self) -> DualGraph:
        """Dual graph of the faces over the E sewable edges."""
        return DualGraph(self.half[:, 0] // 3, self.half[:, 1] // 3, self.length)


@dataclass(frozen=True, eq=False)
class Layout:
    """Unpacked charts in the plane; each UV vertex belongs to one chart; different charts may overlap.

    position: [U, 2] float64; rows may be unused.  corner: [F, 3] int64, rows of `position`.  chart: [F] int64.
    sewn: [E] bool, edges whose two faces share both UV vertices.  source: [U] int64, mesh vertex of each UV vertex.
    """

    position: Tensor
    corner: Tensor
    chart: Tensor
    sewn: Tensor
    source: Tensor


def build_unwrap_mesh(mesh: Mesh, texel: float, *, backend: str = "auto") -> UnwrapMesh:
    """Builds the `UnwrapMesh` of a mesh ([V, 3] vertices, [F, 3] faces, F >= 1).

    texel: side of a texel relative to the side of a full atlas. Edges with more than two faces, or with inconsistent
    winding, are not sewable. Rest shapes are those on the surface; slivers and tiny faces are thickened, so that they
    have area in the plane.
    """
    faces = mesh.faces.to(torch.int64)
    vectors = area_vectors(mesh.vertices, faces)
    total = float(length(vectors).sum())
    points = mesh.vertices.double() * (1 / math.sqrt(total) if total > 0 else 1.0)
    corners = points[faces]
    vectors = area_vectors(points, faces)
    sides = length(corners.roll(-1, dims=1) - corners)
    fixed = (sides / LENGTH_UNIT).round().to(torch.int64)
    geometry = FaceGeometry(unit(vectors), length(vectors), fixed.sum(dim=1), corners.amin(dim=1), corners.amax(dim=1))
    order, start = proper_edges(faces, len(points), backend)
    first = start[:-1][start.diff() == 2]
    a, b = order[first], order[first + 1]
    opposite = faces.flatten()[a] != faces.flatten()[b]
    half = torch.stack((a[opposite], b[opposite]), dim=1)
    squares = sides * sides
    floor = (THINNEST**2 * squares.amax(dim=1) + (THINNEST_TEXELS * texel) ** 2)[:, None]
    color = color_vertices(faces, len(points))
    return UnwrapMesh(faces, points, geometry, half, fixed.flatten()[half[:, 0]], squares + floor, color)


def color_vertices(faces: Tensor, count: int) -> Tensor:
    """Colours the vertices of faces [F, 3] int64 so that all corners of a face differ: [count] int64.

    In each round the vertices with the highest hash among their uncoloured neighbours take the lowest free colour
    (Jones and Plassmann, A Parallel Graph Coloring Heuristic, 1993): about half as many colours as rounds; each colour
    costs a kernel launch per relaxation sweep. Deterministic.
    """
    rank = torch.arange(count, device=faces.device) * 0x9E3779B1 % 2**32
    first, second = faces.flatten(), faces.roll(-1, dims=1).flatten()
    apart = (first != second).nonzero().squeeze(1)
    first, second = torch.cat((first[apart], second[apart])), torch.cat((second[apart], first[apart]))
    color = torch.full_like(rank, -1)
    taken = torch.zeros(count, MOST_COLORS, dtype=torch.bool, device=faces.device)
    shades = torch.arange(MOST_COLORS, device=faces.device)
    while bool((color < 0).any()):
        highest = torch.full_like(rank, -1).scatter_reduce_(0, first, rank[second], "amax")
        chosen = ((color < 0) & (rank > highest)).nonzero().squeeze(1)
        color[chosen] = torch.where(taken[chosen], MOST_COLORS, shades).amin(dim=1)
        left = (color[first] < 0).nonzero().squeeze(1)
        first, second = first[left], second[left]
        done = color[second] >= 0
        taken[first[done], color[second[done]]] = True
        first, second = first[~done], second[~done]
    return color


def parameterize(
    unwrap_mesh: UnwrapMesh,
    chart: Tensor,
    layout: Layout | None = None,
    face: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Layout:
    """Parameterises charts [F] int64 of connected faces: projection along the mean normal, then relaxation.

    Returns a `Layout`: position [U, 2], corner [F, 3]. A single-face chart takes its rest shape. With a layout and rows
    `face` [N] int64, only these faces are recomputed. No guarantee: a projection may fold over (see `find_faults`); a
    single-face chart never does.
    """
    if face is None or layout is None:
        face = torch.arange(len(chart), device=chart.device)
        sewn = torch.zeros(len(unwrap_mesh.half), dtype=torch.bool, device=chart.device)
        layout = Layout(unwrap_mesh.points.new_zeros(0, 2), torch.zeros_like(unwrap_mesh.faces), chart, sewn, face[:0])
    recomputed = torch.zeros(len(chart), dtype=torch.bool, device=chart.device).index_fill_(0, face, True)
    own_chart, graph = chart[face], unwrap_mesh.graph
    number, own_chart = own_chart.unique(return_inverse=True)
    charts = len(number)
    sewn = torch.where(recomputed[graph.first], True, layout.sewn) & (chart[graph.first] == chart[graph.second])
    lowest, corner = _joined_corners(unwrap_mesh, sewn & recomputed[graph.first])[face].unique(return_inverse=True)
    owner = torch.empty_like(lowest).scatter_(0, corner.flatten(), own_chart.repeat_interleave(3))
    source = unwrap_mesh.faces.flatten()[lowest]
    picked = FaceGeometry(*(getattr(unwrap_mesh.geometry, f.name)[face] for f in fields(FaceGeometry)))
    points = unwrap_mesh.points[source]
    position = torch.stack([dot(points, axis[owner]) for axis in _frames(picked, own_chart, charts)], dim=1)
    single = torch.bincount(own_chart, minlength=charts)[own_chart] == 1
    rest = unwrap_mesh.rest[face]
    position[corner[single].flatten()] = _rest_corners(rest[single]).view(-1, 2)
    many = (~single).nonzero().squeeze(1)
    position = relax(position, corner[many], rest[many], unwrap_mesh.color[source], owner, SWEEPS, backend=backend)
    return Layout(
        torch.cat((layout.position, position)),
        layout.corner.index_copy(0, face, corner + len(layout.position)),
        chart,
        sewn,
        torch.cat((layout.source, source)),
    )


def _joined_corners(unwrap_mesh: UnwrapMesh, sewn: Tensor) -> Tensor:
    """Label [F, 3] int64 of each corner: the lowest corner joined to it around its vertex by edges sewn [E] bool."""
    a, b = unwrap_mesh.half[sewn].unbind(dim=1)
    first, second = torch.cat((a, following(a))), torch.cat((following(b), b))
    return connected(3 * len(unwrap_mesh.faces), first, second).view(-1, 3)


def _frames(geometry: FaceGeometry, chart: Tensor, charts: int) -> tuple[Tensor, Tensor]:
    """Two axes [K, 3] of the plane orthogonal to each chart's mean normal, right-handed with it; chart: [F] int64."""
    whole = (geometry.normal * (geometry.area[:, None] * FIXED)).to(torch.int64)
    total = torch.zeros(charts, 3, dtype=torch.int64, device=chart.device)
    normal = unit(total.scatter_add_(0, chart[:, None].expand(-1, 3), whole).to(torch.float64))
    helper = torch.zeros_like(normal).scatter_(1, normal.abs().argmin(dim=1, keepdim=True), 1.0)
    across = unit(cross(helper, normal))
    return across, cross(normal, across)


def _rest_corners(rest: Tensor) -> Tensor:
    """Counter-clockwise corners [N, 3, 2] of triangles with squared edge lengths `rest` [N, 3], the first at 0."""
    base = rest[:, 0].sqrt()
    x = (rest[:, 0] + rest[:, 2] - rest[:, 1]) / (2 * base)
    y = (rest[:, 2] - x * x).clamp(min=0).sqrt()
    zero = torch.zeros_like(x)
    return torch.stack((zero, zero, base, zero, x, y), dim=1).view(-1, 3, 2)


def find_faults(unwrap_mesh: UnwrapMesh, layout: Layout, max_stretch: float) -> tuple[Tensor, Tensor]:
    """Checks a layout: (mask [K] bool of charts with flips, collapsed faces or excess stretch, faces [N] of overlaps).

    layout: position [U, 2] float64, corner [F, 3] int64, chart [F] int64, 0 to K - 1.
    """
    charts = int(layout.chart.max()) + 1
    bad = badly_shaped(unwrap_mesh, layout.position, layout.corner, layout.chart, None, charts, max_stretch)
    half = open_halves(unwrap_mesh, layout, torch.arange(len(layout.chart), device=layout.chart.device))
    start, end = layout.corner.flatten()[half], layout.corner.flatten()[following(half)]
    return bad, half[find_overlaps(layout.position, start, end, layout.chart[half // 3], charts)] // 3


def badly_shaped(
    unwrap_mesh: UnwrapMesh,
    position: Tensor,
    corner: Tensor,
    chart: Tensor,
    face: Tensor | None,
    charts: int,
    max_stretch: float,
) -> Tensor:
    """Mask [charts] bool of charts with a flipped or collapsed face, or with too much stretch.

    position: [U, 2] float64.  corner: [N, 3] int64, chart: [N] int64, of the faces `face` [N] int64, or of all.
    """
    rows = slice(None) if face is None else face
    det, stretch = distortion(position, corner, unwrap_mesh.rest[rows])
    area = unwrap_mesh.geometry.area[rows]
    beyond, excess = area * (stretch > max_stretch), area * (stretch.clamp(max=16) - 1).clamp(min=0)
    collapsed = ~(det > LEAST_DET) / FIXED  # counted in units, which no sum of areas overflows
    whole, beyond, excess, collapsed = chart_sums(torch.stack((area, beyond, excess, collapsed), 1), chart, charts).T
    return (beyond > STRETCHED_SHARE * whole) | (excess > MEAN_STRETCH * whole) | (collapsed > 0)


def chart_sums(values: Tensor, chart: Tensor, charts: int) -> Tensor:
    """Sums [charts, ...] float64 of `values` [N, ...] per chart, in fixed point; sums at most about 1; chart: [N]
    int64."""
    total = torch.zeros(charts, *values.shape[1:], dtype=torch.int64, device=chart.device)
    return total.index_add_(0, chart, (values * FIXED).to(torch.int64)).to(torch.float64) / FIXED


def open_halves(unwrap_mesh: UnwrapMesh, layout: Layout, face: Tensor) -> Tensor:
    """Unsewn half-edges [N] int64, chart borders, of the faces `face` [M] int64; layout: corner [F, 3], sewn [E]."""
    inside = torch.zeros(3 * len(layout.chart), dtype=torch.bool, device=face.device)
    inside[unwrap_mesh.half[layout.sewn].flatten()] = True
    half = (3 * face[:, None] + torch.arange(3, device=face.device)).flatten()
    return half[~inside[half]]
