"""UV layout metrics: overlaps, flips, L2 stretch, packing and gutters, measured exactly by rasterisation.

Shares no code with `unwrap`. Texels are counted by rasterising every face with the baker's fill rule: a texel belongs
to a face that contains its centre; a centre on an edge belongs to one of the edge's two sides (top-left rule).

Letters: V vertices, F faces, U UV vertices, P texels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.checks import check_tensor
from ...ops.raster.reference import PIXELS_A_STEP, edge_functions, evaluate, face_boxes, pixel_centers
from ...values import Mesh

FACE_TYPES = (torch.int32, torch.int64)
WIDEST_GUTTER = 16  # search limit in texels


@dataclass(frozen=True)
class UvReport:
    """Metrics of a UV layout on a texture of the given size.

    overlapping_texels: texels with their centre in two or more faces.  flipped: faces with clockwise corners.
    zero_area: faces with area in 3D and none in UV space.  outside: UV vertices outside [0, 1] or not finite.
    stretch_median, stretch_p99: of the faces' L2 stretch (Sander et al., Texture Mapping Progressive Meshes, 2001),
    1 for an isometry at the layout's mean scale, faces weighted equally. area_stretch_*: weighted by 3D area.
    Faces without 3D area are ignored; those without UV area have stretch inf.
    packed_area: total UV area of all faces in the unit square.  covered: fraction of texels covered by a face.
    charts: number of sets of faces connected by edges in UV space.  gutter_texels: fewest free texels between two
    charts, in any of the eight directions, at most WIDEST_GUTTER.  border_texels: fewest between a chart and the
    texture's border.
    """

    faces: int
    charts: int
    overlapping_texels: int
    flipped: int
    zero_area: int
    outside: int
    stretch_median: float
    stretch_p99: float
    area_stretch_median: float
    area_stretch_p99: float
    packed_area: float
    covered: float
    gutter_texels: int
    border_texels: int


def check_uv(mesh: Mesh, uv: Tensor, uv_faces: Tensor, size: int) -> UvReport:
    """Measures a UV layout of `mesh` on a texture of `size` x `size` texels.

    uv: [U, 2] float32, v upwards, so that an unflipped face is counter-clockwise.  uv_faces: [F, 3] int32 or int64,
    rows of `uv`, corners in the order of mesh.faces.  Runs on the tensors' device; uses about 100 bytes per face and 40
    per texel. Deterministic. Raises TypeError or ValueError for other shapes or dtypes, or indices out of range.
    """
    check_tensor(uv, "uv", (None, 2), torch.float32)
    check_tensor(uv_faces, "uv_faces", (len(mesh.faces), 3), FACE_TYPES)
    if not 1 <= size <= 1 << 15:
        raise ValueError(f"size: expected 1 to {1 << 15} texels, got {size}")
    if len(uv_faces) and not 0 <= int(uv_faces.min()) <= int(uv_faces.max()) < len(uv):
        raise ValueError(f"uv_faces: expected rows 0 to {len(uv) - 1}, got {uv_faces.min()} to {uv_faces.max()}")
    outside = int((~((uv >= 0) & (uv <= 1)).all(dim=1)).sum())
    corners = uv.double().nan_to_num(0.0, 0.0, 0.0)[uv_faces.long()]
    signed = signed_areas(corners)
    stretch, weight = l2_stretch(mesh.vertices.double()[mesh.faces.long()], corners)
    label = chart_labels(uv_faces, len(uv))
    count, owner = covered_texels(corners, size)
    chart = torch.where(owner >= 0, label[owner.clamp(min=0)] if len(label) else owner, -1)
    return UvReport(
        faces=len(uv_faces),
        charts=len(label.unique()),
        overlapping_texels=int((count > 1).sum()),
        flipped=int((signed < 0).sum()),
        zero_area=int(stretch.isinf().sum()),
        outside=outside,
        stretch_median=_quantile(stretch, torch.ones_like(weight), 0.5),
        stretch_p99=_quantile(stretch, torch.ones_like(weight), 0.99),
        area_stretch_median=_quantile(stretch, weight, 0.5),
        area_stretch_p99=_quantile(stretch, weight, 0.99),
        packed_area=float(signed.abs().sum()),
        covered=float((count > 0).double().mean()),
        gutter_texels=_narrowest_gutter(chart),
        border_texels=_border(chart),
    )


def signed_areas(corners: Tensor) -> Tensor:
    """Signed areas [F] of triangles `corners` [F, 3, 2] float64, positive if counter-clockwise."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2


