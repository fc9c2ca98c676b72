"""The textures of a material as pictures, and back: base colour, ORM, normal, emissive, alpha.

Pictures are what a texture stores, without its factor; a map that the material lacks is a constant picture of its
factor. What comes back as it went out changes nothing, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .core.color import to_bytes
from .material import TEXTURE_CHANNELS, Material, Texture, TexturedMesh

SIDE = 64  # pixels of a constant picture, if the material has no texture at all
FLAT_NORMAL = (128, 128, 255)
# Texture of each channel of the ORM picture, glTF's order.
ORM = ("occlusion_texture", "roughness_texture", "metallic_texture")


@dataclass(frozen=True, eq=False)
class TextureImages:
    """Pictures of a material, [H, W, C] uint8, row 0 at v = 1; sizes may differ. None: no picture.

    base_color, emissive: [H, W, 3] sRGB.  orm: [H, W, 3] linear: occlusion, roughness, metallic.
    normal: [H, W, 3] tangent space, +y up.  alpha: [H, W, 1], 255 opaque.
    """

    base_color: Tensor | None = None
    orm: Tensor | None = None
    normal: Tensor | None = None
    emissive: Tensor | None = None
    alpha: Tensor | None = None


def texture_images(material: Material) -> TextureImages:
    """The pictures of all maps of a material, on the CPU; none is None.

    The ORM picture has the size of its largest channel, the others are enlarged bilinearly; constant pictures have the
    size of the material's largest texture.
    """
    textures = [texture for name in TEXTURE_CHANNELS if (texture := getattr(material, name)) is not None]
    size = max((tuple(t.image.shape[:2]) for t in textures), key=lambda s: s[0] * s[1], default=(SIDE, SIDE))
    packed = [getattr(material, name) for name in ORM]
    orm_size = max((tuple(t.image.shape[:2]) for t in packed if t), key=lambda s: s[0] * s[1], default=size)
    channels = [_image(material, name, orm_size) for name in ORM]
    return TextureImages(
        base_color=_image(material, "base_color_texture", size),
        orm=torch.cat([_resized(channel, orm_size) for channel in channels], 2),
        normal=_image(material, "normal_texture", size),
        emissive=_image(material, "emissive_texture", size),
        alpha=_image(material, "alpha_texture", size),
    )


def with_texture_images(mesh: TexturedMesh, images: TextureImages, material: int = 0) -> TexturedMesh:
    """Replaces the maps of one material of `mesh` by pictures [H, W, C] uint8; the mesh's tensors are kept as they are.

    A picture, or a channel of the ORM picture, that equals the one of `texture_images` changes nothing. Another one
    becomes the texture; its factor stays if there was a texture, else it becomes 1. Alpha below 255 turns an OPAQUE
    material into MASK if it is 0 or 255 everywhere, else into BLEND. A dark emission factor becomes 1.
    Raises ValueError without uv, for a material out of range, and for pictures of another shape or dtype.
    """
    if mesh.uv is None:
        raise ValueError("textured_mesh: expected UV coordinates, got none; connect Unwrap or Bake Textures")
    check_material(mesh, material)
    changed = _changed(mesh.materials[material], images)
    if not changed:
        return mesh
    painted = replace(mesh.materials[material], **changed)
    return replace(mesh, materials=(*mesh.materials[:material], painted, *mesh.materials[material + 1 :]))


def check_material(mesh: TexturedMesh, material: int) -> None:
    """Raises ValueError for a material index outside those of `mesh`."""
    if not 0 <= material < len(mesh.materials):
        raise ValueError(f"material: expected 0 to {len(mesh.materials) - 1}, got {material}")


def _changed(material: Material, images: TextureImages) -> dict[str, Any]:
    """The fields of `material` that the pictures replace."""
    before = texture_images(material)
    changed: dict[str, Any] = {}
    for item in fields(images):
        picture, old = getattr(images, item.name), getattr(before, item.name)
        if picture is None:
            continue
        if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[2] != old.shape[2]:
            wanted = f"[H, W, {old.shape[2]}] uint8"
            raise ValueError(f"{item.name}: expected {wanted}, got {list(picture.shape)} {picture.dtype}")
        names = ORM if item.name == "orm" else (f"{item.name}_texture",)
        width = picture.shape[2] // len(names)
        for number, name in enumerate(names):
            part = slice(number * width, (number + 1) * width)
            if not torch.equal(picture[..., part], old[..., part]):
                changed |= _replaced(material, name, picture[..., part].contiguous())
    return changed


def _replaced(material: Material, name: str, image: Tensor) -> dict[str, Any]:
    """The fields that make `image` [H, W, C] the texture `name`."""
    old = getattr(material, name)
    others = (getattr(material, other) for other in TEXTURE_CHANNELS)
    sampler = old or next((texture for texture in others if texture is not None), None)
    texture = Texture(image) if sampler is None else replace(sampler, image=image)
    changed: dict[str, Any] = {name: texture}
    factor = name.replace("_texture", "_factor")
    if hasattr(material, factor):
        value = getattr(material, factor)
        one = (1.0, 1.0, 1.0) if isinstance(value, tuple | list) else 1.0
        dark = name == "emissive_texture" and max(value) == 0
        changed |= {factor: one} if old is None or dark else {}
    if name == "alpha_texture" and material.alpha_mode == "OPAQUE" and bool((image < 255).any()):
        changed["alpha_mode"] = "MASK" if bool(((image == 0) | (image == 255)).all()) else "BLEND"
    return changed


def _image(material: Material, name: str, size: tuple[int, int]) -> Tensor:
    """The picture of a texture, [H, W, C] uint8; without one, its factor at `size` (H, W)."""
    texture = getattr(material, name)
    if texture is not None:
        return texture.image.cpu()
    if name == "normal_texture":
        return torch.tensor(FLAT_NORMAL, dtype=torch.uint8).expand(*size, 3).contiguous()
    value = torch.tensor(getattr(material, name.replace("_texture", "_factor"), 1.0), dtype=torch.float64).reshape(-1)
    return to_bytes(value).expand(*size, len(value)).contiguous()


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`image` [H, W, C] uint8 at `size` (H, W), bilinear."""
    if tuple(image.shape[:2]) == size:
        return image
    planes = image.permute(2, 0, 1)[None].float()
    larger = interpolate(planes, size, mode="bilinear", align_corners=False)
    return to_bytes(larger[0].permute(1, 2, 0) / 255)
