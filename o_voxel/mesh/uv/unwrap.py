"""A UV atlas for any triangle mesh: cut into charts, each laid flat, sewn together where that fits, and packed.

The steps are one file each: `charts` grows them, `parameterize` lays them flat, `merge_charts` sews neighbours
together,
`ops.pack` puts them into the square. Half-edge h = 3 f + k and corner c = 3 f + k as in `topology`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...core.progress import Progress, scaled, silent
from ...core.vectors import length
from ...material import UVMap
from ...ops.pack_charts import Outlines, Packing, pack
from ...values import Mesh
from ..connectivity.topology import ValidMesh, area_vectors, check_mesh, following
from .merge_charts import MergeLimits, merge_charts
from .parameterize import Layout, UnwrapMesh, build_unwrap_mesh, chart_sums, find_faults, open_halves, parameterize
from .segment import ChartLimits, DualGraph, segment_charts, smooth_charts, split_charts

SIZES = (16, 32768)
EXTENT = 0.45  # longest side of a chart's box, of that of the atlas
FILL = 0.75  # of the atlas, about, to know the size of a texel beforehand
NO_AREA = 1e-14  # of a face without area, of its longest edge squared
CUTS = 3  # of single faces from charts that lie over themselves
SPLITS = 4  # of broken charts, each with half the limits of the one before; then every face alone


@torch.no_grad()
def unwrap(
    mesh: Mesh,
    *,
    resolution: int = 2048,
    gutter: int = 2,
    max_stretch: float = 1.5,
    backend: str = "auto",
    progress: Progress | None = None,
) -> UVMap:
    """A UV map of `mesh` in [0, 1]^2 where no two faces overlap, none is turned over, and all are about to scale.

    mesh: closed or open, with any number of faces at an edge; best cleaned and simplified before. Charts end at edges
    of more than two faces, or of two that wind differently, so faces that lie on each other come apart.
    resolution: side of the square texture, 16 to 32768.  gutter: free texels between charts on it; at the texture's
    border half as many.
    max_stretch: L2 stretch (1: isometric; Sander et al. 2001) that all but half a percent of each chart stays below;
    lower values give more charts.
    progress: called with the part done, 0 to 1; may raise, to cancel.
    Faces without area get one point inside the texture of a face with area that shares a vertex with them, of others a
    common point in a corner: they show no other texel and take no room.

    Runs where the mesh is, except that charts are packed on the CPU. backend: of the relaxation, "triton" (GPU),
    "numba" (CPU), "reference" (plain torch, slow), or "auto"; the other steps take the best that works.
    The same bytes each time on one device with one backend; others differ by rounding, which may decide where a chart
    ends. Apple's GPU has no float64: there the work goes to the CPU and back.
    Raises ValueError for vertices that are not finite, faces of vertices not there, a parameter out of range, or more
    charts than have room.
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    _check_parameters(resolution, gutter, max_stretch)
    if faces.device.type == "mps":
        options = {"resolution": resolution, "gutter": gutter, "max_stretch": max_stretch, "backend": backend}
        found = unwrap(ValidMesh(mesh.vertices.cpu(), mesh.faces.cpu()), **options, progress=progress)
        return UVMap(*(part.to(faces.device) for part in (found.uv, found.faces, found.chart)))
    report = progress or silent
    solid = _has_area(mesh.vertices, faces).nonzero().squeeze(1)
    if not len(solid):
        zero = torch.zeros(min(len(faces), 1), 2, device=faces.device)
        return UVMap(zero, torch.zeros_like(mesh.faces), torch.zeros_like(mesh.faces[:, 0]))
    texel = 1 / (resolution * math.sqrt(FILL))
    unwrap_mesh = build_unwrap_mesh(ValidMesh(mesh.vertices, faces[solid]), texel)
    report(0.05)
    chart = segment_charts(unwrap_mesh.geometry, unwrap_mesh.graph)
    chart = smooth_charts(chart, unwrap_mesh.geometry, unwrap_mesh.faces, unwrap_mesh.graph)
    report(0.15)
    layout = _lay_flat(unwrap_mesh, chart, max_stretch, backend)
    report(0.25)
    limits = MergeLimits(EXTENT, max_stretch, gutter * texel)
    layout = merge_charts(unwrap_mesh, layout, limits, backend=backend, progress=scaled(report, 0.25, 0.45))
    layout, packing = _pack(unwrap_mesh, layout, resolution, gutter, scaled(report, 0.7, 0.3))
    found = _with_flat_faces(mesh, solid, _uv_map(layout, packing, resolution))
    report(1.0)
    return found


