"""Puts pictures onto the base colour of the surface that they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, cos, log2, radians
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.color import to_bytes
from ...core.progress import Progress, in_background, scaled
from ...core.vectors import unit
from ...material import Material, Texture, TexturedMesh, UVMap
from ...mesh.connectivity.topology import area_vectors, check_mesh
from ...mesh.uv.check import signed_areas
from ...ops.nearest_texel import nearest_texel
from ...render.camera import Camera
from ..texels import Samples, band_samples, band_starts, unit_square
from .fit import CameraFit, FitOptions, fit_camera
from .light import ColorMatch, matched
from .picture import Picture, Seen

# Share of the seen pixels with outward faces from which the winding is trusted.
ORIENTED = 0.97
# Depth tolerance in pixels' widths, on a surface that faces the camera.
BIAS = 1.5
GUTTER = 8  # texels around a chart that take its new colours
RAISE_FROM = 1.3  # pixels per texel, each way, from which the atlas is enlarged
SOLID_FROM, SOLID_TO = 0.6, 0.98  # matte
SAMPLES_A_SECOND = 600_000
Warn = Callable[[str], None]


@dataclass(frozen=True)
class ProjectOptions:
    """strength: share of the picture's colour, 0 to 1, where it is seen best.

    full_angle, last_angle: degrees between the surface's normal and the direction to the camera up to which the picture
    counts fully, and from which it does not.  feather: width of the blend at outlines, steps in depth and the matte's
    edge, as a share of the picture's side.
    color_match: see `matched`.  max_texture: texels a side up to which the texture is enlarged where the picture has
    more detail; 0 keeps its size.
    """

    strength: float = 1.0
    full_angle: float = 50.0
    last_angle: float = 75.0
    feather: float = 0.012
    color_match: ColorMatch = "light"
    max_texture: int = 4096

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"ProjectOptions.strength: expected 0 to 1, got {self.strength}")
        if not 0 <= self.full_angle < self.last_angle <= 90:
            raise ValueError(
                f"ProjectOptions: expected 0 <= full_angle < last_angle <= 90, got {self.full_angle}, {self.last_angle}"
            )
        if not 0 <= self.feather <= 0.5:
            raise ValueError(f"ProjectOptions.feather: expected 0 to 0.5 of the picture's side, got {self.feather}")
        if self.color_match not in get_args(ColorMatch):
            raise ValueError(f"ProjectOptions.color_match: expected {get_args(ColorMatch)}, got {self.color_match!r}")
        if not 0 <= self.max_texture <= 8192:
            raise ValueError(f"ProjectOptions.max_texture: expected 0 to 8192 texels, got {self.max_texture}")


@torch.no_grad()
def project_pictures(
    mesh: TexturedMesh,
    pictures: Sequence[tuple[Picture, Camera]],
    options: ProjectOptions = ProjectOptions(),
    *,
    on_warning: Warn | None = None,
    progress: Progress | None = None,
) -> TexturedMesh:
    """Returns `mesh` with the pictures on its base colour; all else, other textures too, is the very same.

    mesh: vertices [V, 3], faces [F, 3] with texture coordinates, world units, z up.  pictures: each with the camera
    that took it, as from `fit_camera`, on any device.

    A texel takes a picture's colour by the product of: the angle (see `ProjectOptions`), whether it is seen (its
    depth against a drawn one, with a tolerance that grows with the slope), the distance to outlines and to steps in
    depth, and the matte. Several pictures are averaged by the squares of their weights. Gutters follow their charts.
    Texels that no picture reaches keep their bytes, unless the texture is enlarged. Base colour factors are multiplied
    into a texture that changes; a material without one gets one.
    Faces that share a part of the texture share what is put there.
    on_warning: called with a line for a picture that reaches nothing.
    progress: called with the fraction done; may raise, to cancel. Deterministic.
    Raises ValueError without texture coordinates.
    """
    check_mesh(mesh.mesh)
    if mesh.uv is None:
        raise ValueError("mesh: expected texture coordinates to project onto, got none; unwrap it first")
    if not pictures or len(mesh.mesh.faces) == 0 or options.strength == 0:
        return mesh
    maps = [m.base_color_texture for m in mesh.materials if m.base_color_texture is not None]
    side = max([1024, *(texture.image.shape[0] for texture in maps)])

    def work(report: Progress) -> TexturedMesh:
        device, layers = mesh.mesh.vertices.device, []
        for number, (picture, camera) in enumerate(pictures):
            layers.append(_Layer.of(mesh, picture.to(device), camera, options))
            report(0.4 * (number + 1) / len(pictures))
        materials = list(mesh.materials)
        for number, material in enumerate(materials):
            materials[number] = _painted(mesh, number, material, layers, options)
            report(0.4 + 0.6 * (number + 1) / len(materials))
        if on_warning is not None:
            _warn(layers, on_warning)
        return replace(mesh, materials=tuple(materials))

    return in_background(work, progress, 2.0 + side * side / SAMPLES_A_SECOND)


def project_found(
    mesh: TexturedMesh,
    pictures: Sequence[Picture],
    fitting: FitOptions = FitOptions(),
    options: ProjectOptions = ProjectOptions(),
    *,
    on_warning: Warn | None = None,
    progress: Progress | None = None,
) -> tuple[TexturedMesh, list[CameraFit]]:
    """Finds the camera of each picture and puts on `mesh` those whose fit is good; see the two functions.

    Returns the mesh, the very same if no fit is good, and the fits in the pictures' order.
    """
    fits, share = [], 0.7 / max(1, len(pictures))
    for number, picture in enumerate(pictures):
        fits.append(fit_camera(mesh, picture, fitting, progress=scaled(progress, number * share, share)))
    good = [(picture, fit.camera) for picture, fit in zip(pictures, fits, strict=True) if fit.good]
    rest = scaled(progress, 0.7, 0.3)
    return project_pictures(mesh, good, options, on_warning=on_warning, progress=rest), fits


@dataclass(eq=False)
class _Layer:
    """A picture ready to be read: colours and weight [4, N, N], what is seen, whether the winding tells the outside."""

    values: Tensor
    seen: Seen
    oriented: bool
    options: ProjectOptions
    reached: Tensor | int = 0

    @classmethod
    def of(cls, mesh: TexturedMesh, picture: Picture, camera: Camera, options: ProjectOptions) -> _Layer:
        seen = Seen.of(mesh.mesh, picture, camera)
        color = matched(mesh, picture, seen, options.color_match)
        width = max(1.0, options.feather * picture.side)
        weight = _smooth((seen.border - 1) / width) * _smooth((picture.matte - SOLID_FROM) / (SOLID_TO - SOLID_FROM))
        face = seen.face[seen.face >= 0]
        normal = area_vectors(mesh.mesh.vertices, mesh.mesh.faces.long()[face]).float()
        facing = (seen.view.rotate_to_eye(normal.T)[2] < 0).float().mean() if len(face) else 0.0
        values = torch.cat([color, weight[..., None]], -1).permute(2, 0, 1).contiguous()
        return cls(values, seen, float(facing) >= ORIENTED, options)

    def read(self, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Colour [P, 3] and weight [P] of the picture at points [P, 3] with outward unit normals [P, 3]."""
        place, distance = self.seen.pixels(points)
        side = self.seen.face.shape[0]
        column, row = (place.long()).clamp(0, side - 1)
        facing = (normals * self.seen.view.towards_eye(points.T).T).sum(1)
        facing = (facing if self.oriented else facing.abs()).clamp(0, 1)
        slope = (1 - facing.square()).clamp_min(0).sqrt() / facing.clamp_min(0.05)
        bias = BIAS * self.seen.spread * distance * (1 + slope)
        # A pixel's depth is that of its centre: the tolerance covers what a slope runs within it.
        visible = (distance <= self.seen.depth[row, column] + bias) & torch.isfinite(self.seen.depth[row, column])
        inside = ((place >= 0) & (place < side)).all(0)
        full, last = (cos(radians(a)) for a in (self.options.full_angle, self.options.last_angle))
        grid = (place.T * 2 / side - 1)[None, None]
        found = F.grid_sample(self.values[None], grid, padding_mode="border", align_corners=False)[0, :, 0]
        weight = found[3] * _smooth((facing - last) / (full - last)) * (visible & inside)
        self.reached = self.reached + (weight > 0.5).sum()
        return found[:3].T, weight

    def density(self, faces: Tensor) -> int:
        """Pixels with weight whose face is in the mask `faces` [F]."""
        here = (self.seen.face >= 0) & (self.values[3] > 0)
        return int(faces[self.seen.face[here]].sum())


