"""Converts pictures from and to ComfyUI's tensors.

Alpha is 255 (PIL) or 1 (tensors) on the object and 0 outside. ComfyUI's LoadImage outputs 1 - alpha as MASK, its
background removal nodes output alpha. Functions here take alpha; the caller inverts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...o_voxel.core.checks import FLOATS, check_tensor
from ...o_voxel.core.color import to_bytes
from .prepare import check_rgb, resized, unit_array

PLACEHOLDER_SIDE = 64  # ComfyUI's LoadImage outputs a 64x64 MASK for a file without alpha


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
        check_rgb(image, f"images[{index}]")
    if size is not None:
        images = [resized(image, size) for image in images]
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        listed = ", ".join(f"{width}x{height}" for width, height in sizes[:5])
        raise ValueError(f"images: expected one size in a batch, got {listed}; pass size= to resize them to a square")
    return torch.from_numpy(np.stack([unit_array(image) for image in images]))


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
        placeholder = tuple(alpha.shape[1:]) == (PLACEHOLDER_SIDE, PLACEHOLDER_SIDE)
        hint = "; LoadImage gives 64x64 for a file without alpha: remove the background first" if placeholder else ""
        raise ValueError(f"alpha: expected {list(shape)}, or one for all images, got {list(alpha.shape)}{hint}")
    return alpha.expand(shape)
