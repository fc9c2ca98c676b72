"""UV unwrapping of any triangle mesh into an atlas: segment, parameterise, merge charts, pack.

The steps are `segment`, `parameterize`, `merge_charts` and `ops.pack_charts`. Half-edge h = 3 f + k and corner
c = 3 f + k as in `topology`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...core.progress import Progress, in_background, scaled
from ...core.vectors import length
from ...material import UVMap
from ...ops.pack_charts import Outlines, Packing, pack
from ...values import Mesh
from ..connectivity.topology import ValidMesh, area_vectors, check_mesh, following
from .merge_charts import MergeLimits, merge_charts
from .parameterize import Layout, UnwrapMesh, build_unwrap_mesh, chart_sums, find_faults, open_halves, parameterize
from .segment import ChartLimits, DualGraph, segment_charts, smooth_charts, split_charts

SIZES = (16, 32768)
EXTENT = 0.45  # maximum side of a chart's box, relative to the atlas
FILL = 0.75  # expected packing density, to estimate the texel size
NO_AREA = 1e-14  # area below which a face counts as empty, relative to its longest edge squared
FACES_A_SECOND = 20_000  # for the estimate of the time, on two CPU cores
CUTS = 3  # attempts to cut overlapping faces off charts
SPLITS = 4  # attempts to re-segment invalid charts, halving the limits each time; then one chart per face


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
    """Computes a UV map in [0, 1]^2 without overlaps or flipped faces, of nearly uniform texel density.

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces; open, closed or non-manifold; best cleaned and
    simplified before. Charts end at non-manifold edges and at edges of inconsistent winding, so coincident faces
    separate. Returns uv [U, 2] float32, faces [F, 3] and chart [F] of the dtype of mesh.faces.
    resolution: side of the square texture in texels, 16 to 32768.  gutter: free texels between charts; half as many at
    the texture's border.
    max_stretch: upper bound of the L2 stretch (1: isometric; Sander et al. 2001) of all but half a percent of each
    chart's area; lower values give more charts.
    progress: called with the fraction done, 0 to 1; may raise, to cancel.
    A face without area maps to a single point inside the UVs of an adjacent face with area, or else to a common corner
    point; it takes no atlas space.

    Runs on the mesh's device; packing runs on the CPU. backend: of the relaxation, "triton" (GPU), "numba" (CPU),
    "reference" (plain torch, slow), or "auto"; the other steps use the best available. Deterministic per device and
    backend; others differ by rounding, which may move chart borders. On MPS, which has no float64, runs on the CPU.
    Raises ValueError for non-finite vertices, face indices out of range, a parameter out of range, or too many charts
    for the texture.
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    _check_parameters(resolution, gutter, max_stretch)
    if faces.device.type == "mps":
        options = {"resolution": resolution, "gutter": gutter, "max_stretch": max_stretch, "backend": backend}
        found = unwrap(ValidMesh(mesh.vertices.cpu(), mesh.faces.cpu()), **options, progress=progress)
        return UVMap(*(part.to(faces.device) for part in (found.uv, found.faces, found.chart)))
    sizes, seconds = (resolution, gutter, max_stretch), 1 + len(faces) / FACES_A_SECOND
    return in_background(lambda report: _unwrapped(mesh, faces, sizes, backend, report), progress, seconds)


def _unwrapped(mesh: Mesh, faces: Tensor, sizes: tuple[int, int, float], backend: str, report: Progress) -> UVMap:
    """`unwrap` of a checked mesh. faces: [F, 3] int64, its faces.  sizes: resolution, gutter, max_stretch."""
    resolution, gutter, max_stretch = sizes
    solid = _has_area(mesh.vertices, faces).nonzero().squeeze(1)
    if not len(solid):
        zero = torch.zeros(min(len(faces), 1), 2, device=faces.device)
        return UVMap(zero, torch.zeros_like(mesh.faces), torch.zeros_like(mesh.faces[:, 0]))
    texel = 1 / (resolution * math.sqrt(FILL))
    unwrap_mesh = build_unwrap_mesh(ValidMesh(mesh.vertices, faces[solid]), texel)
    report(0.05)
    chart = segment_charts(unwrap_mesh.geometry, unwrap_mesh.graph)
    report(0.1)
    chart = smooth_charts(chart, unwrap_mesh.geometry, unwrap_mesh.faces, unwrap_mesh.graph)
    report(0.15)
    layout = _parameterize_valid(unwrap_mesh, chart, max_stretch, backend)
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
    """Mask [F] bool of the faces with more area than rounding errors explain."""
    corners = vertices[faces].double()
    longest = (corners.roll(-1, dims=1) - corners).square().sum(dim=2).amax(dim=1)
    return length(area_vectors(vertices, faces)) > NO_AREA * longest


def _parameterize_valid(unwrap_mesh: UnwrapMesh, chart: Tensor, max_stretch: float, backend: str) -> Layout:
    """Parameterises charts [F] int64; cuts off overlapping faces, then re-segments invalid charts in smaller ones."""
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
            # Overlaps mostly involve one or two faces, which become charts of their own.
            alone = layout.chart.index_copy(0, fault, len(unwrap_mesh.faces) + fault)
            layout = parameterize(
                unwrap_mesh, split_charts(alone, *unwrap_mesh.graph.ends), layout, face, backend=backend
            )
        else:
            share = 0.5 ** (attempt - CUTS + 1) if attempt < CUTS + SPLITS else 0.0
            layout = _resegment(unwrap_mesh, layout, face, share, backend)
    return layout


def _resegment(unwrap_mesh: UnwrapMesh, layout: Layout, face: Tensor, share: float, backend: str) -> Layout:
    """Re-segments the faces `face` [N] int64, whole charts, with limits scaled by `share`; 0: one chart per face."""
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
    """Packs the charts: (layout with charts renumbered 0 to K - 1, packing)."""
    while True:
        layout = replace(layout, chart=layout.chart.unique(return_inverse=True)[1])
        packing = pack(_outlines(unwrap_mesh, layout), resolution, gutter, progress=progress)
        progress = None
        if not packing.overlaps.any():
            return layout, packing
        # A border that touches itself may wind around a texel twice without crossing itself.
        overlaps = torch.from_numpy(packing.overlaps).to(layout.chart.device)
        layout = _resegment(unwrap_mesh, layout, overlaps[layout.chart].nonzero().squeeze(1), 0.0, "auto")


def _outlines(unwrap_mesh: UnwrapMesh, layout: Layout) -> Outlines:
    """Border segments and areas of the charts 0 to K - 1, as NumPy arrays on the CPU."""
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
    """Applies the packing to the layout and drops unused UV vertices; uv: [U, 2] float32 in [0, 1]."""
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
    """Extends a UV map of the faces `solid` [N] int64 to all F faces; the others map to a point of a neighbour."""
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
    """Drops unused rows of uv [U, 2]."""
    used = torch.zeros(len(found.uv), dtype=torch.bool, device=found.uv.device)
    used[found.faces.flatten().long()] = True
    number = (used.cumsum(0) - 1).to(found.faces.dtype)
    return UVMap(found.uv[used], number[found.faces.long()], found.chart)
