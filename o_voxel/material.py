"""What a surface is made of: textures, materials, and a mesh that wears them. Frozen values.

Conventions, stated once. Texture coordinates are (u, v) with v up: v = 0 is the last row of an image and v = 1 its
first (glTF counts v down; `formats.mesh_files` flips it). Colours, of texels, factors and vertices alike, are in the
texture's own encoding (sRGB for base colour) and are multiplied there; a linear value is encoded by its loader.
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


@dataclass(frozen=True, eq=False)
class Texture:
    """An image and how it is read.

    image: [H, W, C] uint8, row 0 at v = 1, C = 1 or 3.  wrap: outside [0, 1], along u and v.
    filter: "linear" is trilinear (bilinear on two mip levels); "nearest" reads the full-size image only.
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
    """Metallic-roughness PBR. Each factor multiplies its texture, or stands alone; defaults are glTF's.

    Factors are in [0, 1]; emissive ones and `alpha_cutoff` only >= 0. Textures have three channels (base colour,
    emissive, normal) or one.
    alpha_mode: "OPAQUE" makes alpha 1; "MASK" makes it 0 below `alpha_cutoff` and 1 elsewhere; "BLEND" keeps it.
    normal_texture: tangent space, +x along u and +y along v (up); `normal_scale` multiplies its x and y.
    occlusion_texture: the share of ambient light that arrives, linear.  double_sided: back faces are drawn too.
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

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, eq=False)
class UVMap:
    """Where each face of a mesh lies in a texture.

    uv: [U, 2] float32, v up; an atlas lies in [0, 1].  faces: [F, 3] int32 or int64, rows of `uv`, as the mesh's.
    chart: [F] int32 or int64, 0 to the number of charts - 1; faces of one chart are connected in the texture.
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
    """A mesh with materials. Tensors are on the mesh's device; values are checked where they are used.

    mesh: world units, z up.  materials: at least one.
    material_ids: [F] int32 or int64, a row of `materials` a face; None: the first for all.
    uv: [U, 2] float32, v up, any range.  uv_faces: [F, 3] int32 or int64, rows of `uv`; None: the mesh's own faces.
    vertex_colors: [V, 4] float32 RGBA in [0, 1], multiplied with base colour and alpha.
    normals: [V, 3] float32 unit vectors; None: each face's own normal.
    """

    mesh: Mesh
    materials: tuple[Material, ...] = (Material(),)
    material_ids: Tensor | None = None
    uv: Tensor | None = None
    uv_faces: Tensor | None = None
    vertex_colors: Tensor | None = None
    normals: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.materials:
            raise ValueError("TexturedMesh.materials: expected at least one Material, got none")
        faces, vertices = len(self.mesh.faces), len(self.mesh.vertices)
        integers = (torch.int32, torch.int64)
        expected = {
            "material_ids": ((faces,), integers),
            "uv": ((None, 2), torch.float32),
            "uv_faces": ((faces, 3), integers),
            "vertex_colors": ((vertices, 4), torch.float32),
            "normals": ((vertices, 3), torch.float32),
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
        textured = any(getattr(m, name) is not None for m in self.materials for name in TEXTURE_CHANNELS)
        if textured and self.uv is None:
            raise ValueError("TexturedMesh.uv: expected coordinates [U, 2], because a material has a texture; got None")
