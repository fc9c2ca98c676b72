"""Draws a UV layout: charts, edges, overlaps, stretch, flipped faces and what lies outside the texture."""

from __future__ import annotations

import torch
from torch import Tensor

from ..material import TexturedMesh
from ..mesh.uv.check import UvReport, chart_labels, check_uv, covered_texels, l2_stretch, signed_areas, solid_faces
from ..values import Mesh

PAPER, GRID, OUTSIDE = (0.96, 0.96, 0.96), (0.90, 0.90, 0.90), (0.78, 0.78, 0.80)  # sRGB
OVERLAP, SPARSE, DENSE = (0.90, 0.05, 0.10), (0.80, 0.33, 0.02), (0.10, 0.35, 0.85)
MARGIN = 1 / 8  # shown around the unit square if UVs leave it, as a share of its side
GOLDEN_TURN = 0.618034
OVERLAP_SHARE = 0.8
TINT, TINT_OCTAVES = 0.75, 2.0  # strongest tint, reached at a stretch of 4 or 1/4
EDGE, BORDER = 0.72, 0.38  # brightness of a line between two faces, and around a chart
LEAST_EDGES_TEXELS = 20.0  # mean texels a face below which lines between faces would hide the charts
HATCH = 8  # period in pixels of the hatch on flipped faces


@torch.no_grad()
def draw_uv_atlas(mesh: TexturedMesh, size: int, material: int = 0) -> tuple[Tensor, UvReport]:
    """Draws the UV layout of one material, [size, size, 3] float32 sRGB with v up; returns it with its metrics.

    Each chart has a soft colour; faces with fewer texels than the mean are tinted orange, with more, blue. Red: two or
    more faces overlap. Hatched: flipped faces. Thin dark lines: edges; thick ones: chart borders. If UVs leave
    [0, 1], the unit square is shown with a darker margin of MARGIN around it.
    mesh: with uv [U, 2]; material_ids select the faces.  The metrics are those of `check_uv` at `size`.
    Deterministic. Raises ValueError without uv, for a material out of range or without faces, and for sizes below 16.
    """
    if not 16 <= size <= 8192:
        raise ValueError(f"size: expected 16 to 8192 pixels, got {size}")
    surface, uv, uv_faces = _layout(mesh, material)
    report = check_uv(surface, uv, uv_faces, size)
    corners = uv.double().nan_to_num(0.0, 0.0, 0.0)[uv_faces]
    margin = MARGIN if report.outside else 0.0
    shown = (corners + margin) / (1 + 2 * margin)
    count, owner = covered_texels(shown, size)
    chart = chart_labels(uv_faces, len(uv))
    image = _paper(size, margin, uv.device)
    colors = _tinted(_chart_colors(chart), surface, corners)
    drawn = owner >= 0
    image[drawn] = colors[owner[drawn]]
    diagonal = torch.arange(size, device=uv.device)
    hatch = (diagonal[:, None] + diagonal) % HATCH < 2
    image[drawn & hatch & (signed_areas(corners) < 0)[owner.clamp(min=0)]] *= BORDER
    overlapping = count > 1
    image[overlapping] = torch.lerp(image[overlapping], image.new_tensor(OVERLAP), OVERLAP_SHARE)
    if int(drawn.sum()) >= LEAST_EDGES_TEXELS * len(uv_faces):
        image[_lines(owner) & drawn] *= EDGE
    image[_lines(torch.where(drawn, chart[owner.clamp(min=0)], -1)) & drawn] *= BORDER
    return image, report


def atlas_lines(report: UvReport) -> list[str]:
    """The figures of a layout as text, a line a topic."""
    return [
        f"{report.charts:,} charts, {report.faces:,} faces",
        f"{report.overlapping_texels:,} overlapping texels, {report.flipped:,} flipped faces",
        f"{report.outside:,} UV vertices outside the texture, {report.zero_area:,} faces without UV area",
        f"{report.covered:.1%} of the texture filled",
        f"stretch {report.stretch_median:.2f} median, {report.stretch_p99:.2f} at 99 % (1: even)",
        f"{report.gutter_texels} texels between charts, {report.border_texels} to the border",
    ]


