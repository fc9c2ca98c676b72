"""Light and exposure taken out of a picture, by comparing it with the base colour that the surface has."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.color import to_linear, to_srgb
from ...core.vectors import unit
from ...material import TexturedMesh
from ...mesh.connectivity.topology import area_vectors
from ...render.surface_materials import SurfaceMaterials
from .picture import Picture, Seen

ColorMatch = Literal["none", "exposure", "light", "local"]
# Pixels that count: this far from outlines, as a share of the picture's side, and on the object.
INSET, INSIDE = 0.01, 0.9
SAMPLES = 1 << 16  # of the fit of the light
ROUNDS = 6
# Light is not taken below or above these multiples of its median: shadows and glints are the picture's.
LIGHTS = (0.4, 2.5)
DARKEST = 0.01  # linear; below it a base colour tells nothing of the light
BLUR = 0.06  # of the side: standard deviation of what "local" calls slow


def matched(mesh: TexturedMesh, picture: Picture, seen: Seen, how: ColorMatch) -> Tensor:
    """Returns the picture's colours [N, N, 3] float32 sRGB, as base colours.

    how: "none" leaves them. "exposure" multiplies each channel by one number, so that the median agrees with the base
    colour of `mesh`. "light" divides by a light that depends linearly on the normal (Ramamoorthi and Hanrahan 2001, its
    first two bands), fitted to picture / base colour by iteratively reweighted least squares, of one colour, then sets
    the exposure. "local" also adds the slow part of the difference from the base colour, so that only detail is new.
    """
    if how == "none":
        return picture.color
    here = (seen.face >= 0) & (picture.matte > INSIDE) & (seen.border > INSET * picture.side)
    pixels = here.flatten().nonzero().flatten()
    if len(pixels) < 64:
        return picture.color
    chosen = pixels[:: max(1, len(pixels) // SAMPLES)]
    base, normal = _looks(mesh, seen, chosen)
    color = to_linear(picture.color)
    taken = color.view(-1, 3)[chosen]
    if how in ("light", "local"):
        light = _light(to_linear(base), normal, taken)
        every = (seen.face >= 0).flatten().nonzero().flatten()
        shade = torch.ones_like(seen.depth).view(-1)
        _, normals = _looks(mesh, seen, every, colors=False)
        shade[every] = _shade(light, normals)
        middle = shade[pixels].median()
        shade = (shade / middle).clamp(*LIGHTS).view_as(seen.depth)
        color = color / shade[..., None]
        taken = color.view(-1, 3)[chosen]
    color = color * _exposure(to_linear(base), taken)
    color = to_srgb(color)
    return color if how != "local" else _slow_from(mesh, seen, color, here)


def _looks(mesh: TexturedMesh, seen: Seen, pixels: Tensor, colors: bool = True) -> tuple[Tensor, Tensor]:
    """Base colour (sRGB) [P, 3] and normal towards the eye [P, 3] behind `pixels` [P]."""
    face, bary = seen.face.view(-1)[pixels], seen.bary.view(-1, 3)[pixels]
    base = SurfaceMaterials.of(mesh).read(face, bary.T.contiguous())[:3].T if colors else bary
    faces = mesh.mesh.faces.long()[face]
    flat = unit(area_vectors(mesh.mesh.vertices, faces).float())
    if mesh.normals is not None:
        smooth = unit((mesh.normals[faces] * bary[..., None]).sum(1))
        flat = torch.where((smooth * flat).sum(1, keepdim=True).abs() > 0.3, smooth, flat)
    towards = seen.view.rotate_to_eye(flat.T)[2] > 0
    return base.clamp(0, 1), torch.where(towards[:, None], -flat, flat)


def _light(base: Tensor, normal: Tensor, color: Tensor) -> Tensor:
    """The light [4] float64 (constant, x, y, z): color [P, 3] = base [P, 3] x light, linear, where most agree."""
    base, color = base.double().clamp_min(DARKEST).mean(1), color.double().mean(1)
    known = F.pad(normal.double(), (1, 0), value=1.0)
    weight = torch.ones_like(base)
    for _ in range(ROUNDS):
        rows = known * (base * weight)[:, None]
        square = (rows[:, :, None] * rows[:, None, :]).sum(0)
        square = square + torch.diag(square.diagonal().mean() * square.new_tensor([1e-6, 1e-2, 1e-2, 1e-2]))
        light = torch.linalg.solve(square, (rows * (color * weight)[:, None]).sum(0))
        error = (color - base * (known * light).sum(1)).abs()
        weight = (1 / (error + 0.5 * error.median() + 1e-4)).sqrt()
    return light


def _shade(light: Tensor, normal: Tensor) -> Tensor:
    light = light.to(normal)
    return (light[0] + (normal * light[1:]).sum(1)).clamp_min(1e-4)


def _exposure(base: Tensor, color: Tensor) -> Tensor:
    """One factor for all channels [1]: the median of base / color over the pixels."""
    ratio = (base.mean(1).clamp_min(DARKEST) / color.mean(1).clamp_min(DARKEST)).median()
    return ratio.clamp(*LIGHTS).reshape(1)


def _slow_from(mesh: TexturedMesh, seen: Seen, color: Tensor, here: Tensor) -> Tensor:
    """`color` [N, N, 3] with the slow part of its difference from the base colour, over the mask `here`, added."""
    pixels = here.flatten().nonzero().flatten()
    base, _ = _looks(mesh, seen, pixels)
    change = torch.zeros_like(color).view(-1, 3)
    change[pixels] = base - color.view(-1, 3)[pixels]
    layers = torch.cat([change, here.view(-1, 1).to(change)], 1).T.reshape(1, 4, *here.shape)
    small = F.interpolate(layers, (64, 64), mode="area")
    reach = torch.arange(-12, 13, device=color.device) / (BLUR * 64)
    bell = torch.exp(-reach.square() / 2).to(color)
    small = F.conv2d(small, bell.view(1, 1, -1, 1).expand(4, 1, -1, 1), padding=(12, 0), groups=4)
    small = F.conv2d(small, bell.view(1, 1, 1, -1).expand(4, 1, 1, -1), padding=(0, 12), groups=4)
    slow = F.interpolate(small[:, :3] / small[:, 3:].clamp_min(1e-4), here.shape, mode="bilinear", align_corners=False)
    return (color + slow[0].permute(1, 2, 0)).clamp(0, 1)
