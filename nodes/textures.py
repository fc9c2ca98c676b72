"""Nodes that turn textures into pictures and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..o_voxel.core.color import to_bytes
from ..o_voxel.material import TexturedMesh
from ..o_voxel.texture_images import TextureImages, check_material, texture_images, with_texture_images
from . import host
from .sockets import ANY_MESH, TEXTURED_MESH, textured
from .widgets import ASSET_GROUP

SOURCE = "From Bake Textures, Game-Ready Asset, Unwrap or Load Mesh."
MATERIAL = (
    "INT",
    {
        "default": 0,
        "min": 0,
        "max": 9999,
        "tooltip": "Which material, from 0. Baked meshes have one; files may have more.",
        "advanced": True,
    },
)
PICTURES = {
    "base_color": "Base colour, sRGB, as seen in an image editor.",
    "orm": "Occlusion, roughness and metallic in red, green and blue, linear.",
    "normal": "Tangent-space normals, +y up (OpenGL, glTF).",
    "emissive": "Emitted colour, sRGB.",
}


class TexturesToImages:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = (
        "Outputs the textures of a mesh as images, for any image node. A map that the material lacks is a plain image "
        "of its factor; the normal map is then flat."
    )
    FUNCTION = "convert"
    RETURN_TYPES = ("IMAGE", "IMAGE", "IMAGE", "IMAGE", "MASK")
    RETURN_NAMES = ("base_color", "orm", "normal", "emissive", "alpha")
    OUTPUT_TOOLTIPS = (*PICTURES.values(), "Opacity: white is opaque. Invert it for nodes that expect transparency.")
    SEARCH_ALIASES = ("extract texture", "texture map", "albedo", "pbr maps", "normal map", "orm")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"textured_mesh": (ANY_MESH, {"tooltip": SOURCE}), "material": MATERIAL}}

    def convert(self, textured_mesh: TexturedMesh, material: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        mesh = host.at_rest(textured(textured_mesh))
        check_material(mesh, material)
        images = texture_images(mesh.materials[material])
        maps = (images.base_color, images.orm, images.normal, images.emissive)
        color, orm, normal, emissive = (picture[None].float() / 255 for picture in maps)
        return color, orm, normal, emissive, images.alpha[None, ..., 0].float() / 255


class ImagesToTextures:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = (
        "Replaces textures of a mesh by images of any size: upscaled, repainted, new. Maps without an image stay."
    )
    FUNCTION = "convert"
    RETURN_TYPES = (TEXTURED_MESH,)
    RETURN_NAMES = ("textured_mesh",)
    OUTPUT_TOOLTIPS = ("The same mesh with the new textures.",)
    SEARCH_ALIASES = ("apply texture", "set texture", "replace texture", "texture map", "upscale texture")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        opacity = (
            "Opacity: white is opaque, as Textures to Images gives it. It makes an opaque material cut out (only black "
            "and white) or translucent."
        )
        same = " Unconnected: the mesh keeps its own."
        pictures = {name: ("IMAGE", {"tooltip": text + same}) for name, text in PICTURES.items()}
        return {
            "required": {
                "textured_mesh": (ANY_MESH, {"tooltip": SOURCE + " It needs UV coordinates."}),
                "material": MATERIAL,
            },
            "optional": {**pictures, "alpha": ("MASK", {"tooltip": opacity + same})},
        }

    def convert(
        self,
        textured_mesh: TexturedMesh,
        material: int,
        base_color: Tensor | None = None,
        orm: Tensor | None = None,
        normal: Tensor | None = None,
        emissive: Tensor | None = None,
        alpha: Tensor | None = None,
    ) -> tuple[TexturedMesh]:
        images = TextureImages(
            base_color=_picture(base_color, "base_color"),
            orm=_picture(orm, "orm"),
            normal=_picture(normal, "normal"),
            emissive=_picture(emissive, "emissive"),
            alpha=None if alpha is None else to_bytes(_single(alpha, "alpha", 2).cpu())[..., None],
        )
        return (with_texture_images(host.at_rest(textured(textured_mesh)), images, material),)


def _picture(image: Tensor | None, name: str) -> Tensor | None:
    """The bytes [H, W, 3] of an IMAGE [1, H, W, 1, 3 or 4]; its alpha is dropped."""
    if image is None:
        return None
    picture = to_bytes(_single(image, name, 3).cpu())
    if picture.shape[2] not in (1, 3, 4):
        raise ValueError(f"{name}: expected an image of 1, 3 or 4 channels, got {picture.shape[2]}")
    return picture[..., :3].expand(*picture.shape[:2], 3).contiguous()


def _single(image: Tensor, name: str, dims: int) -> Tensor:
    """The only picture of a batch. Raises ValueError for several, or for another kind of value."""
    if not isinstance(image, torch.Tensor) or not image.is_floating_point() or image.ndim not in (dims, dims + 1):
        raise ValueError(f"{name}: expected an image, got {getattr(image, 'shape', type(image).__name__)}")
    if image.ndim == dims:
        return image
    if len(image) != 1:
        raise ValueError(
            f"{name}: expected one image, got a batch of {len(image)}; choose one, e.g. by Image From Batch"
        )
    return image[0]
