"""Texture image files: channel packing, downsampling, and PNG, JPEG or WebP encoding."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.progress import Progress
from ...material import Texture
from .options import SaveOptions
from .png import encode_png

if TYPE_CHECKING:
    from PIL import Image


class ImageFile(NamedTuple):
    """An encoded image. media_type: "image/png", "image/jpeg" or "image/webp"."""

    content: bytes
    media_type: str


def pixels_of(texture: Texture) -> np.ndarray:
    """Returns the image [H, W, C] uint8 on the CPU; row 0 is at v = 1, the top row of all file formats here."""
    return texture.image.cpu().numpy()


def pack_channels(textures: Sequence[Texture | None], empty: Sequence[int], max_side: int | None) -> np.ndarray:
    """Concatenates the channels of `textures` into [H, W, C] uint8, resized to the largest size among them.

    empty: channel counts; a texture that is None contributes this many channels of 255.
    """
    if max_side is None and all(texture is None or texture.image.is_cuda for texture in textures):
        layers = [None if texture is None else texture.image for texture in textures]
        if len({layer.shape[:2] for layer in layers if layer is not None}) == 1:
            return _interleaved(layers, empty)
    images = [None if texture is None else shrink(pixels_of(texture), max_side) for texture in textures]
    present = [image.shape[:2] for image in images if image is not None]
    height, width = (max(sizes) for sizes in zip(*present, strict=True))
    return np.concatenate(
        [
            np.full((height, width, channels), 255, np.uint8) if image is None else _enlarge(image, height, width)
            for image, channels in zip(images, empty, strict=True)
        ],
        axis=2,
    )


def _interleaved(images: list[Tensor | None], empty: Sequence[int]) -> np.ndarray:
    """`pack_channels` of images [H, W, C] of the same sides on a GPU: it interleaves them, and one copy goes to the
    CPU."""
    given = next(image for image in images if image is not None)
    height, width, pairs = given.shape[0], given.shape[1], zip(images, empty, strict=True)
    layers = [given.new_full((height, width, count), 255) if image is None else image for image, count in pairs]
    return torch.cat(layers, 2).cpu().numpy()


def shrink(image: np.ndarray, max_side: int | None) -> np.ndarray:
    """Halves `image` [H, W, C] uint8 by 2 x 2 box filtering until no side exceeds `max_side`."""
    while max_side is not None and max(image.shape[:2]) > max_side:
        image = _from_pillow(_to_pillow(image).reduce(2))
    return image


def encode_image(
    image: np.ndarray, options: SaveOptions, *, color: bool, progress: Progress | None = None
) -> ImageFile:
    """Encodes `image` [H, W, 1, 3 or 4] uint8. color: colour data, for which WebP is lossy; other data is lossless.

    JPEG uses no chroma subsampling, because the channels of normal and packed maps are independent. With JPEG, images
    with alpha are written as PNG. Deterministic for the same library versions.  progress: of a PNG; may raise.
    """
    if options.image_format == "webp":
        picture = _to_pillow(image)
        picture = picture.convert("RGB") if image.shape[2] == 1 else picture
        loss = {"quality": options.quality} if color else {"lossless": True, "quality": 0}
        return ImageFile(_saved(picture, format="WEBP", method=2, exact=True, **loss), "image/webp")
    if options.image_format == "jpeg" and image.shape[2] != 4:
        # Not "optimize": Pillow then needs a buffer for the whole file, and noisy images overflow it.
        quality = {"quality": options.quality, "subsampling": 0}
        return ImageFile(_saved(_to_pillow(image), format="JPEG", **quality), "image/jpeg")
    return ImageFile(encode_png(image, options.png_level, progress=progress), "image/png")


def _enlarge(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    from PIL import Image

    return _from_pillow(_to_pillow(image).resize((width, height), Image.Resampling.BILINEAR))


def _to_pillow(image: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def _from_pillow(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).reshape(picture.height, picture.width, -1)


def _saved(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, **options)
    return file.getvalue()
