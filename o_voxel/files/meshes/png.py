"""PNG images, written by as many threads as there are cores: bands of rows, each filtered and deflated by itself.

Format: PNG specification (ISO/IEC 15948), zlib and deflate streams (RFC 1950, 1951).
"""

from __future__ import annotations

import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

# Bytes of one band. Fixed, because it shapes the file: threads may differ from machine to machine, bytes must not.
BAND_BYTES = 1 << 18
SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
# Filters of the specification that are tried on each row. None and Average hardly ever win on textures.
SUB, UP, PAETH = 1, 2, 4
ADLER_MODULUS = 65521


class _Band(NamedTuple):
    chunk: bytes
    adler: int
    size: int


def encode_png(image: np.ndarray, level: int = 1, threads: int | None = None) -> bytes:
    """The file of `image` [H, W, C] uint8: C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; row 0 is the top one.

    level: 0 (stored) to 9 (smallest), as zlib counts them. At 1 only runs of one byte are looked for: on textures that
    is as small as Pillow's default and ten times as fast; patterns that repeat exactly need 2 or more.
    threads: None for one a core. The bytes do not depend on it. Raises ValueError for another shape, type or level.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in COLOR_TYPES or 0 in image.shape:
        raise ValueError(f"image: expected [H, W, 1 to 4] uint8, not empty, got {list(image.shape)} {image.dtype}")
    if not 0 <= level <= 9:
        raise ValueError(f"level: expected 0 to 9, got {level}")
    height, width, channels = image.shape
    rows = np.ascontiguousarray(image).reshape(height, width * channels)
    step = max(1, BAND_BYTES // (width * channels + 1))
    starts = range(0, height, step)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        bands = list(pool.map(lambda start: _encode_band(rows, start, start + step, channels, level), starts))
    adler = 1
    for band in bands:
        adler = _adler_of_both(adler, band.adler, band.size)
    header = struct.pack(">IIBBBBB", width, height, 8, COLOR_TYPES[channels], 0, 0, 0)
    parts = [SIGNATURE, _chunk(b"IHDR", header), *(band.chunk for band in bands)]
    return b"".join([*parts, _chunk(b"IDAT", struct.pack(">I", adler)), _chunk(b"IEND", b"")])


def _encode_band(rows: np.ndarray, start: int, end: int, channels: int, level: int) -> _Band:
    """Rows `start` to `end` as one IDAT chunk, which begins and ends on a whole byte of the deflate stream."""
    filtered = _filter(rows, start, min(end, len(rows)), channels).tobytes()
    strategy = zlib.Z_RLE if level == 1 else zlib.Z_FILTERED
    encoder = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    last = end >= len(rows)
    # The stream's header stands before the first band: deflate with a window of 32 KiB, no dictionary.
    stream = b"" if start else b"\x78\x01"
    stream += encoder.compress(filtered) + encoder.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
    return _Band(_chunk(b"IDAT", stream), zlib.adler32(filtered), len(filtered))


def _filter(rows: np.ndarray, start: int, end: int, channels: int) -> np.ndarray:
    """[R, 1 + W] uint8: each row's filter and its differences, by the filter whose differences are smallest in sum."""
    padded = np.zeros((end - start + 1, channels + rows.shape[1]), np.uint8)
    first = max(start - 1, 0)
    padded[first - start + 1 :, channels:] = rows[first:end]
    here, left = padded[1:, channels:], padded[1:, :-channels]
    up, corner = padded[:-1, channels:], padded[:-1, :-channels]
    result = np.empty((end - start, 1 + rows.shape[1]), np.uint8)
    lowest = np.full(end - start, np.iinfo(np.uint64).max, np.uint64)
    for number, prediction in ((SUB, left), (UP, up), (PAETH, _paeth(left, up, corner))):
        difference = here - prediction
        cost = np.minimum(difference, -difference).sum(1, dtype=np.uint64)
        better = cost < lowest
        result[better, 0] = number
        result[better, 1:] = difference[better]
        lowest = np.minimum(lowest, cost)
    return result


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The nearest of the three to left + up - corner, the first of equals; uint8 all along, eight times as fast.

    The estimate is as far from `left` as `up` is from `corner`, and the other way round. Its distance from `corner` is
    the sum of both where they lie on one side of it, else their difference, and only then can `corner` be nearest.
    """
    to_left, to_up = _distance(up, corner), _distance(left, corner)
    small = np.minimum(to_left, to_up)
    between = (left > corner) != (up > corner)
    between &= np.maximum(to_left, to_up) - small < small
    return _choose(between, corner, _choose(to_left <= to_up, left, up))


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(a, b) - np.minimum(a, b)


def _choose(condition: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """np.where by bits, which numpy does in wide registers."""
    return ((yes ^ no) & -condition.view(np.uint8)) ^ no


def _adler_of_both(first: int, second: int, second_size: int) -> int:
    """The Adler-32 of two pieces in a row, from theirs."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + second_size * ((first & 0xFFFF) - 1)
    return high % ADLER_MODULUS << 16 | low % ADLER_MODULUS


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
