"""Prepares images as the reference does (matte, crop, premultiply) and converts from and to ComfyUI's tensors.

Alpha is 255 (PIL) or 1 (tensors) on the object and 0 outside. ComfyUI's LoadImage outputs 1 - alpha as MASK, its
background removal nodes output alpha. Functions here take alpha; the caller inverts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..o_voxel.core.checks import FLOATS, check_tensor
from ..o_voxel.core.color import to_bytes

MAX_SIDE = 1024  # pixels; larger images are downscaled before the crop
OBJECT_ALPHA = 204  # of 255; the crop is the box of pixels above it
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_PLACEHOLDER_SIDE = 64  # ComfyUI's LoadImage outputs a 64x64 MASK for a file without alpha


def prepare_image(image: Image.Image, mask: Image.Image | None = None) -> Image.Image:
    """Crops a square around the object and multiplies it by its alpha, on black.

    image: any 8-bit mode, W x H pixels.  mask: "L" or "1", W x H, 255 on the object; it replaces the image's alpha.
    Returns RGB, N x N pixels with N even: the longer side of the bounding box of alpha above OBJECT_ALPHA, in the image
    downscaled to at most MAX_SIDE pixels a side. N is not the encoder's input size; `to_pixels` resizes.

    Raises ValueError: no transparency and no mask, nothing opaque, an object under 3 pixels, a mask of another size, a
    mode with more than 8 bits. Same bytes as the reference's preprocess_image on an image with alpha
    (microsoft/TRELLIS.2, trellis2_image_to_3d.py) for one version of Pillow; another may round its resize differently.
    """
    rgba = _downscale(_with_alpha(image, mask))
    return _premultiplied(rgba.crop(_object_box(np.asarray(rgba)[:, :, 3])))


def to_pixels(image: Image.Image, size: int) -> Tensor:
    """Returns the encoder's input [3, size, size] float32: Lanczos resize, normalised by ImageNet's mean and deviation.

    size: pixels a side.  Raises ValueError unless `image` is RGB, as from `prepare_image`, and `size` positive.
    """
    _check_rgb(image, "image")
    return normalize_pixels(torch.from_numpy(np.array(_resized(image, size)))).permute(2, 0, 1)


def normalize_pixels(image: Tensor) -> Tensor:
    """Normalises RGB bytes [..., 3] uint8 by ImageNet's mean and deviation to float32, on the same device."""
    check_tensor(image, "image", (None,) * (image.ndim - 1) + (3,), torch.uint8)
    mean, std = (torch.tensor(values, device=image.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image.float() / 255 - mean) / std


def from_comfy(images: Tensor, alpha: Tensor | None = None) -> list[Image.Image]:
    """Converts a ComfyUI IMAGE batch to RGBA images; bytes are round(255 * value), which restores those of a loaded
    file.

    images: [B, H, W, 3 or 4] float, 0 to 1 (clamped), straight (not premultiplied) colour.
    alpha: [B, H, W], [1, H, W] (for every image) or [H, W] float, 1 on the object; it replaces a fourth channel. For
    the MASK of LoadImage pass 1 - mask. With neither, alpha is 255 everywhere, which `prepare_image` rejects.

    Raises ValueError for other shapes or dtypes and for NaN. An empty batch gives an empty list.
    """
    check_tensor(images, "images", (None, None, None, None), FLOATS)
    batch, height, width, channels = images.shape
    if channels not in (3, 4):
        raise ValueError(f"images: expected 3 or 4 channels last, got shape {list(images.shape)}")
    colours = _to_bytes(images, "images")
    if alpha is not None:
        opacity = _to_bytes(_batched_alpha(alpha, (batch, height, width)), "alpha")
    elif channels == 4:
        opacity = colours[..., 3]
    else:
        opacity = np.full((batch, height, width), 255, np.uint8)
    rgba = np.concatenate([colours[..., :3], opacity[..., None]], axis=-1)
    return [Image.fromarray(pixels) for pixels in rgba]


def to_comfy(images: Sequence[Image.Image], size: int | None = None) -> Tensor:
    """Converts RGB images to a ComfyUI IMAGE batch, [B, H, W, 3] float32, 0 to 1.

    size: pixels a side to resize every image to (Lanczos), required for images of different sizes. Resized images are a
    preview: condition on the originals, since `to_pixels` would resample these again. Without `size`, `from_comfy`
    restores the same bytes.

    Raises ValueError for an empty list, a mode other than RGB, and different sizes without `size`.
    """
    if not images:
        raise ValueError("images: expected at least one image, got none")
    for index, image in enumerate(images):
        _check_rgb(image, f"images[{index}]")
    if size is not None:
        images = [_resized(image, size) for image in images]
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height}" for width, height in sizes[:5])
        raise ValueError(f"images: expected one size in a batch, got {listed}; pass size= to resize them to a square")
    return torch.from_numpy(np.stack([_unit_array(image) for image in images]))


