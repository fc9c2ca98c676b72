"""Options for writing mesh files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

ImageFormat = Literal["png", "jpeg", "webp"]
UpAxis = Literal["auto", "y", "z"]
Pivot = Literal["as is", "base", "centre"]
NormalMaps = Literal["opengl", "directx"]

# Default up axis by suffix: glTF's by specification, OBJ's and STL's by convention.
UP_OF_SUFFIX = {".glb": "y", ".obj": "y", ".ply": "z", ".stl": "z"}


@dataclass(frozen=True)
class SaveOptions:
    """How to write a mesh. Formats ignore options that do not apply to them.

    up: up axis of the file; "auto" is y in GLB (which allows no other) and OBJ, z in PLY and STL.
    scale: file units per world unit. Printers read STL in millimetres: 100 makes a mesh of size 1 10 cm tall.
    crease_deg: a mesh without normals gets smooth ones, split at dihedral angles above this, degrees; None: flat faces.
    image_format: of GLB textures. "jpeg" writes textures with alpha as PNG; "webp" requires EXT_texture_webp.
    quality: 1 to 100, of JPEG and WebP.  png_level: 0 to 9, see `encode_png`.
    max_texture: maximum texels per side; larger images are halved until they fit. None: unlimited.
    quantize: store GLB geometry as 16- and 8-bit integers (KHR_mesh_quantization), half the size.
    draco: compress GLB geometry (KHR_draco_mesh_compression) to a tenth of the size; needs the package DracoPy.
    max_bytes: maximum size of a GLB; see `size_budget` for the quality reductions.
    ply_uv: write UVs as s and t to a PLY, which splits vertices at seams.
    pivot: what is put at the origin. "base": the middle of the bounding box's floor, so that the mesh stands on the
    ground; "centre": the box's centre; "as is" keeps positions.
    normal_maps: "directx" turns the green channel of normal maps over, for engines whose y points down; glTF viewers,
    which expect "opengl", then light it wrongly.
    extras: JSON values for `asset.extras` of a GLB, where applications keep their own data; counts for `max_bytes`.
    """

    up: UpAxis = "auto"
    scale: float = 1.0
    crease_deg: float | None = 60.0
    image_format: ImageFormat = "png"
    quality: int = 90
    png_level: int = 1
    max_texture: int | None = None
    quantize: bool = False
    draco: bool = False
    max_bytes: int | None = None
    ply_uv: bool = False
    extras: Mapping[str, Any] | None = None
    pivot: Pivot = "as is"
    normal_maps: NormalMaps = "opengl"

    def __post_init__(self) -> None:
        choices = {"up": UpAxis, "image_format": ImageFormat, "pivot": Pivot, "normal_maps": NormalMaps}
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}: expected one of {get_args(allowed)}, got {getattr(self, name)!r}")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale: expected a positive number, got {self.scale}")
        if self.crease_deg is not None and not 0 <= self.crease_deg <= 180:
            raise ValueError(f"crease_deg: expected 0 to 180 or None, got {self.crease_deg}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality: expected 1 to 100, got {self.quality}")
        if not 0 <= self.png_level <= 9:
            raise ValueError(f"png_level: expected 0 to 9, got {self.png_level}")
        for name in ("max_texture", "max_bytes"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1 or None, got {getattr(self, name)}")
        if self.quantize and self.draco:
            raise ValueError("quantize: expected False with draco, which quantises by itself")

    def y_up(self, suffix: str) -> bool:
        """Returns True if a file of this suffix is y-up. Raises ValueError for a GLB with z up."""
        if suffix == ".glb" and self.up == "z":
            raise ValueError("up: expected 'auto' or 'y' for a GLB, because glTF is y-up; got 'z'")
        return (UP_OF_SUFFIX[suffix] if self.up == "auto" else self.up) == "y"
