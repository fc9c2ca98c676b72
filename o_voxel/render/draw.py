"""Renders a scene: rasterisation, deferred PBR shading, supersampling resolve, ambient occlusion, compositing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from ..core.color import to_linear, to_srgb
from ..core.grid import Vector3
from ..ops.raster import Raster, rasterize
from . import quick
from .ambient import occlusion, occlusion_reach, smoothed
from .camera import Camera, View
from .ground import ground_darkness
from .light import StudioLight
from .quick import Layers
from .scene import Scene
from .shade import shade_pbr, tone_map
from .vectors import bands, cross, dot, for_each, spans, unit

CREASE_COS = 0.77  # a vertex normal more than about 40 degrees off the face normal marks a crease
HOLES = 4  # surfaces drawn behind one with holes
PAPER_TOP, PAPER_BOTTOM, VIGNETTE = 0.90, 0.80, 0.10  # sRGB
PAPER_TINT = (0.985, 0.995, 1.01)


@dataclass(frozen=True, eq=False)
class Rendering:
    """Image buffers, row 0 on top, float32.

    color: [H, W, 3] sRGB in [0, 1], over the style's background; without one, straight (not premultiplied) alpha.
    alpha: [H, W] coverage in [0, 1].  normal: [H, W, 3] unit world normals facing the eye, 0 where empty.
    depth: [H, W] distance of the nearest sample along the line of sight, world units; inf where empty.
    """

    color: Tensor
    alpha: Tensor
    normal: Tensor
    depth: Tensor


@dataclass(frozen=True)
class Style:
    """background: "studio" (a soft grey gradient), an sRGB colour in [0, 1], or None for transparent.

    supersample: samples per pixel along each axis.  smooth: smooth shading that preserves creases; False: flat.
    occlusion: screen-space ambient occlusion.  ground: soft ground shadow, if there is a background.
    backend: of `rasterize`.
    quick: on the CPU, shade in numba where `quick.applies`: several times faster, equal up to rounding.
    """

    background: str | Vector3 | None = "studio"
    supersample: int = 2
    smooth: bool = True
    occlusion: bool = True
    ground: bool = True
    backend: str = "auto"
    quick: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.background, str) and self.background != "studio":
            raise ValueError(f'Style.background: expected "studio", an RGB tuple or None, got {self.background!r}')
        if not 1 <= self.supersample <= 8:
            raise ValueError(f"Style.supersample: expected 1 to 8, got {self.supersample}")


@torch.no_grad()
def draw(scene: Scene, camera: Camera, size: tuple[int, int], light: StudioLight, style: Style) -> Rendering:
    """Renders a scene to [H, W] pixels, `size` (H, W), on its device. Deterministic; no gradients.

    Translucent surfaces (alpha below 1) are blended over the background; those of a `textured_scene` also over what is
    behind them: BLEND over the nearest surface of another mode, the holes of MASK over up to HOLES surfaces.
    """
    view, side, device = camera.view(scene.bounds, size), style.supersample, scene.vertices.device
    samples = (size[0] * side, size[1] * side)
    clip = view.to_clip(scene.vertices)
    raster = rasterize(clip, scene.faces, samples, backend=style.backend)
    fast = style.quick and quick.applies(scene)
    shade = quick.shade_samples if fast else _shade_samples
    layers = shade(scene, raster, view, light, camera.yaw_deg)
    if scene.surface_materials is not None:
        layers = _with_layers_behind(scene, raster, layers, (clip, view, light, camera.yaw_deg, style.backend), shade)
    color, alpha, normal, depth = (quick.resolve if fast else _resolve)(layers, size, side)
    reach = occlusion_reach(scene.bounds.radius)
    visibility = occlusion(depth, normal, view, reach) if style.occlusion and not fast else None
    if style.occlusion and fast:
        quick.attenuate(color, depth, normal, view, reach)

    def compose(rows: slice) -> None:
        part = color[:, rows]
        if visibility is not None:
            part = part * smoothed(visibility, depth, reach, rows)
        if style.background is None:
            part = part / alpha[rows].clamp(min=1e-6)
        else:
            paper = _background(style.background, size, rows, part)
            if style.ground:
                paper = paper * (1 - ground_darkness(scene.shadow, scene.bounds, view, size, rows))
            part = part + (1 - alpha[rows]) * paper
        color[:, rows] = to_srgb(part)

    if fast and style.background is None:
        quick.encode(color, alpha)
    else:
        for_each(bands(size, device), device, compose)
    return Rendering(color.permute(1, 2, 0).contiguous(), alpha, normal.permute(1, 2, 0).contiguous(), depth)


def _with_layers_behind(
    scene: Scene,
    raster: Raster,
    layers: Layers,
    how: tuple[Tensor, View, StudioLight, float, str],
    shade: Callable[[Scene, Raster, View, StudioLight, float], Layers],
) -> Layers:
    """Adds what is seen through BLEND faces, once, and through the holes of MASK faces, HOLES times, to `layers`.

    how: clip-space vertices [V, 4], view, light, yaw in degrees and raster backend.  shade: of samples. A MASK face
    that shows a hole anywhere is left out of the passes behind it, so a surface of few, large faces can miss its own
    farther parts.
    """
    materials = scene.surface_materials
    clip, view, light, yaw_deg, backend = how
    dropped, size = materials.translucent, raster.face.shape
    blended = bool(dropped.any())
    if not blended and not bool(materials.cutout.any()):
        return layers
    for behind in range(HOLES):
        face = raster.face.flatten().long()
        holes = (face >= 0) & (layers[1][0] < 1) & materials.cutout[face.clamp(min=0)]
        pierced = torch.zeros_like(dropped).index_fill_(0, face[holes], True)
        if not bool(pierced.any()) and (behind or not blended):
            break
        dropped = dropped | pierced
        kept = torch.cat(((~dropped).nonzero().flatten(), face.new_tensor([-1])))  # face -1 (empty) is the last entry
        raster = rasterize(clip, scene.faces[kept[:-1]], tuple(size), backend=backend)
        seen = torch.where(layers[1] < 1, kept[raster.face.flatten().long()], -1)
        raster = replace(raster, face=seen.view(size))
        color, alpha, normal, depth = shade(scene, raster, view, light, yaw_deg)
        through, bare = 1 - layers[1], holes & (layers[1] == 0)
        layers = (
            layers[0] + through * color,
            layers[1] + through * alpha,
            torch.where(bare, normal, layers[2]),
            torch.where(bare, depth, layers[3]),
        )
    return layers


def _shade_samples(scene: Scene, raster: Raster, view: View, light: StudioLight, yaw_deg: float) -> Layers:
    """Shades S samples: premultiplied tone-mapped linear colour [3, S], alpha [1, S], normal [3, S], depth [1, S]."""
    face, bary = raster.face.flatten(), raster.bary.view(-1, 3)
    color, alpha, normals, depth = (bary.new_zeros(channels, len(face)) for channels in (3, 1, 3, 1))
    depth.fill_(torch.inf)
    covered = (face >= 0).nonzero().flatten()

    def shade(span: slice) -> None:
        pixel = covered[span]
        where = face.index_select(0, pixel), bary.index_select(0, pixel).T.contiguous()
        position, normal, base, rest = _surface(scene, *where, view)
        towards_eye = view.towards_eye(position)
        normal = _towards_silhouette(normal, towards_eye)
        shaded = shade_pbr(light, yaw_deg, normal, towards_eye, to_linear(base), rest[:2])
        emitted = None if scene.surface_materials is None else scene.surface_materials.light(*where)
        if emitted is not None:
            shaded = shaded * emitted[1] + emitted[0]
        shaded = tone_map(shaded)
        distance = view.to_eye(position)[2:]
        for layer, values in ((color, shaded * rest[2:]), (alpha, rest[2:]), (normals, normal), (depth, distance)):
            layer.index_copy_(1, pixel, values)

    for_each(spans(len(covered), face.device), face.device, shade)
    return color, alpha, normals, depth


def _resolve(layers: Layers, size: tuple[int, int], side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Resolves side x side samples: mean colour [3, H, W], alpha [H, W], normal [3, H, W], minimum depth [H, W]."""
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
    """Returns position, normal, base colour and (metallic, roughness, alpha), each [3, P], at `bary` in `face` [P]."""
    rows = scene.faces.index_select(0, face).T.contiguous()
    a, b, c = corners = [scene.vertices.index_select(0, row).T.contiguous() for row in rows]
    position = _blend(corners, bary)
    flat = unit(cross(unit(b - a), unit(c - a)))
    flat = torch.where(dot(flat, view.towards_eye(position)) < 0, -flat, flat)
    normal = None if scene.surface_materials is None else scene.surface_materials.normal(face, bary, flat)
    if normal is None and scene.normals is None:
        normal = flat
    elif normal is None:
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
    """Interpolates the values [C, P] of three corners at `bary` [3, P]."""
    return corners[0] * bary[0] + corners[1] * bary[1] + corners[2] * bary[2]