def _layout(mesh: TexturedMesh, material: int) -> tuple[Mesh, Tensor, Tensor]:
    """The faces of `material`, as (mesh, uv [U, 2], uv_faces [N, 3] int64)."""
    if mesh.uv is None:
        raise ValueError("mesh: expected UV coordinates, got none; unwrap it first")
    if not 0 <= material < len(mesh.materials):
        raise ValueError(f"material: expected 0 to {len(mesh.materials) - 1}, got {material}")
    faces = mesh.mesh.faces
    uv_faces = mesh.uv_rows.long()
    if mesh.material_ids is not None:
        chosen = (mesh.material_ids == material).nonzero().squeeze(1)
        faces, uv_faces = faces[chosen], uv_faces[chosen]
    elif material:
        faces, uv_faces = faces[:0], uv_faces[:0]
    if not len(faces):
        raise ValueError(f"material: expected one with faces, got {material}, which no face uses")
    used, rows = uv_faces.unique(return_inverse=True)
    if not 0 <= int(used[0]) <= int(used[-1]) < len(mesh.uv):
        raise ValueError(f"uv_faces: expected rows 0 to {len(mesh.uv) - 1}, got {int(used[0])} to {int(used[-1])}")
    return Mesh(mesh.mesh.vertices, faces), mesh.uv[used], rows


def _paper(size: int, margin: float, device: torch.device) -> Tensor:
    """The empty texture [size, size, 3]: a light square with lines at quarters, and its darker margin."""
    place = ((torch.arange(size, device=device) + 0.5) / size) * (1 + 2 * margin) - margin
    inside = (place >= 0) & (place <= 1)
    step = (1 + 2 * margin) / size
    line = inside & ((place * 4).remainder(1) < 4 * step)
    image = torch.tensor(OUTSIDE, device=device).expand(size, size, 3).clone()
    square = inside[:, None] & inside
    image[square] = image.new_tensor(PAPER)
    image[square & (line.flip(0)[:, None] | line)] = image.new_tensor(GRID)
    return image


def _chart_colors(chart: Tensor) -> Tensor:
    """Soft colours [F, 3] of the faces of charts [F]: hues a golden turn apart, in the order of the charts."""
    number = chart.unique(return_inverse=True)[1]
    hue = (number * GOLDEN_TURN).remainder(1)[:, None] * 6
    wave = ((hue + hue.new_tensor([0, 4, 2])).remainder(6) - 3).abs() - 1
    return (0.72 + 0.22 * wave.clamp(0, 1)).float()


def _tinted(colors: Tensor, surface: Mesh, corners: Tensor) -> Tensor:
    """`colors` [F, 3] with the tint of each face's stretch; corners: [F, 3, 2] float64."""
    points = surface.vertices.double()[surface.faces.long()]
    stretch = torch.ones_like(points[:, 0, 0])
    stretch[solid_faces(points)] = l2_stretch(points, corners)[0]
    octaves = stretch.log2().clamp(-TINT_OCTAVES, TINT_OCTAVES)[:, None].float()
    tint = torch.where(octaves > 0, colors.new_tensor(SPARSE), colors.new_tensor(DENSE))
    return torch.lerp(colors, tint, octaves.abs() * (TINT / TINT_OCTAVES))


def _lines(label: Tensor) -> Tensor:
    """Mask [H, W] where `label` [H, W] differs to the right or below, or is negative to the left or above."""
    found = torch.zeros_like(label, dtype=torch.bool)
    found[:, :-1] |= label[:, :-1] != label[:, 1:]
    found[:-1] |= label[:-1] != label[1:]
    found[:, 1:] |= label[:, :-1] < 0
    found[1:] |= label[:-1] < 0
    return found
