"""Textures of a glTF file: images, samplers, and where on the mesh they lie (TEXCOORD_n, KHR_texture_transform)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .....material import Texture
from ..images import MAX_PIXELS, UNREADABLE, decoded
from .source import Source

WRAP_OF_CODE = {10497: "repeat", 33071: "clamp", 33648: "mirror"}
NEAREST_CODES = (9728, 9984, 9986)
TRANSFORM = "KHR_texture_transform"
# Extensions whose image stands in place of the texture's own, first choice first.
OTHER_SOURCES = ("EXT_texture_webp", "EXT_texture_avif")


@dataclass(frozen=True)
class Mapped:
    """Where a texture lies: texture coordinates of set `texcoord`, then (u, v) → rows · (u, v, 1), v down."""

    texcoord: int = 0
    rows: tuple[tuple[float, float, float], tuple[float, float, float]] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))

    def __call__(self, uv: np.ndarray) -> np.ndarray:
        """Maps coordinates [V, 2] float32, v down, to the texture's, v down."""
        if self.rows == Mapped.rows:
            return uv
        rows = np.array(self.rows)
        return (uv.astype(np.float64) @ rows[:, :2].T + rows[:, 2]).astype(np.float32)


def mapped(reference: Mapping[str, Any]) -> Mapped:
    """Returns where the texture of a textureInfo object lies.

    Source: KHR_texture_transform; rotations turn as in its example and in the Khronos sample renderer.
    """
    transform = reference.get("extensions", {}).get(TRANSFORM, {})
    texcoord = transform.get("texCoord", reference.get("texCoord", 0))
    (x, y), (width, height) = transform.get("offset", (0, 0)), transform.get("scale", (1, 1))
    angle = float(transform.get("rotation", 0))
    cos, sin = (1.0, 0.0) if angle == 0 else (float(np.cos(angle)), float(np.sin(angle)))
    rows = (cos * width, sin * height, float(x)), (-sin * width, cos * height, float(y))
    return Mapped(int(texcoord), tuple(tuple(value + 0.0 for value in row) for row in rows))


@dataclass(eq=False)
class TextureReader:
    """Reads textures, each image once. One that cannot be read is named in a warning and is None."""

    source: Source
    _pixels: dict[int, np.ndarray | None] = field(default_factory=dict)
    _textures: dict[tuple, Texture] = field(default_factory=dict)

    def read(self, reference: Mapping[str, Any] | None, channels: tuple[int, ...]) -> Texture | None:
        """Returns `channels` of a texture's RGBA. reference: a textureInfo object; None: no texture."""
        if reference is None:
            return None
        texture = self.source.item("textures", reference["index"])
        image = self._image(texture, reference["index"])
        if image is None:
            return None
        sampler = self.source.item("samplers", texture["sampler"]) if "sampler" in texture else {}
        wrap = tuple(WRAP_OF_CODE.get(sampler.get(name), "repeat") for name in ("wrapS", "wrapT"))
        mode = "nearest" if sampler.get("magFilter") in NEAREST_CODES else "linear"
        key = (image, channels, wrap, mode)
        if key not in self._textures:
            pixels = np.ascontiguousarray(self._pixels[image][..., list(channels)])
            self._textures[key] = Texture(torch.from_numpy(pixels), wrap, mode)
        return self._textures[key]

    def pixels(self, reference: Mapping[str, Any] | None) -> np.ndarray | None:
        """Returns a texture's RGBA [H, W, 4] uint8, or None."""
        if reference is None:
            return None
        image = self._image(self.source.item("textures", reference["index"]), reference["index"])
        return None if image is None else self._pixels[image]

    def _image(self, texture: Mapping[str, Any], number: int) -> int | None:
        """The index of a texture's image, of those it offers the first that can be read."""
        extensions = texture.get("extensions", {})
        offered = [extensions[name]["source"] for name in OTHER_SOURCES if "source" in extensions.get(name, {})]
        offered += [texture["source"]] if "source" in texture else []
        if not offered:
            others = ", ".join(extensions) or "no image"
            self.source.warn(f"texture {number}: {others} is not read; it is left out")
        for image in offered:
            if image not in self._pixels:
                self._pixels[image] = self._decoded(image, last=image == offered[-1])
            if self._pixels[image] is not None:
                return image
        return None

    def _decoded(self, image: int, last: bool) -> np.ndarray | None:
        stored = self.source.item("images", image)
        uri = str(stored.get("uri", "data:"))
        named = stored.get("name") if uri.startswith("data:") else uri
        name = f"texture {named!r:.120}" if named else f"texture image {image}"
        try:
            content = self.source.image(image)
            pixels = decoded(content, min(MAX_PIXELS, self.source.left // 4))
            self.source.claim(pixels.nbytes, name)
            return pixels
        except UNREADABLE as error:
            if last:
                self.source.warn(f"{name} cannot be read and is left out: {_reason(error, str(named))}")
            return None


def _reason(error: Exception, name: str) -> str:
    text = str(error) or type(error).__name__
    return text.removeprefix(f"{name}: ")
