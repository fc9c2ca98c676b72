"""A scene and a camera to a picture: rasterise, shade what is seen, average the samples of each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from ..grid import Vector3
from ..ops.raster import Raster, rasterize
from .camera import Camera, View
from .ground import ground_darkness
from .occlusion import occlusion
from .scene import Scene
from .shade import shade_pbr, to_linear, to_srgb, tone_map
from .studio import StudioLight
from .vectors import cross, dot, spans, unit

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


def draw(scene: Scene, camera: Camera, size: tuple[int, int], light: StudioLight, style: Style) -> Rendering:
    """One view of a scene, (H, W) pixels, on the scene's device. Deterministic.

    Translucent surfaces (alpha below 1) let the background through, not what is behind them.
    """
    side = style.supersample
    view = camera.view(scene.bounds, size)
    samples = (size[0] * side, size[1] * side)
    raster = rasterize(view.to_clip(scene.vertices), scene.faces, samples, backend=style.backend)
    layers = _shade_samples(scene, raster, view, light, camera.yaw_deg)
    means = avg_pool2d(layers[:7].view(1, 7, *samples), side)[0]
    depth = -max_pool2d(-layers[7].view(1, 1, *samples), side)[0, 0]
    color, alpha, normal = means[:3], means[3], unit(means[4:])
    if style.occlusion:
        color = color * occlusion(depth, normal, view, scene.bounds.radius)
    if style.background is None:
        color = color / alpha.clamp(min=1e-6)
    else:
        paper = _background(style.background, size, color)
        dark = ground_darkness(scene.shadow, scene.bounds, view, size) if style.ground else 0.0
        color = color + (1 - alpha) * (1 - dark) * paper
    return Rendering(to_srgb(color).permute(1, 2, 0).contiguous(), alpha, normal.permute(1, 2, 0).contiguous(), depth)


def _shade_samples(scene: Scene, raster: Raster, view: View, light: StudioLight, yaw_deg: float) -> Tensor:
    """Every sample [8, S]: display-linear premultiplied colour 0 to 2, alpha 3, world normal 4 to 6, depth 7."""
    face, bary = raster.face.flatten(), raster.bary.view(-1, 3)
    layers = bary.new_zeros(8, len(face))
    layers[7] = torch.inf
    covered = (face >= 0).nonzero().flatten()
    for span in spans(len(covered), face.device):
        pixel = covered[span]
        position, normal, attrs = _surface(scene, face[pixel].long(), bary[pixel].T.contiguous(), view)
        towards_eye = view.towards_eye(position)
        normal = _facing(normal, towards_eye)
        shaded = tone_map(shade_pbr(light, yaw_deg, normal, towards_eye, to_linear(attrs[:3]), attrs[3:5]))
        depth = view.to_eye(position)[2:]
        layers[:, pixel] = torch.cat((shaded * attrs[5], attrs[5:], normal, depth))
    return layers


def _surface(scene: Scene, face: Tensor, bary: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Position and normal [3, P] and attrs [6, P] at `bary` [3, P] in `face` [P]; the face itself faces the eye."""
    rows = scene.faces[face].long().T.contiguous()
    a, b, c = corners = [scene.vertices[row].T.contiguous() for row in rows]
    position = _blend(corners, bary)
    flat = unit(cross(unit(b - a), unit(c - a)))
    flat = torch.where(dot(flat, view.towards_eye(position)) < 0, -flat, flat)
    normal = flat
    if scene.normals is not None:
        axes = [scene.normals[row].T.contiguous() for row in rows]
        along = [dot(axis, flat) for axis in axes]
        normal = [torch.where(s.abs() < CREASE_COS, flat, axis * s.sign()) for axis, s in zip(axes, along, strict=True)]
        normal = unit(_blend(normal, bary))
    if scene.owner is not None:
        return position, normal, scene.attrs[scene.owner[face]].T
    return position, normal, _blend([scene.attrs[row].T for row in rows], bary)


def _blend(corners: list[Tensor], bary: Tensor) -> Tensor:
    """Values [C, P] at `bary` [3, P] between those of three corners, each [C, P]."""
    return corners[0] * bary[0] + corners[1] * bary[1] + corners[2] * bary[2]


def _facing(normal: Tensor, towards_eye: Tensor) -> Tensor:
    """Smooth normals [3, P] bent back to the outline: near it the curve turns away before its faces do."""
    return unit(normal - dot(normal, towards_eye).clamp(max=0) * towards_eye)


def _background(background: str | Vector3, size: tuple[int, int], like: Tensor) -> Tensor:
    """Linear RGB [3, H, W]: a colour, or the studio's paper, lighter above and darker to the corners."""
    if background != "studio":
        return to_linear(like.new_tensor(background))[:, None, None]
    y, x = (torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in size)
    fall = (y[:, None] + 1) / 2
    paper = PAPER_TOP + (PAPER_BOTTOM - PAPER_TOP) * fall * fall * (3 - 2 * fall)
    paper = paper * (1 - VIGNETTE * (x[None] ** 2 + y[:, None] ** 2) / 2)
    # Half a step of noise (J. Jimenez' interleaved gradient noise), or 8 bits show the gradient as rings.
    row, column = (torch.arange(n, dtype=like.dtype, device=like.device) for n in size)
    noise = (52.9829189 * (0.00583715 * row[:, None] + 0.06711056 * column).frac()).frac()
    paper = paper + (noise - 0.5) / 255
    return (to_linear(paper) * like.new_tensor(PAPER_TINT)[:, None, None]).clamp(0, 1)
