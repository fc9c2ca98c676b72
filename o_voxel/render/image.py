"""Pictures to files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..core import color


def to_bytes(image: Tensor) -> Tensor:
    """Float in [0, 1], any shape, to uint8, rounded to nearest; NaN gives 0. A uint8 image passes."""
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ValueError(f"image: expected a float or uint8 image, got {image.dtype}")
    return color.to_bytes(image)


def save_png(path: str | Path, image: Tensor) -> Path:
    """Write an image [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], float in [0, 1] or uint8; returns the path.

    Values are written as they are: colours must be sRGB, a fourth channel is straight alpha. Needs Pillow.
    Raises ValueError for another shape or dtype, OSError where the file cannot be written.
    """
    from PIL import Image

    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] in (3, 4)):
        raise ValueError(f"image: expected shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got {list(image.shape)}")
    Image.fromarray(to_bytes(image).cpu().contiguous().numpy()).save(path, format="PNG")
    return Path(path)
