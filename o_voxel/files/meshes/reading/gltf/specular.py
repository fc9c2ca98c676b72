"""KHR_materials_pbrSpecularGlossiness as metallic-roughness, texel by texel.

A metal reflects with its base colour and has no diffuse one; a dielectric reflects 0.04. The metallic value between
them is where a surface of the metallic-roughness model has the given diffuse and specular brightness, which is a
quadratic equation (glTF 2.0 specification, appendix B, solved for metallic).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .....core.color import linear_to_srgb, to_linear
from .textures import TextureReader

SPECULAR = "KHR_materials_pbrSpecularGlossiness"
# Reflectance of dielectrics at normal incidence.
DIELECTRIC = 0.04
# Shares of linear red, green and blue in luminance.
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def has_specular(material: Mapping[str, Any]) -> bool:
    """Whether a material has only the specular-glossiness form, or has it besides."""
    return SPECULAR in material.get("extensions", {}) and "pbrMetallicRoughness" not in material


def as_metal(material: Mapping[str, Any], textures: TextureReader) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Converts a material; returns (its JSON with metallic-roughness, images [H, W, C] uint8 by name of `Material`).

    Without a texture there are no images. With one, they hold the factors too, and the factors are 1.
    """
    stored = material["extensions"][SPECULAR]
    diffuse = np.asarray(stored.get("diffuseFactor", np.ones(4)), np.float64)
    specular = np.asarray(stored.get("specularFactor", np.ones(3)), np.float64)
    gloss = float(stored.get("glossinessFactor", 1.0))
    places = [stored.get("diffuseTexture"), stored.get("specularGlossinessTexture")]
    images = [textures.pixels(place) for place in places]
    if all(image is None for image in images):
        base, metallic = _solved(diffuse[:3], specular)
        factors = {"baseColorFactor": [*base.tolist(), diffuse[3]], "metallicFactor": float(metallic)}
        return {**material, "pbrMetallicRoughness": {**factors, "roughnessFactor": 1 - gloss}}, {}
    height, width = (max(sizes) for sizes in zip(*(i.shape[:2] for i in images if i is not None), strict=True))
    color, shine = (_resized(image, height, width) for image in images)
    diffuse = diffuse * np.concatenate([_linear(color), color[..., 3:] / 255], 2)
    base, metallic = _solved(diffuse[..., :3], specular * _linear(shine))
    converted = {
        "base_color_texture": linear_to_srgb(base),
        "metallic_texture": metallic[..., None],
        "roughness_texture": 1 - gloss * shine[..., 3:] / 255,
        "alpha_texture": diffuse[..., 3:],
    }
    pixels = {name: (values.clip(0, 1) * 255 + 0.5).astype(np.uint8) for name, values in converted.items()}
    reference = next(place for place, image in zip(places, images, strict=True) if image is not None)
    return {**material, "pbrMetallicRoughness": {"baseColorTexture": reference}}, pixels


def _solved(diffuse: np.ndarray, specular: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (base colour [..., 3], metallic [...]) of linear diffuse and specular colours [..., 3]."""
    strongest = specular.max(-1)
    dark, bright = diffuse @ LUMINANCE, specular @ LUMINANCE
    # Diffuse: base (1 - metallic); specular: 0.04 (1 - metallic) + base · metallic. With the base eliminated:
    # 0.04 m² + (diffuse (1 - strongest) / 0.96 + specular - 0.08) m + 0.04 - specular = 0.
    spread = dark * (1 - strongest) / (1 - DIELECTRIC)
    b = spread + bright - 2 * DIELECTRIC
    c = DIELECTRIC - bright
    root = np.sqrt(np.maximum(b * b - 4 * DIELECTRIC * c, 0))
    metallic = np.where(bright <= DIELECTRIC + 1e-6, 0.0, ((root - b) / (2 * DIELECTRIC)).clip(0, 1))
    m = metallic[..., None]
    from_diffuse = diffuse * (1 - strongest[..., None]) / (1 - DIELECTRIC) / np.maximum(1 - m, 1e-4)
    from_specular = (specular - DIELECTRIC * (1 - m)) / np.maximum(m, 1e-4)
    return (from_diffuse + (from_specular - from_diffuse) * m * m).clip(0, 1), metallic


def _resized(image: np.ndarray | None, height: int, width: int) -> np.ndarray:
    """An image [H, W, 4] in another size; white if there is none."""
    if image is None:
        return np.full((height, width, 4), 255, np.uint8)
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _linear(image: np.ndarray) -> np.ndarray:
    """The linear colours [H, W, 3] float64 of an sRGB image [H, W, 4] uint8."""
    table = to_linear(torch.arange(256, dtype=torch.float64) / 255).numpy()
    return table[image[..., :3]]