def _towards_silhouette(normal: Tensor, towards_eye: Tensor) -> Tensor:
    """Bends normals [3, P] that face away from the eye back to the silhouette (smooth normals near the outline)."""
    return unit(normal - dot(normal, towards_eye).clamp(max=0) * towards_eye)


def _background(background: str | Vector3, size: tuple[int, int], rows: slice, like: Tensor) -> Tensor:
    """Returns the background, linear RGB [3, rows, W]: a colour, or the studio gradient with vignette."""
    if background != "studio":
        return to_linear(like.new_tensor(background))[:, None, None]
    row, column = (torch.arange(n, dtype=like.dtype, device=like.device) for n in size)
    row = row[rows, None]
    fall, x = (row + 0.5) / size[0], (2 * column + 1) / size[1] - 1
    paper = PAPER_TOP + (PAPER_BOTTOM - PAPER_TOP) * fall * fall * (3 - 2 * fall)
    paper = paper * (1 - VIGNETTE * (x * x + (2 * fall - 1) ** 2) / 2)
    # Dither by half a step (J. Jimenez' interleaved gradient noise), to avoid banding in 8 bits.
    noise = (52.9829189 * (0.00583715 * row + 0.06711056 * column).frac()).frac()
    return to_linear(paper + (noise - 0.5) / 255) * like.new_tensor(PAPER_TINT)[:, None, None]
