"""A scene and a camera to a picture: rasterise, shade what is seen, average the samples of each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..grid import Vector3
from ..ops.raster import Raster, rasterize
from .camera import Camera, View
from .scene import Scene
from .shade import shade_pbr, to_linear, to_srgb, tone_map
from .studio import StudioLight

CREASE_COS = 0.77  # a corner whose direction is more than about 40 degrees off its face is an edge, not a curve
PIXELS_A_STEP = 1 << 17
PAPER_TOP, PAPER_BOTTOM, VIGNETTE = 0.80, 0.58, 0.16


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
    backend: the rasteriser's, see `rasterize`.
    """

    background: str | Vector3 | None = "studio"
    supersample: int = 2
    smooth: bool = True
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
    samples = style.supersample
    height, width = size
    view = camera.view(scene.sphere, size)
    raster = rasterize(
        view.to_clip(scene.vertices), scene.faces, (height * samples, width * samples), backend=style.backend
    )
    layers = _shade_samples(scene, raster, view, light, camera.yaw_deg)
    color, alpha, normal, depth = (_blocks(layer, size, samples) for layer in layers)
    alpha = alpha.mean(dim=2)
    color = color.mean(dim=2)
    if style.background is None:
        color = color / alpha.clamp(min=1e-6)
    else:
        color = color + (1 - alpha) * _background(style.background, size, color)
    return Rendering(to_srgb(color), alpha[..., 0], normalize(normal.sum(dim=2), dim=-1), depth[..., 0].amin(dim=2))


def _blocks(samples: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """[H * side * W * side, C] samples by pixel: [H, W, side * side, C]."""
    height, width = size
    blocks = samples.view(height, side, width, side, -1).transpose(1, 2)
    return blocks.reshape(height, width, side * side, -1)


def _shade_samples(
    scene: Scene, raster: Raster, view: View, light: StudioLight, yaw_deg: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Display-linear premultiplied colour [S, 3], alpha [S, 1], normal [S, 3], depth [S, 1] of every sample."""
    face, bary = raster.face.flatten(), raster.bary.view(-1, 3)
    color, normals = torch.zeros_like(bary), torch.zeros_like(bary)
    alpha, depth = bary.new_zeros(len(face), 1), bary.new_full((len(face), 1), torch.inf)
    for pixel in (face >= 0).nonzero().flatten().split(PIXELS_A_STEP):
        position, normal, towards_eye, attrs = _surface(scene, face[pixel].long(), bary[pixel], view)
        base, metal_rough, opacity = to_linear(attrs[:, :3]), attrs[:, 3:5], attrs[:, 5:]
        shaded = tone_map(shade_pbr(light, yaw_deg, normal, towards_eye, base, metal_rough))
        color[pixel], alpha[pixel], normals[pixel] = shaded * opacity, opacity, normal
        depth[pixel] = view.to_eye(position)[:, 2:]
    return color, alpha, normals, depth


def _surface(scene: Scene, face: Tensor, bary: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Position, normal and direction to the eye, [P, 3], and attrs [P, 6] at `bary` [P, 3] in `face` [P]."""
    rows, weights = scene.faces[face].long(), bary[..., None]
    corners = scene.vertices[rows]
    position = (corners * weights).sum(dim=1)
    towards_eye = view.towards_eye(position)
    sides = normalize(corners[:, 1:] - corners[:, :1], dim=2, eps=1e-30)
    flat = normalize(torch.linalg.cross(sides[:, 0], sides[:, 1]), dim=1, eps=1e-30)
    flat = torch.where((flat * towards_eye).sum(dim=1, keepdim=True) < 0, -flat, flat)
    normal = flat if scene.normals is None else _smooth(flat, scene.normals[rows], weights, towards_eye)
    attrs = (scene.attrs[rows] * weights).sum(dim=1) if scene.owner is None else scene.attrs[scene.owner[face]]
    return position, normal, towards_eye, attrs


def _smooth(flat: Tensor, axes: Tensor, weights: Tensor, towards_eye: Tensor) -> Tensor:
    """Corner directions [P, 3, 3] of either sign, interpolated on the side of the face normals `flat` [P, 3]."""
    along = (axes * flat[:, None]).sum(dim=2, keepdim=True)
    corner = torch.where(along.abs() < CREASE_COS, flat[:, None], axes * along.sign())
    normal = normalize((corner * weights).sum(dim=1), dim=1)
    # Near an outline the curve turns away before its faces do; such a normal is bent back to the outline.
    away = (normal * towards_eye).sum(dim=1, keepdim=True).clamp(max=0)
    return normalize(normal - away * towards_eye, dim=1)


def _background(background: str | Vector3, size: tuple[int, int], like: Tensor) -> Tensor:
    """Linear RGB [H, W, 3]: a colour, or the studio's paper, lighter above and darker to the corners."""
    if background != "studio":
        return to_linear(like.new_tensor(background)).expand(*size, 3)
    y, x = (torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in size)
    fall = (y[:, None] + 1) / 2
    paper = PAPER_TOP + (PAPER_BOTTOM - PAPER_TOP) * fall * fall * (3 - 2 * fall)
    paper = paper * (1 - VIGNETTE * (x[None] ** 2 + y[:, None] ** 2) / 2)
    return (to_linear(paper[..., None]) * like.new_tensor([0.985, 0.995, 1.01])).clamp(0, 1)
