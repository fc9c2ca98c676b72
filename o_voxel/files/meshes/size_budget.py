"""A file within a size: cheaper encodings one after the other, then smaller textures, until it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from .options import SaveOptions

QUALITIES = (90, 80, 70)
# Textures are not made smaller than this on a side: below, nothing can be made out.
SMALLEST_TEXTURE = 64


@dataclass(frozen=True)
class SizedFile:
    """A file's bytes, the options that made it, and what they give up, in words, from the first step to the last."""

    content: bytes
    options: SaveOptions
    changes: tuple[str, ...]


def fit_size_budget(encode: Callable[[SaveOptions], bytes], options: SaveOptions, largest_side: int) -> SizedFile:
    """The first file of `encode` that takes at most `options.max_bytes`: as asked, else by the steps below.

    JPEG or WebP at ever lower quality (JPEG where PNG was asked for), quantised geometry, then textures of half the
    size, again and again. Later steps keep the earlier ones. largest_side: of the textures, in texels; 0 without any.
    Raises ValueError with the smallest size that was reached.
    """
    smallest = None
    for step, changes in _steps(options, largest_side):
        content = encode(step)
        if options.max_bytes is None or len(content) <= options.max_bytes:
            return SizedFile(content, step, changes)
        smallest = len(content) if smallest is None else min(smallest, len(content))
    raise ValueError(
        f"max_bytes: expected at least {smallest:,}, the smallest that textures and encodings allow, "
        f"got {options.max_bytes:,}; simplify the mesh to fewer faces"
    )


def _steps(options: SaveOptions, largest_side: int) -> Iterator[tuple[SaveOptions, tuple[str, ...]]]:
    """(options, changes in words), from what was asked for to the least."""
    yield options, ()
    quality, geometry, size = (), (), ()
    if largest_side:
        lossy = "jpeg" if options.image_format == "png" else options.image_format
        for number in QUALITIES:
            if options.image_format == "png" or number < options.quality:
                options = replace(options, image_format=lossy, quality=number)
                quality = (f"{lossy} at quality {number}",)
                yield options, quality
    if not options.quantize and not options.draco:
        options, geometry = replace(options, quantize=True), ("quantised geometry",)
        yield options, quality + geometry
    side = min(largest_side, options.max_texture or largest_side)
    while side > SMALLEST_TEXTURE:
        side = max((side + 1) // 2, SMALLEST_TEXTURE)
        options, size = replace(options, max_texture=side), (f"textures of at most {side} texels",)
        yield options, quality + geometry + size