def _with_alpha(image: Image.Image, mask: Image.Image | None) -> Image.Image:
    if image.mode not in _EIGHT_BIT_MODES:
        raise ValueError(f"image: expected one of the modes {', '.join(_EIGHT_BIT_MODES)}, got {image.mode}")
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


def _downscale(rgba: Image.Image) -> Image.Image:
    """Downscales to at most MAX_SIDE pixels a side. Pillow resizes RGBA premultiplied: no colour bleeds from
    transparent pixels."""
    scale = min(1, MAX_SIDE / max(rgba.size))
    if scale == 1:
        return rgba
    size = int(rgba.width * scale), int(rgba.height * scale)
    if min(size) < 1:
        raise ValueError(f"image: {rgba.width}x{rgba.height} is too narrow to reduce to {MAX_SIDE} pixels")
    return rgba.resize(size, Image.Resampling.LANCZOS)


def _object_box(alpha: np.ndarray) -> tuple[int, int, int, int]:
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
    half = max(right - left, lower - upper) // 2
    if half == 0:
        raise ValueError(
            f"image: the object is {right - left + 1}x{lower - upper + 1} pixels, expected 3 or more; check the mask"
        )
    x, y = (left + right) / 2, (upper + lower) / 2
    # round() rounds halves to even at both ends, so the box stays square.
    return round(x - half), round(y - half), round(x + half), round(y + half)


def _premultiplied(rgba: Image.Image) -> Image.Image:
    values = _unit_array(rgba)
    return Image.fromarray((values[:, :, :3] * values[:, :, 3:] * 255).astype(np.uint8))


def _unit_array(image: Image.Image) -> np.ndarray:
    """Returns the image as [H, W, C] float32, 0 to 1."""
    return np.asarray(image).astype(np.float32) / 255


def _resized(image: Image.Image, size: int) -> Image.Image:
    if size < 1:
        raise ValueError(f"size: expected a positive number of pixels, got {size}")
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _check_rgb(image: Image.Image, name: str) -> None:
    if image.mode != "RGB":
        raise ValueError(f"{name}: expected an RGB image, as from prepare_image, got mode {image.mode}")


def _to_bytes(values: Tensor, name: str) -> np.ndarray:
    """Converts values [...] float, clamped to 0 to 1, to uint8 on the CPU. Raises ValueError for NaN."""
    values = values.detach().to("cpu", torch.float32)
    if values.isnan().any():
        raise ValueError(f"{name}: expected numbers from 0 to 1, got NaN")
    return to_bytes(values, "half even").numpy()


def _batched_alpha(alpha: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Expands alpha [B, H, W], [1, H, W] or [H, W] to `shape`, [B, H, W]."""
    if isinstance(alpha, Tensor) and alpha.ndim == 2:
        alpha = alpha[None]
    check_tensor(alpha, "alpha", (None, None, None), FLOATS)
    if alpha.shape[0] not in (1, shape[0]) or alpha.shape[1:] != shape[1:]:
        placeholder = tuple(alpha.shape[1:]) == (_PLACEHOLDER_SIDE, _PLACEHOLDER_SIDE)
        hint = "; LoadImage gives 64x64 for a file without alpha: remove the background first" if placeholder else ""
        raise ValueError(f"alpha: expected {list(shape)}, or one for all images, got {list(alpha.shape)}{hint}")
    return alpha.expand(shape)
