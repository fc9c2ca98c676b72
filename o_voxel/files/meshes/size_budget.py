"""Fits a file to a size limit: lossier encodings, then smaller textures, until it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from .options import SaveOptions

QUALITIES = (90, 80, 70)
# Minimum texture side, texels; smaller textures are unrecognisable.
SMALLEST_TEXTURE = 64


class SizeError(ValueError):
    """A limit that no encoding meets. smallest: the bytes of the smallest one."""

    def __init__(self, smallest: int, limit: int) -> None:
        super().__init__(
            f"max_bytes: expected at least {smallest:,}, the smallest that textures and encodings allow, "
            f"got {limit:,}; simplify the mesh to fewer faces"
        )
        self.smallest = smallest


@dataclass(frozen=True)
class SizedFile:
    """An encoded file, its options, and descriptions of the quality reductions, in order."""

    content: bytes
    options: SaveOptions
    changes: tuple[str, ...]


def fit_size_budget(encode: Callable[[SaveOptions], bytes], options: SaveOptions, largest_side: int) -> SizedFile:
    """Returns the first encoding of at most `options.max_bytes`, starting with the requested options.

    Reductions, cumulative: JPEG or WebP at decreasing quality (JPEG replaces PNG), quantised geometry, then textures
    halved repeatedly. largest_side: of the textures, in texels; 0 without any.
    Raises SizeError, a ValueError, with the smallest size reached.
    """
    smallest = None
    for step, changes in _steps(options, largest_side):
        content = encode(step)
        if options.max_bytes is None or len(content) <= options.max_bytes:
            return SizedFile(content, step, changes)
        smallest = len(content) if smallest is None else min(smallest, len(content))
    raise SizeError(smallest or 0, options.max_bytes or 0)


def _steps(options: SaveOptions, largest_side: int) -> Iterator[tuple[SaveOptions, tuple[str, ...]]]:
    """Yields (options, descriptions of the changes), from the requested options to the smallest."""
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
