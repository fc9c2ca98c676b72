"""Textures as image files: several packed into the channels of one, smaller if asked, as PNG, JPEG or WebP."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...material import Texture
from .options import SaveOptions
from .png import encode_png

if TYPE_CHECKING:
    from PIL import Image


class ImageFile(NamedTuple):
    """media_type: "image/png", "image/jpeg" or "image/webp"."""

    content: bytes
    media_type: str


def pixels_of(texture: Texture) -> np.ndarray:
    """[H, W, C] uint8, row 0 at v = 1, which is the top row of every file here."""
    return texture.image.cpu().numpy()


def pack_channels(textures: Sequence[Texture | None], empty: Sequence[int], max_side: int | None) -> np.ndarray:
    """[H, W, C] uint8: the channels of `textures` side by side, in the largest size among them.

    empty: for each texture that is None, the number of its channels, which become 255.
    """
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


def shrink(image: np.ndarray, max_side: int | None) -> np.ndarray:
    """`image` [H, W, C], halved by means of 2 x 2 texels until no side is longer than `max_side`."""
    while max_side is not None and max(image.shape[:2]) > max_side:
        image = _from_pillow(_to_pillow(image).reduce(2))
    return image


def encode_image(image: np.ndarray, options: SaveOptions, *, color: bool) -> ImageFile:
    """The file of `image` [H, W, 1, 3 or 4] uint8. color: it is seen as such; else WebP stores it without loss.

    JPEG keeps full colour resolution, because the channels of a normal or a packed map are no colour. Images with
    alpha become PNG where JPEG is asked for. The same bytes for the same input and library versions.
    """
    if options.image_format == "webp":
        picture = _to_pillow(image)
        picture = picture.convert("RGB") if image.shape[2] == 1 else picture
        loss = {"quality": options.quality} if color else {"lossless": True, "quality": 0}
        return ImageFile(_saved(picture, format="WEBP", method=2, exact=True, **loss), "image/webp")
    if options.image_format == "jpeg" and image.shape[2] != 4:
        # Not "optimize": Pillow then needs room for the whole file at once, which noise does not leave it.
        quality = {"quality": options.quality, "subsampling": 0}
        return ImageFile(_saved(_to_pillow(image), format="JPEG", **quality), "image/jpeg")
    return ImageFile(encode_png(image, options.png_level), "image/png")


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
