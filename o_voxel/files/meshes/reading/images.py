"""Decodes the images of mesh files."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# What Pillow raises for an image that it cannot read.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def decoded(content: bytes) -> np.ndarray:
    """Decodes an image file to RGBA [H, W, 4] uint8. Raises one of UNREADABLE."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            return pixels(picture)
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def pixels(picture: Image.Image) -> np.ndarray:
    """Returns a picture's RGBA [H, W, 4] uint8; 16-bit greys lose their lower 8 bits, which Pillow would clip."""
    if picture.mode.startswith("I"):
        grey = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.stack([grey, grey, grey, np.full_like(grey, 255)], 2)
    return np.asarray(picture.convert("RGBA"))
