"""Decodes the images of mesh files."""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Formats that are read: those of pictures and textures. Pillow knows more, and runs a program for one of them.
FORMATS = ("AVIF", "BMP", "DDS", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
# Of one image: 16,384 by 8,192, 0.5 GB as RGBA. Pillow has a limit of its own not far above.
MAX_PIXELS = 1 << 27
# What Pillow raises for a malformed image, besides OSError and ValueError.
MALFORMED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    struct.error,
    zlib.error,
)
# What `decoded` and Pillow raise for an image that is left out.
UNREADABLE = (*MALFORMED, MemoryError, OSError, ValueError)


@contextmanager
def opened(source: Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Context manager: opens an image file, of which no pixel is decoded before it is known to be no bomb.

    Raises ValueError for another format than FORMATS, for more than max_pixels, and in place of Pillow's own errors;
    OSError where the file cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Of malformed tags, which do no harm; and of sizes, of which the limit below is the one that counts.
            warnings.simplefilter("ignore")  # noqa: TID251 for this picture alone
            Image.init()
            picture = Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
            if math.prod(picture.size) > max_pixels:
                raise ValueError(
                    f"expected at most {max_pixels:,} pixels, got {picture.width} × {picture.height}; make it smaller"
                )
            with picture:
                yield picture
    except Image.DecompressionBombError as error:
        raise ValueError(f"expected at most {max_pixels:,} pixels, got more; make it smaller") from error
    except UnidentifiedImageError as error:
        raise ValueError("it is in no image format that Pillow reads") from error
    except OSError as error:
        # Of the operating system, which has a number, or of a decoder.
        if error.errno is not None:
            raise
        raise ValueError(f"damaged image: {error}") from error
    except MALFORMED as error:
        raise ValueError(f"damaged image: {error or type(error).__name__}") from error


def decoded(content: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes an image file to RGBA [H, W, 4] uint8. Raises ValueError for one that cannot be read or is larger."""
    with opened(io.BytesIO(content), max_pixels) as picture:
        return pixels(picture)


def pixels(picture: Image.Image) -> np.ndarray:
    """Returns a picture's RGBA [H, W, 4] uint8; 16-bit greys lose their lower 8 bits, which Pillow would clip."""
    if picture.mode.startswith("I"):
        grey = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.stack([grey, grey, grey, np.full_like(grey, 255)], 2)
    return np.asarray(picture.convert("RGBA"))