def _check_parameters(resolution: int, gutter: int, max_stretch: float) -> None:
    if not SIZES[0] <= resolution <= SIZES[1]:
        raise ValueError(f"resolution: expected {SIZES[0]} to {SIZES[1]} texels, got {resolution}")
    if not 0 <= gutter <= resolution // 8:
        raise ValueError(f"gutter: expected 0 to {resolution // 8} texels, an eighth of the texture, got {gutter}")
    if not max_stretch >= 1.02:
        raise ValueError(f"max_stretch: expected 1.02 or more, got {max_stretch}")


def _has_area(vertices: Tensor, faces: Tensor) -> Tensor:
    """Faces [F] bool with more area than comes from rounding."""
    corners = vertices[faces].double()
    longest = (corners.roll(-1, dims=1) - corners).square().sum(dim=2).amax(dim=1)
    return length(area_vectors(vertices, faces)) > NO_AREA * longest


def _lay_flat(unwrap_mesh: UnwrapMesh, chart: Tensor, max_stretch: float, backend: str) -> Layout:
    """Charts [F] laid flat; those that do not lie well are cut, and in the end grown anew with ever smaller limits."""
    layout = parameterize(unwrap_mesh, chart, backend=backend)
    for attempt in range(CUTS + SPLITS + 1):
        broken, fault = find_faults(unwrap_mesh, layout, max_stretch)
        cut = len(fault) > 0 and attempt < CUTS
        if not cut:
            fault = torch.cat((fault, broken[layout.chart].nonzero().squeeze(1)))
        if not len(fault):
            break
        touched = torch.zeros_like(broken).index_fill_(0, layout.chart[fault], True)
        face = touched[layout.chart].nonzero().squeeze(1)
        if cut:
            # Where a chart lies over itself it mostly does with a face or two, which become charts of their own.
            alone = layout.chart.index_copy(0, fault, len(unwrap_mesh.faces) + fault)
            layout = parameterize(
                unwrap_mesh, split_charts(alone, *unwrap_mesh.graph.ends), layout, face, backend=backend
            )
        else:
            share = 0.5 ** (attempt - CUTS + 1) if attempt < CUTS + SPLITS else 0.0
            layout = _split(unwrap_mesh, layout, face, share, backend)
    return layout


def _split(unwrap_mesh: UnwrapMesh, layout: Layout, face: Tensor, share: float, backend: str) -> Layout:
    """The faces `face` [N] int64, whole charts, in smaller ones: within `share` of the usual limits; 0: each alone."""
    number = torch.full_like(layout.chart, -1).scatter_(0, face, torch.arange(len(face), device=face.device))
    graph = unwrap_mesh.graph
    inside = layout.chart[graph.first] == layout.chart[graph.second]
    inside = (inside & (number[graph.first] >= 0)).nonzero().squeeze(1) if share else face[:0]
    first, second = number[graph.first[inside]], number[graph.second[inside]]
    usual = ChartLimits()
    limits = replace(usual, cone_deg=usual.cone_deg * share, extent=usual.extent * share)
    label = segment_charts(unwrap_mesh.geometry.select(face), DualGraph(first, second, graph.length[inside]), limits)
    chart = layout.chart.index_copy(0, face, label + int(layout.chart.max()) + 1)
    return parameterize(unwrap_mesh, chart, layout, face, backend=backend)


