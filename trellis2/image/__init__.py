"""Pictures: background removal, the reference's crop, the encoder's input, ComfyUI's tensors."""

from __future__ import annotations

from .comfy import from_comfy, to_comfy
from .cut_out import ALPHA, AUTO, BACKGROUNDS, PLAIN, REMBG, CutOut, cut_out, read_picture
from .matte import BackgroundError, Matte, remove_background
from .prepare import IMAGENET_MEAN, IMAGENET_STD, normalize_pixels, prepare_image, to_pixels

__all__ = [
    "ALPHA",
    "AUTO",
    "BACKGROUNDS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "PLAIN",
    "REMBG",
    "BackgroundError",
    "CutOut",
    "Matte",
    "cut_out",
    "from_comfy",
    "normalize_pixels",
    "prepare_image",
    "read_picture",
    "remove_background",
    "to_comfy",
    "to_pixels",
]
