"""Textures, PBR materials, UV maps and textured meshes: frozen dataclasses.

Conventions. Texture coordinates are (u, v) with v up: v = 0 is the last row of an image and v = 1 its first; glTF's v
points down and is flipped in `files.meshes`. Texels, factors and vertex colours are in the texture's encoding (sRGB for
base colour) and are multiplied in it; loaders encode linear values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .core.checks import check_tensor
from .core.grid import Vector3
from .values import Mesh

Wrap = Literal["repeat", "clamp", "mirror"]
Filter = Literal["linear", "nearest"]
AlphaMode = Literal["OPAQUE", "MASK", "BLEND"]

# Bytes. Decoded alpha is slightly below 1 nearly everywhere; transparent materials are well below.
OPAQUE_FROM = 230
CLEAR_TO = 25
# Minimum share of non-opaque texels for the modes that cost renderers more.
SEEN_THROUGH = 0.01
# Maximum share of partly transparent texels among those, for MASK: antialiased rims of a cut-out.
IN_BETWEEN = 0.25


@dataclass(frozen=True, eq=False)
class Texture:
    """An image with its sampler.

    image: [H, W, C] uint8, row 0 at v = 1, C = 1 or 3.  wrap: modes along u and v, outside [0, 1].
    filter: "linear" is trilinear (bilinear on two mip levels); "nearest" samples the full-size image only.
    """

    image: Tensor
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    filter: Filter = "linear"

    def __post_init__(self) -> None:
        height, width, channels = check_tensor(self.image, "Texture.image", (None,) * 3, torch.uint8).shape
        if height < 1 or width < 1 or channels not in (1, 3):
            raise ValueError(f"Texture.image: expected [H >= 1, W >= 1, 1 or 3], got {list(self.image.shape)}")
        if len(self.wrap) != 2 or any(mode not in get_args(Wrap) for mode in self.wrap):
            raise ValueError(f"Texture.wrap: expected two of {get_args(Wrap)}, got {self.wrap!r}")
        if self.filter not in get_args(Filter):
            raise ValueError(f"Texture.filter: expected one of {get_args(Filter)}, got {self.filter!r}")


@dataclass(frozen=True, eq=False)
class Material:
    """Metallic-roughness PBR material. A factor multiplies its texture, if any; defaults are glTF's.

    Factors are in [0, 1]; `emissive_factor` and `alpha_cutoff` are only >= 0. Base colour, emissive and normal
    textures have three channels, the others one.
    alpha_mode: "OPAQUE" sets alpha to 1; "MASK" sets it to 0 below `alpha_cutoff`, else 1; "BLEND" keeps it.
    normal_texture: tangent space, +x along u and +y along v (up); `normal_scale` multiplies its x and y.
    occlusion_texture: ambient light visibility, linear, 1 = unoccluded.  double_sided: back faces are rendered too.
    name: as in the file it came from, any text, not always its only one; "" without.
    """

    base_color_factor: Vector3 = (1.0, 1.0, 1.0)
    base_color_texture: Texture | None = None
    metallic_factor: float = 1.0
    metallic_texture: Texture | None = None
    roughness_factor: float = 1.0
    roughness_texture: Texture | None = None
    emissive_factor: Vector3 = (0.0, 0.0, 0.0)
    emissive_texture: Texture | None = None
    alpha_mode: AlphaMode = "OPAQUE"
    alpha_cutoff: float = 0.5
    alpha_factor: float = 1.0
    alpha_texture: Texture | None = None
    normal_scale: float = 1.0
    normal_texture: Texture | None = None
    occlusion_texture: Texture | None = None
    double_sided: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"Material.name: expected text, got {type(self.name).__name__}")
        if self.alpha_mode not in get_args(AlphaMode):
            raise ValueError(f"Material.alpha_mode: expected one of {get_args(AlphaMode)}, got {self.alpha_mode!r}")
        for name in ("base_color_factor", "emissive_factor"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"Material.{name}: expected three values, got {getattr(self, name)!r}")
        self._check_range("base_color_factor", 1.0)
        for name in ("metallic_factor", "roughness_factor", "alpha_factor"):
            self._check_range(name, 1.0)
        for name in ("emissive_factor", "alpha_cutoff"):
            self._check_range(name, math.inf)
        if not math.isfinite(self.normal_scale):
            raise ValueError(f"Material.normal_scale: expected a finite number, got {self.normal_scale}")
        for name, channels in TEXTURE_CHANNELS.items():
            self._check_texture(name, channels)

    def _check_range(self, name: str, high: float) -> None:
        value = getattr(self, name)
        values = value if isinstance(value, tuple | list) else (value,)
        if not all(0 <= number <= high and math.isfinite(number) for number in values):
            raise ValueError(f"Material.{name}: expected finite values from 0 to {high}, got {value!r}")

    def _check_texture(self, name: str, channels: int) -> None:
        texture = getattr(self, name)
        if texture is None:
            return
        if not isinstance(texture, Texture):
            raise TypeError(f"Material.{name}: expected a Texture or None, got {type(texture).__name__}")
        if texture.image.shape[2] != channels:
            raise ValueError(f"Material.{name}: expected {channels} channels, got {texture.image.shape[2]}")


TEXTURE_CHANNELS = {
    "base_color_texture": 3,
    "metallic_texture": 1,
    "roughness_texture": 1,
    "alpha_texture": 1,
    "emissive_texture": 3,
    "normal_texture": 3,
    "occlusion_texture": 1,
}

# The material of a surface that nobody has painted: glTF's default is metal, which is dark without reflections.
PLAIN = Material(metallic_factor=0.0)


@dataclass(frozen=True, eq=False)
class UVMap:
    """UV coordinates and charts of the faces of a mesh.

    uv: [U, 2] float32, v up; an atlas is in [0, 1].  faces: [F, 3] int32 or int64, rows of `uv`, in mesh face order.
    chart: [F] int32 or int64, chart index from 0; the faces of a chart are connected in UV space.
    """

    uv: Tensor
    faces: Tensor
    chart: Tensor

    def __post_init__(self) -> None:
        integers = (torch.int32, torch.int64)
        check_tensor(self.uv, "UVMap.uv", (None, 2), torch.float32)
        faces = len(check_tensor(self.faces, "UVMap.faces", (None, 3), integers))
        check_tensor(self.chart, "UVMap.chart", (faces,), integers)


@dataclass(frozen=True, eq=False)
class TexturedMesh:
    """A mesh with materials. All tensors are on the mesh's device; index ranges are checked on use.

    mesh: world units, z up.  materials: at least one; by default white, rough, non-metallic.
    material_ids: [F] int32 or int64, material index per face; None: the first for all.
    uv: [U, 2] float32, v up, any range.  uv_faces: [F, 3] int32 or int64, rows of `uv`; None: the mesh's own faces.
    vertex_colors: [V, 4] float32 RGBA in [0, 1], multiplied into base colour and alpha.
    normals: [V, 3] float32 unit vectors; None: face normals.
    part_names: of the objects that it is joined of, any text, "" for one without a name; (): one nameless object.
    part_ids: [F] int32 or int64, row of `part_names` per face; None: the first for all.
    """

    mesh: Mesh
    materials: tuple[Material, ...] = (PLAIN,)
    material_ids: Tensor | None = None
    uv: Tensor | None = None
    uv_faces: Tensor | None = None
    vertex_colors: Tensor | None = None
    normals: Tensor | None = None
    part_ids: Tensor | None = None
    part_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.materials:
            raise ValueError("TexturedMesh.materials: expected at least one Material, got none")
        faces, vertices = len(self.mesh.faces), len(self.mesh.vertices)
        integers = (torch.int32, torch.int64)
        expected: dict[str, tuple[tuple[int | None, ...], torch.dtype | tuple[torch.dtype, ...]]] = {
            "material_ids": ((faces,), integers),
            "uv": ((None, 2), torch.float32),
            "uv_faces": ((faces, 3), integers),
            "vertex_colors": ((vertices, 4), torch.float32),
            "normals": ((vertices, 3), torch.float32),
            "part_ids": ((faces,), integers),
        }
        for name, (shape, dtype) in expected.items():
            value = getattr(self, name)
            if value is None:
                continue
            check_tensor(value, f"TexturedMesh.{name}", shape, dtype)
            if value.device != self.mesh.vertices.device:
                raise ValueError(
                    f"TexturedMesh.{name}: expected {self.mesh.vertices.device} like the vertices, got {value.device}"
                )
        self._check_parts()
        if self.textured and self.uv is None:
            raise ValueError("TexturedMesh.uv: expected coordinates [U, 2], because a material has a texture; got None")

    def _check_parts(self) -> None:
        names = self.part_names
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"TexturedMesh.part_names: expected a tuple of text, got {names!r:.80}")
        if self.part_ids is not None and not names:
            raise ValueError("TexturedMesh.part_names: expected a name for each part of part_ids, got none")
        if self.part_ids is None and len(names) > 1:
            raise ValueError(f"TexturedMesh.part_ids: expected a row [F] of {len(names)} part_names per face, got None")

    @property
    def uv_rows(self) -> Tensor:
        """The rows of `uv` at the corners of each face, [F, 3] int32 or int64."""
        return self.mesh.faces if self.uv_faces is None else self.uv_faces

    @property
    def material_rows(self) -> Tensor:
        """The row of `materials` of each face, [F] int64."""
        faces = self.mesh.faces
        ids = self.material_ids
        return torch.zeros(len(faces), dtype=torch.int64, device=faces.device) if ids is None else ids.to(torch.int64)

    @property
    def part_rows(self) -> Tensor:
        """The part of each face, row of `part_names` if it has any, [F] int64."""
        faces, ids = self.mesh.faces, self.part_ids
        return torch.zeros(len(faces), dtype=torch.int64, device=faces.device) if ids is None else ids.to(torch.int64)

    @property
    def uv_map(self) -> UVMap:
        """The texture coordinates, which must be there, as one chart."""
        assert self.uv is not None
        return UVMap(self.uv, self.uv_rows, self.uv_rows.new_zeros(len(self.uv_rows)))

    @property
    def textured(self) -> bool:
        """Whether a material has a texture."""
        return any(getattr(m, name) is not None for m in self.materials for name in TEXTURE_CHANNELS)

    @property
    def painted(self) -> bool:
        """Whether it has textures or vertex colours."""
        return self.vertex_colors is not None or self.textured


def alpha_mode(alpha: Tensor) -> AlphaMode:
    """Chooses the glTF alpha mode from the texels' `alpha` [T] uint8.

    "OPAQUE" if at most 1 % of the texels are below 0.9; otherwise "MASK" if at most a quarter of those are above 0.1;
    otherwise "BLEND".
    """
    below = int((alpha < OPAQUE_FROM).sum())
    if below <= SEEN_THROUGH * len(alpha):
        return "OPAQUE"
    between = int(((alpha < OPAQUE_FROM) & (alpha > CLEAR_TO)).sum())
    return "MASK" if between <= IN_BETWEEN * below else "BLEND"