def l2_stretch(surface: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """L2 stretch [N] and 3D area [N] of the N faces with 3D area; surface: [F, 3, 3], corners: [F, 3, 2], float64.

    sqrt((G^2 + g^2) / 2) times the layout's mean scale; G, g: singular values of the map from UV to 3D.
    """
    solid = solid_faces(surface)
    surface, corners = surface[solid], corners[solid]
    q1, q2 = surface[:, 1] - surface[:, 0], surface[:, 2] - surface[:, 0]
    area = torch.linalg.cross(q1, q2).norm(dim=1) / 2
    p1, p2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    uv_area = signed_areas(corners).abs()
    # The trace of the metric of the map UV -> 3D, from the edge vectors of both triangles.
    trace = (
        q1.square().sum(dim=1) * p2.square().sum(dim=1)
        - 2 * (q1 * q2).sum(dim=1) * (p1 * p2).sum(dim=1)
        + q2.square().sum(dim=1) * p1.square().sum(dim=1)
    ) / (2 * uv_area).square()
    scale = (uv_area.sum() / area.sum()).sqrt()
    return torch.where(uv_area > 0, (trace / 2).sqrt() * scale, torch.inf), area


def solid_faces(surface: Tensor) -> Tensor:
    """Mask [F] of the triangles `surface` [F, 3, 3] float64 with area, those that `l2_stretch` measures."""
    q1, q2 = surface[:, 1] - surface[:, 0], surface[:, 2] - surface[:, 0]
    area = torch.linalg.cross(q1, q2).norm(dim=1) / 2
    return area > 1e-14 * torch.maximum(q1.square().sum(dim=1), q2.square().sum(dim=1))


def chart_labels(uv_faces: Tensor, vertex_count: int) -> Tensor:
    """Chart label [F] int64 of each face: the lowest face connected by UV edges; uv_faces: [F, 3] integers."""
    faces = uv_faces.long()
    ends = torch.stack((faces, faces.roll(-1, dims=1)), dim=2).view(-1, 2)
    _, edge = (ends.amin(dim=1) * vertex_count + ends.amax(dim=1)).unique(return_inverse=True)
    label = torch.arange(len(faces), device=faces.device)
    edges = int(edge.max()) + 1 if len(edge) else 0
    while True:
        lowest = label.new_full((edges,), len(faces)).scatter_reduce(0, edge, label.repeat_interleave(3), "amin")
        reached = torch.minimum(label, lowest[edge].view(-1, 3).amin(dim=1)) if edges else label
        reached = torch.minimum(reached, reached[reached])
        if torch.equal(reached, label):
            return label
        label = reached


def covered_texels(corners: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(number of faces covering each texel, lowest of them or -1), both [size, size] int64; corners: [F, 3, 2]."""
    count = torch.zeros(size * size, dtype=torch.int64, device=corners.device)
    owner = torch.full_like(count, len(corners))
    for texel, face in _inside(corners, size):
        count += torch.bincount(texel, minlength=size * size)
        owner.scatter_reduce_(0, texel, face, "amin")
    return count.view(size, size), torch.where(count > 0, owner, -1).view(size, size)


def _inside(corners: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields all pairs (texel [P], covering face [P]) int64, in chunks of PIXELS_A_STEP candidates."""
    flat = 2 * corners - 1
    clip = torch.cat((flat, torch.zeros_like(flat[..., :1]), torch.ones_like(flat[..., :1])), dim=2)
    centers_x, centers_y = pixel_centers((size, size), corners.device)
    boxes = face_boxes(clip, (size, size))
    edges, det = edge_functions(clip)
    edges = edges * det.sign()[:, None, None]
    top_left = (edges[..., 0] > 0) | ((edges[..., 0] == 0) & (edges[..., 1] < 0))
    ends = (boxes[:, 2] * boxes[:, 3] * (det != 0)).cumsum(dim=0)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, PIXELS_A_STEP):
        item = torch.arange(start, min(start + PIXELS_A_STEP, total), device=corners.device)
        face = torch.searchsorted(ends, item, right=True)
        x0, y0, columns, rows = boxes[face].unbind(dim=1)
        local = item - (ends[face] - columns * rows)
        x, y = x0 + local % columns, y0 + local // columns
        values = evaluate(edges[face], centers_x[x], centers_y[y])
        inside = ((values > 0) | ((values == 0) & top_left[face])).all(dim=1)
        yield (y * size + x)[inside], face[inside]


def _quantile(values: Tensor, weight: Tensor, q: float) -> float:
    """Weighted quantile of values [N], weight [N]: the lowest value whose cumulative weight reaches q; NaN if empty."""
    if not len(values):
        return float("nan")
    ordered, order = values.sort()
    reached = weight[order].cumsum(dim=0)
    return float(ordered[torch.searchsorted(reached, q * reached[-1:]).clamp(max=len(values) - 1)])


def _narrowest_gutter(chart: Tensor) -> int:
    """Fewest free texels between different charts [H, W] int64 (-1: free), by Chebyshev distance."""
    height, width = chart.shape
    for distance in range(1, WIDEST_GUTTER + 1):
        for dy in range(distance + 1):
            for dx in range(-distance, distance + 1):
                if max(dy, abs(dx)) != distance or dy >= height or abs(dx) >= width:
                    continue
                left, right = max(0, -dx), max(0, dx)
                a = chart[: height - dy, left : width - right]
                b = chart[dy:, right : width - left]
                if bool(((a != b) & (a >= 0) & (b >= 0)).any()):
                    return distance - 1
    return WIDEST_GUTTER


def _border(chart: Tensor) -> int:
    """Fewest free rows or columns between a chart and the border of `chart` [H, W]; WIDEST_GUTTER if all are free."""
    used = chart >= 0
    if not bool(used.any()):
        return WIDEST_GUTTER
    sides = [lines.nonzero().flatten() for lines in (used.any(dim=0), used.any(dim=1))]
    return min(min(int(s[0]), n - 1 - int(s[-1])) for s, n in zip(sides, (chart.shape[1], chart.shape[0]), strict=True))
