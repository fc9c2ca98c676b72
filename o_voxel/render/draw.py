"""A scene and a camera to a picture: rasterise, shade what is seen, average the samples of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from ..core.color import to_linear, to_srgb
from ..core.grid import Vector3
from ..ops.raster import Raster, rasterize
from .ambient import occlusion, occlusion_reach, smoothed
from .camera import Camera, View
from .ground import ground_darkness
from .light import StudioLight
from .scene import Scene
from .shade import shade_pbr, tone_map
from .vectors import bands, cross, dot, for_each, spans, unit

CREASE_COS = 0.77  # a corner whose direction is more than about 40 degrees off its face is an edge, not a curve
PAPER_TOP, PAPER_BOTTOM, VIGNETTE = 0.90, 0.80, 0.10  # sRGB
PAPER_TINT = (0.985, 0.995, 1.01)


@dataclass(frozen=True, eq=False)
class Rendering:
    """A picture, row 0 on top, float32.

    color: [H, W, 3] sRGB in [0, 1], over the style's background; straight (not premultiplied) where that is None.
    alpha: [H, W] coverage in [0, 1].  normal: [H, W, 3] unit world normals that face the eye, 0 where empty.
    depth: [H, W] world distance along the line of sight, of the nearest sample; inf where empty.
    """

    color: Tensor
    alpha: Tensor
    normal: Tensor
    depth: Tensor


@dataclass(frozen=True)
class Style:
    """background: "studio" (a soft grey gradient), an sRGB colour in [0, 1], or None for transparent.

    supersample: samples along each side of a pixel.  smooth: vertex normals, with creases kept; False shows faces.
    occlusion: darken corners.  ground: a soft shadow on the paper below, where there is a background.
    backend: the rasteriser's, see `rasterize`.
    """

    background: str | Vector3 | None = "studio"
    supersample: int = 2
    smooth: bool = True
    occlusion: bool = True
    ground: bool = True
    backend: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.background, str) and self.background != "studio":
            raise ValueError(f'Style.background: expected "studio", an RGB tuple or None, got {self.background!r}')
        if not 1 <= self.supersample <= 8:
            raise ValueError(f"Style.supersample: expected 1 to 8, got {self.supersample}")


@torch.no_grad()
def draw(scene: Scene, camera: Camera, size: tuple[int, int], light: StudioLight, style: Style) -> Rendering:
    """One view of a scene, (H, W) pixels, on the scene's device. Deterministic.

    Translucent surfaces (alpha below 1) let the background through; those of a `textured_scene` also let through the
    nearest opaque surface behind them. No gradients.
    """
    view, side, device = camera.view(scene.bounds, size), style.supersample, scene.vertices.device
    samples = (size[0] * side, size[1] * side)
    clip = view.to_clip(scene.vertices)
    raster = rasterize(clip, scene.faces, samples, backend=style.backend)
    layers = _shade_samples(scene, raster, view, light, camera.yaw_deg)
    if scene.surface_materials is not None and bool(scene.surface_materials.clear.any()):
        solid = (~scene.surface_materials.clear).nonzero().flatten()
        raster = rasterize(clip, scene.faces[solid], samples, backend=style.backend)
        face = torch.cat((solid, solid.new_tensor([-1])))[raster.face.long()]  # -1, empty, reads the last row: -1
        behind = _shade_samples(scene, replace(raster, face=face), view, light, camera.yaw_deg)
        through = 1 - layers[1]
        layers = (layers[0] + through * behind[0], layers[1] + through * behind[1], *layers[2:])
    color, alpha, normal, depth = _resolve(layers, size, side)
    reach = occlusion_reach(scene.bounds.radius)
    light_left = occlusion(depth, normal, view, reach) if style.occlusion else None

    def compose(rows: slice) -> None:
        part = color[:, rows]
        if light_left is not None:
            part = part * smoothed(light_left, depth, reach, rows)
        if style.background is None:
            part = part / alpha[rows].clamp(min=1e-6)
        else:
            paper = _background(style.background, size, rows, part)
            if style.ground:
                paper = paper * (1 - ground_darkness(scene.shadow, scene.bounds, view, size, rows))
            part = part + (1 - alpha[rows]) * paper
        color[:, rows] = to_srgb(part)

    for_each(bands(size, device), device, compose)
    return Rendering(color.permute(1, 2, 0).contiguous(), alpha, normal.permute(1, 2, 0).contiguous(), depth)


def _shade_samples(
    scene: Scene, raster: Raster, view: View, light: StudioLight, yaw_deg: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every sample: display-linear premultiplied colour [3, S], alpha [1, S], world normal [3, S], depth [1, S]."""
    face, bary = raster.face.flatten(), raster.bary.view(-1, 3)
    color, alpha, normals, depth = (bary.new_zeros(channels, len(face)) for channels in (3, 1, 3, 1))
    depth.fill_(torch.inf)
    covered = (face >= 0).nonzero().flatten()

    def shade(span: slice) -> None:
        pixel = covered[span]
        position, normal, base, rest = _surface(
            scene, face.index_select(0, pixel), bary.index_select(0, pixel).T.contiguous(), view
        )
        towards_eye = view.towards_eye(position)
        normal = _facing(normal, towards_eye)
        shaded = tone_map(shade_pbr(light, yaw_deg, normal, towards_eye, to_linear(base), rest[:2]))
        distance = view.to_eye(position)[2:]
        for layer, values in ((color, shaded * rest[2:]), (alpha, rest[2:]), (normals, normal), (depth, distance)):
            layer.index_copy_(1, pixel, values)

    for_each(spans(len(covered), face.device), face.device, shade)
    return color, alpha, normals, depth


