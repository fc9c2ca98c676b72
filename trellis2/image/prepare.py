"""Prepares images as the reference does: matte, crop, premultiply. Alpha is 255 on the object and 0 outside."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...o_voxel.core.checks import check_tensor

MAX_SIDE = 1024  # pixels; larger images are downscaled before the crop
OBJECT_ALPHA = 204  # of 255; the crop is the box of pixels above it
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def prepare_image(image: Image.Image, mask: Image.Image | None = None, *, margin: float = 1.0) -> Image.Image:
    """Crops a square around the object and multiplies it by its alpha, on black.

    image: any 8-bit mode, W x H pixels.  mask: "L" or "1", W x H, 255 on the object; it replaces the image's alpha.
    margin: of the square's side over the object's: 1 as TRELLIS.2, 1.1 as Pixal3D.
    Returns RGB, N x N pixels with N even: the longer side of the bounding box of alpha above OBJECT_ALPHA, in the image
    downscaled to at most MAX_SIDE pixels a side. N is not the encoder's input size; `to_pixels` resizes.

    Raises ValueError: no transparency and no mask, nothing opaque, an object under 3 pixels, a mask of another size, a
    mode with more than 8 bits. Same bytes as the reference's preprocess_image on an image with alpha
    (microsoft/TRELLIS.2, trellis2_image_to_3d.py) for one version of Pillow; another may round its resize differently.
    """
    rgba = downscale(_with_alpha(image, mask))
    return _premultiplied(rgba.crop(_object_box(np.asarray(rgba)[:, :, 3], margin)))


def to_pixels(image: Image.Image, size: int) -> Tensor:
    """Returns the encoder's input [3, size, size] float32: Lanczos resize, normalised by ImageNet's mean and deviation.

    size: pixels a side.  Raises ValueError unless `image` is RGB, as from `prepare_image`, and `size` positive.
    """
    check_rgb(image, "image")
    return normalize_pixels(torch.from_numpy(np.array(resized(image, size)))).permute(2, 0, 1)


def normalize_pixels(image: Tensor) -> Tensor:
    """Normalises RGB bytes [..., 3] uint8 by ImageNet's mean and deviation to float32, on the same device."""
    check_tensor(image, "image", (None,) * (image.ndim - 1) + (3,), torch.uint8)
    return normalize_unit(image.float() / 255)


def normalize_unit(image: Tensor) -> Tensor:
    """Normalises RGB [..., 3] float32 from 0 to 1 by ImageNet's mean and deviation."""
    mean, std = (torch.tensor(values, device=image.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std


def _with_alpha(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"image: expected one of the modes {', '.join(EIGHT_BIT_MODES)}, got {image.mode}")
    rgba = image.convert("RGBA")
    if mask is None:
        if rgba.getextrema()[3][0] == 255:
            raise ValueError(
                "image: expected a transparent background, got an opaque image; remove the background first, "
                "and connect its MASK or an RGBA image"
            )
        return rgba
    if mask.mode not in ("L", "1"):
        raise ValueError(f"mask: expected mode L or 1, got {mask.mode}")
    if mask.size != image.size:
        raise ValueError(f"mask: expected the image's size {image.size}, got {mask.size}")
    rgba.putalpha(mask.convert("L"))
    return rgba


def downscale(rgba: Image.Image) -> Image.Image:
    """Downscales to at most MAX_SIDE pixels a side. Pillow resizes RGBA premultiplied: no colour bleeds from
    transparent pixels."""
    scale = min(1, MAX_SIDE / max(rgba.size))
    if scale == 1:
        return rgba
    size = int(rgba.width * scale), int(rgba.height * scale)
    if min(size) < 1:
        raise ValueError(f"image: {rgba.width}x{rgba.height} is too narrow to reduce to {MAX_SIDE} pixels")
    return rgba.resize(size, Image.Resampling.LANCZOS)


def _object_box(alpha: np.ndarray, margin: float) -> tuple[int, int, int, int]:
    """Returns (left, upper, right, lower), in pixels, of a square around the object in alpha [H, W] uint8; it may
    exceed the image."""
    inside = alpha > OBJECT_ALPHA
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    if columns.size == 0:
        raise ValueError(
            f"image: no pixel has alpha above {OBJECT_ALPHA} of 255 (the largest is {alpha.max(initial=0)}): "
            "everything is transparent; check the mask, it may be inverted"
        )
    left, right, upper, lower = (int(v) for v in (columns[0], columns[-1], rows[0], rows[-1]))
    half = int(max(right - left, lower - upper) * margin) // 2
    if half == 0:
        raise ValueError(
            f"image: the object is {right - left + 1}x{lower - upper + 1} pixels, expected 3 or more; check the mask"
        )
    x, y = (left + right) / 2, (upper + lower) / 2
    # round() rounds halves to even at both ends, so the box stays square.
    return round(x - half), round(y - half), round(x + half), round(y + half)


def _premultiplied(rgba: Image.Image) -> Image.Image:
    values = unit_array(rgba)
    return Image.fromarray((values[:, :, :3] * values[:, :, 3:] * 255).astype(np.uint8))


def unit_array(image: Image.Image) -> np.ndarray:
    """Returns the image as [H, W, C] float32, 0 to 1."""
    return np.asarray(image).astype(np.float32) / 255


def resized(image: Image.Image, size: int) -> Image.Image:
    """Resizes to size x size pixels (Lanczos). Raises ValueError unless `size` is positive."""
    if size < 1:
        raise ValueError(f"size: expected a positive number of pixels, got {size}")
    return image.resize((size, size), Image.Resampling.LANCZOS)


def check_rgb(image: Image.Image, name: str) -> None:
    """Raises ValueError unless `image`, called `name` in the message, is RGB."""
    if image.mode != "RGB":
        raise ValueError(f"{name}: expected an RGB image, as from prepare_image, got mode {image.mode}")