def _painted(
    mesh: TexturedMesh, number: int, material: Material, layers: Sequence[_Layer], options: ProjectOptions
) -> Material:
    """Material `number` of `mesh` with the pictures on its base colour."""
    mine = mesh.material_rows == number
    if not any(layer.density(mine) for layer in layers):
        return material
    which = mine.nonzero().flatten()
    uv_map, which = unit_square(mesh, which)
    old = material.base_color_texture
    given = 0 if old is None else max(old.image.shape[:2])
    side = _resolution(uv_map, which, layers, given, options)
    image, weight, covered = _drawn(mesh, which, uv_map, side, layers)
    if not bool((weight > 0).any()):
        return material
    image, weight = _with_gutter(image, weight, covered)
    weight = weight * options.strength
    base = _enlarged(old, side, image)
    factor = image.new_tensor(material.base_color_factor)
    if bool((factor < 1).any()):
        base = to_bytes(base.float() / 255 * factor)
    mixed = to_bytes(torch.lerp(base.float() / 255, image, weight[..., None]))
    made = torch.where(weight[..., None] > 0, mixed, base)
    # Files hold base colour and alpha in one image, read one way.
    like = old or material.alpha_texture or Texture(made, ("clamp", "clamp"))
    texture = replace(like, image=made)
    return replace(material, base_color_texture=texture, base_color_factor=(1.0, 1.0, 1.0))