def _resolve(
    layers: tuple[Tensor, Tensor, Tensor, Tensor], size: tuple[int, int], side: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`_shade_samples`, side x side a pixel, to pixels: mean colour [3, H, W] and alpha [H, W], normal, least depth."""
    height, width = size
    blocks = [layer.view(-1, height, side, width, side) for layer in layers]
    color, alpha, normal, depth = (torch.empty_like(block[:, :, 0, :, 0]) for block in blocks)

    def resolve(rows: slice) -> None:
        parts = [[block[:, rows, i, :, j] for i in range(side) for j in range(side)] for block in blocks]
        color[:, rows], alpha[:, rows] = (sum(samples) / side**2 for samples in parts[:2])
        normal[:, rows] = unit(sum(parts[2]))
        depth[:, rows] = reduce(torch.minimum, parts[3])

    for_each(bands(size, color.device), color.device, resolve)
    return color, alpha[0], normal, depth[0]


def _surface(scene: Scene, face: Tensor, bary: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Position, normal, base colour, and metallic, roughness and alpha, at `bary` in `face` [P]; all but it [3, P]."""
    rows = scene.faces.index_select(0, face).T.contiguous()
    a, b, c = corners = [scene.vertices.index_select(0, row).T.contiguous() for row in rows]
    position = _blend(corners, bary)
    flat = unit(cross(unit(b - a), unit(c - a)))
    flat = torch.where(dot(flat, view.towards_eye(position)) < 0, -flat, flat)
    normal = flat
    if scene.normals is not None:
        axes = [scene.normals.index_select(0, row).T.contiguous() for row in rows]
        along = [dot(axis, flat) for axis in axes]
        normal = [torch.where(s.abs() < CREASE_COS, flat, axis * s.sign()) for axis, s in zip(axes, along, strict=True)]
        normal = unit(_blend(normal, bary))
    if scene.surface_materials is not None:
        return position, normal, *scene.surface_materials.read(face, bary).split(3)
    if scene.owner is not None:
        base, rest = scene.attrs.index_select(0, scene.owner.index_select(0, face)).T.split(3)
        return position, normal, base, rest
    base, rest = zip(*(scene.attrs.index_select(0, row).T.split(3) for row in rows), strict=True)
    return position, normal, _blend(base, bary), _blend(rest, bary)


def _blend(corners: Sequence[Tensor], bary: Tensor) -> Tensor:
    """Values [C, P] at `bary` [3, P] between those of three corners, each [C, P]."""
    return corners[0] * bary[0] + corners[1] * bary[1] + corners[2] * bary[2]


def _facing(normal: Tensor, towards_eye: Tensor) -> Tensor:
    """Smooth normals [3, P] bent back to the outline: near it the curve turns away before its faces do."""
    return unit(normal - dot(normal, towards_eye).clamp(max=0) * towards_eye)


def _background(background: str | Vector3, size: tuple[int, int], rows: slice, like: Tensor) -> Tensor:
    """Linear RGB [3, rows, W]: a colour, or the studio's paper, lighter above and darker to the corners."""
    if background != "studio":
        return to_linear(like.new_tensor(background))[:, None, None]
    row, column = (torch.arange(n, dtype=like.dtype, device=like.device) for n in size)
    row = row[rows, None]
    fall, x = (row + 0.5) / size[0], (2 * column + 1) / size[1] - 1
    paper = PAPER_TOP + (PAPER_BOTTOM - PAPER_TOP) * fall * fall * (3 - 2 * fall)
    paper = paper * (1 - VIGNETTE * (x * x + (2 * fall - 1) ** 2) / 2)
    # Half a step of noise (J. Jimenez' interleaved gradient noise), or 8 bits show the gradient as rings.
    noise = (52.9829189 * (0.00583715 * row + 0.06711056 * column).frac()).frac()
    return to_linear(paper + (noise - 0.5) / 255) * like.new_tensor(PAPER_TINT)[:, None, None]