def _pack(
    unwrap_mesh: UnwrapMesh, layout: Layout, resolution: int, gutter: int, progress: Progress | None
) -> tuple[Layout, Packing]:
    """The layout with charts numbered from 0 in the order of their lowest faces, and where they go."""
    while True:
        layout = replace(layout, chart=layout.chart.unique(return_inverse=True)[1])
        packing = pack(_outlines(unwrap_mesh, layout), resolution, gutter, progress=progress)
        progress = None
        if not packing.overlaps.any():
            return layout, packing
        # The border winds around a texel twice without crossing itself, as it may where a chart touches itself.
        overlaps = torch.from_numpy(packing.overlaps).to(layout.chart.device)
        layout = _split(unwrap_mesh, layout, overlaps[layout.chart].nonzero().squeeze(1), 0.0, "auto")


def _outlines(unwrap_mesh: UnwrapMesh, layout: Layout) -> Outlines:
    """The borders of the charts 0 to K - 1."""
    charts = int(layout.chart.max()) + 1
    half = open_halves(unwrap_mesh, layout, torch.arange(len(layout.chart), device=layout.chart.device))
    chart, order = layout.chart[half // 3].sort(stable=True)
    half = half[order]
    corner = layout.corner.flatten()
    a, b = (layout.position[corner[h]] for h in (half, following(half)))
    first = torch.zeros(charts + 1, dtype=torch.int64, device=half.device)
    first[1:] = torch.bincount(chart, minlength=charts).cumsum(0)
    area = chart_sums(unwrap_mesh.geometry.area, layout.chart, charts)
    return Outlines(*(part.cpu().numpy() for part in (a, b, first, area)))


def _uv_map(layout: Layout, packing: Packing, resolution: int) -> UVMap:
    """The packed layout, without UV vertices that no face uses."""
    used = torch.zeros(len(layout.position), dtype=torch.bool, device=layout.chart.device)
    used[layout.corner.flatten()] = True
    owner = torch.zeros_like(layout.source)
    owner[layout.corner.flatten()] = layout.chart.repeat_interleave(3)
    turn, offset = (torch.from_numpy(part).to(owner.device)[owner[used]] for part in (packing.turn, packing.offset))
    x, y = layout.position[used].unbind(dim=1)
    cosine, sine = turn.unbind(dim=1)
    turned = torch.stack((x * cosine - y * sine, x * sine + y * cosine), dim=1)
    uv = (turned * packing.scale + offset) / resolution
    return UVMap(uv.float(), (used.cumsum(0) - 1)[layout.corner], layout.chart)


def _with_flat_faces(mesh: Mesh, solid: Tensor, found: UVMap) -> UVMap:
    """`found`, of the faces `solid` [N] int64 only, with the others at a point of their neighbours."""
    dtype = mesh.faces.dtype
    if len(solid) == len(mesh.faces):
        return UVMap(found.uv, found.faces.to(dtype), found.chart.to(dtype))
    faces = mesh.faces.long()
    by = torch.full((len(mesh.vertices),), len(solid), dtype=torch.int64, device=faces.device)
    row = torch.arange(len(solid), device=faces.device).repeat_interleave(3)
    by.scatter_reduce_(0, faces[solid].flatten(), row, "amin")
    neighbor = by[faces].amin(dim=1)
    middle = torch.cat((found.uv[found.faces].mean(dim=1), found.uv.new_zeros(1, 2)))
    corners = (len(found.uv) + neighbor)[:, None].expand(-1, 3)
    corners = corners.index_copy(0, solid, found.faces).to(dtype)
    chart = torch.cat((found.chart, found.chart.new_zeros(1)))[neighbor].index_copy(0, solid, found.chart)
    return _compact(UVMap(torch.cat((found.uv, middle)), corners, chart.to(dtype)))


def _compact(found: UVMap) -> UVMap:
    used = torch.zeros(len(found.uv), dtype=torch.bool, device=found.uv.device)
    used[found.faces.flatten().long()] = True
    number = (used.cumsum(0) - 1).to(found.faces.dtype)
    return UVMap(found.uv[used], number[found.faces.long()], found.chart)