def _resolution(uv_map: UVMap, which: Tensor, layers: Sequence[_Layer], given: int, options: ProjectOptions) -> int:
    """Texels a side for the pictures' detail: `given` doubled until a texel is about a pixel, at most `max_texture`."""
    area, side = signed_areas(uv_map.uv.view(-1, 3, 2).double()).abs(), max(given, 1)
    ratio = 0.0
    for layer in layers:
        here = layer.seen.face[(layer.seen.face >= 0) & (layer.values[3] > 0)]
        count = torch.bincount(here, minlength=int(which.max()) + 1)[which]
        # Faces seen in part or at a slant would lower the mean: those that count are seen whole and straight.
        texels = (area * (count > 0)).sum() * side * side
        ratio = max(ratio, float((count.sum() / texels.clamp_min(1e-9)).sqrt()))
    if given == 0:
        return int(min(options.max_texture or 1024, 2 ** max(8, ceil(log2(max(ratio, 1))))))
    if ratio < RAISE_FROM or given >= options.max_texture:
        return given
    return max(given, min(options.max_texture, given * 2 ** ceil(log2(ratio) - 0.2)))


def _drawn(
    mesh: TexturedMesh, which: Tensor, uv_map: UVMap, side: int, layers: Sequence[_Layer]
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour [R, R, 3] and weight [R, R] of the pictures at each texel, and the mask [R, R] of those with a face."""
    device, supersample = which.device, 2 if side <= 4096 else 1
    color, weight = torch.zeros(side * side, 3, device=device), torch.zeros(side * side, device=device)
    covered = torch.zeros(side * side, dtype=torch.bool, device=device)
    faces = mesh.mesh.faces.long()[which]
    normals = unit(area_vectors(mesh.mesh.vertices, faces).float())
    for start in band_starts(side, supersample, device):
        samples = band_samples(uv_map, side, supersample, start, backend="auto")
        covered[samples.texels] |= samples.covered()
        found, weights = _averaged(mesh, faces, normals, samples, layers)
        color[samples.texels], weight[samples.texels] = found, weights
    return color.view(side, side, 3), weight.view(side, side), covered.view(side, side)


def _averaged(
    mesh: TexturedMesh, faces: Tensor, normals: Tensor, samples: Samples, layers: Sequence[_Layer]
) -> tuple[Tensor, Tensor]:
    """Per texel: mean colour [T, 3] of the layers and weight [T]."""
    corners = mesh.mesh.vertices[faces[samples.face]]
    points = (corners * samples.weights[..., None]).sum(1)
    facing = normals[samples.face]
    if mesh.normals is not None:
        smooth = unit((mesh.normals[faces[samples.face]] * samples.weights[..., None]).sum(1))
        facing = torch.where((smooth * facing).sum(1, keepdim=True) > 0.3, smooth, facing)
    total, left = points.new_zeros(len(points), 4), points.new_ones(len(points))
    for layer in layers:
        color, weight = layer.read(points, facing)
        total = total + torch.cat([color, torch.ones_like(color[:, :1])], 1) * weight.square()[:, None]
        left = left * (1 - weight)
    color = total[:, :3] / total[:, 3:].clamp_min(1e-12)
    if mesh.vertex_colors is not None:
        tint = (mesh.vertex_colors[faces[samples.face]] * samples.weights[..., None]).sum(1)[:, :3]
        color = (color / tint.clamp_min(0.02)).clamp(0, 1)
    weight = (1 - left)[:, None]
    means, _ = samples.means(torch.cat([color * weight, weight], 1), torch.ones_like(samples.face, dtype=torch.bool))
    return means[:, :3] / means[:, 3:].clamp_min(1e-9), means[:, 3]


def _with_gutter(color: Tensor, weight: Tensor, covered: Tensor) -> tuple[Tensor, Tensor]:
    """Colour [R, R, 3] and weight [R, R], with those of the nearest covered texel in the gutter of each chart."""
    nearest = nearest_texel(covered).long()
    side = covered.shape[1]
    place = torch.arange(side, device=covered.device)
    away = torch.maximum((nearest // side - place[:, None]).abs(), (nearest % side - place).abs())
    nearest = nearest.flatten()
    spread = weight.flatten()[nearest] * (away.flatten() <= GUTTER)
    return color.view(-1, 3)[nearest].view_as(color), spread.view_as(weight)


def _enlarged(old: Texture | None, side: int, like: Tensor) -> Tensor:
    """The base colour [R, R, 3] uint8 at `side` texels; the very image if it has them, white without one."""
    if old is None:
        return torch.full((side, side, 3), 255, dtype=torch.uint8, device=like.device)
    image = old.image.to(like.device)
    if tuple(image.shape[:2]) == (side, side):
        return image
    mode = {"mode": "nearest"} if old.filter == "nearest" else {"mode": "bilinear", "align_corners": False}
    larger = F.interpolate(image.permute(2, 0, 1)[None].float() / 255, (side, side), **mode)
    return to_bytes(larger[0].permute(1, 2, 0)).contiguous()


def _smooth(t: Tensor) -> Tensor:
    """Hermite's step from 0 at t = 0 to 1 at t = 1."""
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def _warn(layers: Sequence[_Layer], on_warning: Warn) -> None:
    for number, layer in enumerate(layers, 1):
        if int(layer.reached) == 0:
            on_warning(f"picture {number} reaches no texel: its camera does not see a textured surface")
