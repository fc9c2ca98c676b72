"""Converts materials to glTF: channel-packed images, samplers, linear factors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ....core.color import to_linear
from ....core.progress import Progress, silent
from ....material import Material, Texture
from ..images import ImageFile, encode_image, pack_channels
from ..options import SaveOptions
from .document import Document

WRAP_CODES = {"repeat": 10497, "clamp": 33071, "mirror": 33648}
# (mag, min): LINEAR and LINEAR_MIPMAP_LINEAR; NEAREST twice.
FILTER_CODES = {"linear": (9729, 9987), "nearest": (9728, 9728)}


class MaterialWriter:
    """Adds materials to a document; shared images are stored once."""

    def __init__(
        self,
        document: Document,
        options: SaveOptions,
        report: Progress = silent,
        images: dict[tuple, ImageFile] | None = None,
    ) -> None:
        """report: called while images are encoded, with the fraction of one; may raise.

        images: those that another writer with the same options has encoded; new ones are added.
        """
        self._images = {} if images is None else images
        self._document = document
        self._options = options
        self._report = report
        self._textures: dict[tuple, int] = {}

    def add(self, material: Material) -> int:
        """Adds `material` to the document; returns its index."""
        color = [*_linear(material.base_color_factor), float(material.alpha_factor)]
        surface: dict[str, Any] = {
            "baseColorFactor": color,
            "metallicFactor": float(material.metallic_factor),
            "roughnessFactor": float(material.roughness_factor),
        }
        named = {"name": material.name} if material.name else {}
        stored: dict[str, Any] = {**named, "pbrMetallicRoughness": surface}
        if (base := self._base_color(material)) is not None:
            surface["baseColorTexture"] = {"index": base}
        self._add_packed(material, surface, stored)
        if material.normal_texture is not None:
            index = self._texture((material.normal_texture,), (3,), color=False)
            stored["normalTexture"] = {"index": index, "scale": float(material.normal_scale)}
        self._add_emission(material, stored)
        if material.alpha_mode != "OPAQUE":
            stored["alphaMode"] = material.alpha_mode
        if material.alpha_mode == "MASK":
            stored["alphaCutoff"] = float(material.alpha_cutoff)
        if material.double_sided:
            stored["doubleSided"] = True
        return self._document.add("materials", stored)

    def _base_color(self, material: Material) -> int | None:
        """Adds base colour, with alpha unless it is 255 everywhere; returns the texture index, or None."""
        alpha = None if material.alpha_mode == "OPAQUE" else material.alpha_texture
        if alpha is not None and bool((alpha.image == 255).all()):
            alpha = None
        if alpha is not None:
            return self._texture((material.base_color_texture, alpha), (3, 1), color=True)
        base = material.base_color_texture
        return None if base is None else self._texture((base,), (3,), color=True)

    def _add_packed(self, material: Material, surface: dict[str, Any], stored: dict[str, Any]) -> None:
        """Packs occlusion, roughness and metallic into red, green and blue of one image; missing ones are 255.

        Occlusion gets its own image if its wrap or filter differs from the others.
        """
        occlusion, rough, metal = material.occlusion_texture, material.roughness_texture, material.metallic_texture
        other = rough or metal
        alone = occlusion is not None and (other is None or _reading(other) != _reading(occlusion))
        if other is not None:
            index = self._texture((None if alone else occlusion, rough, metal), (1, 1, 1), color=False)
            surface["metallicRoughnessTexture"] = {"index": index}
        if occlusion is not None:
            stored["occlusionTexture"] = {
                "index": self._texture((occlusion,), (1,), color=False) if alone else index,
            }

    def _add_emission(self, material: Material, stored: dict[str, Any]) -> None:
        """Adds emission; factors above 1 use KHR_materials_emissive_strength."""
        light = _linear(material.emissive_factor)
        strength = max(light)
        if strength > 1:
            light = [value / strength for value in light]
            name = "KHR_materials_emissive_strength"
            stored["extensions"] = {name: {"emissiveStrength": strength}}
            self._document.use(name, required=False)
        if strength > 0:
            stored["emissiveFactor"] = light
            if material.emissive_texture is not None:
                index = self._texture((material.emissive_texture,), (3,), color=True)
                stored["emissiveTexture"] = {"index": index}

    def _texture(self, parts: tuple[Texture | None, ...], channels: tuple[int, ...], *, color: bool) -> int:
        """Adds `parts` packed into one image; returns the texture index. Raises ValueError if their samplers differ."""
        present = [part for part in parts if part is not None]
        readings = {_reading(part) for part in present}
        if len(readings) > 1:
            kinds = sorted(map(str, readings))
            raise ValueError(f"textures stored in one image: expected one wrap and filter, got {', '.join(kinds)}")
        # The mesh keeps the textures alive, so ids are unique.
        key = (*map(id, parts), color)
        if key not in self._textures:
            if key not in self._images:
                whole = pack_channels(parts, channels, self._options.max_texture)
                self._images[key] = encode_image(whole, self._options, color=color, progress=self._report)
            file = self._images[key]
            self._textures[key] = self._add_texture(file.content, file.media_type, present[0])
        return self._textures[key]

    def _add_texture(self, content: bytes, media_type: str, read_as: Texture) -> int:
        image = self._document.add_image(content, media_type)
        larger, smaller = FILTER_CODES[read_as.filter]
        wrap_u, wrap_v = (WRAP_CODES[mode] for mode in read_as.wrap)
        sampler = {"magFilter": larger, "minFilter": smaller, "wrapS": wrap_u, "wrapT": wrap_v}
        texture = {"sampler": self._document.add_once("samplers", sampler)}
        if media_type == "image/webp":
            self._document.use("EXT_texture_webp", required=True)
            return self._document.add("textures", {**texture, "extensions": {"EXT_texture_webp": {"source": image}}})
        return self._document.add("textures", {**texture, "source": image})


def largest_side(materials: tuple[Material, ...]) -> int:
    """Returns the longest texture side of `materials`, in texels; 0 without textures."""
    textures = (value for material in materials for value in vars(material).values() if isinstance(value, Texture))
    return max((max(texture.image.shape[:2]) for texture in textures), default=0)


def _reading(texture: Texture) -> tuple[tuple[str, str], str]:
    return texture.wrap, texture.filter


def _linear(values: tuple[float, ...]) -> list[float]:
    """Decodes sRGB factors to linear; the curve is extrapolated above 1."""
    return np.asarray(to_linear(torch.tensor(values, dtype=torch.float64))).astype(float).tolist()
