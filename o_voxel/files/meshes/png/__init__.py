"""Multi-threaded PNG encoder: bands of rows are filtered and deflated independently.

Format: PNG specification (ISO/IEC 15948), zlib and deflate streams (RFC 1950, 1951).
"""

from __future__ import annotations

import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ...core.progress import Progress, silent

# Bytes per band. Fixed, so that the file does not depend on the number of threads.
BAND_BYTES = 1 << 18
SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
# Filter types tried on each row. None and Average are rarely best on textures.
SUB, UP, PAETH = 1, 2, 4
ADLER_MODULUS = 65521


class _Band(NamedTuple):
    chunk: bytes
    adler: int
    size: int


def encode_png(
    image: np.ndarray, level: int = 1, threads: int | None = None, progress: Progress | None = None
) -> bytes:
    """Encodes `image` [H, W, C] uint8: C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; row 0 is the top row.

    level: zlib level, 0 (stored) to 9 (smallest). Level 1 uses run-length matching only: on textures as small as
    Pillow's default and ten times as fast; exactly repeating patterns need 2 or more.
    threads: None for one per core; does not affect the output.  progress: called with the fraction done after each
    band; may raise. Raises ValueError for another shape, dtype or level.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in COLOR_TYPES or 0 in image.shape:
        raise ValueError(f"image: expected [H, W, 1 to 4] uint8, not empty, got {list(image.shape)} {image.dtype}")
    if not 0 <= level <= 9:
        raise ValueError(f"level: expected 0 to 9, got {level}")
    height, width, channels = image.shape
    rows = np.ascontiguousarray(image).reshape(height, width * channels)
    step = max(1, BAND_BYTES // (width * channels + 1))
    starts = range(0, height, step)
    report, bands = progress or silent, []
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
    try:
        for band in pool.map(lambda start: _encode_band(rows, start, start + step, channels, level), starts):
            bands.append(band)
            report(len(bands) / len(starts))
    finally:
        # After an error, bands that wait are not begun.
        pool.shutdown(cancel_futures=True)
    adler = 1
    for band in bands:
        adler = _adler_of_both(adler, band.adler, band.size)
    header = struct.pack(">IIBBBBB", width, height, 8, COLOR_TYPES[channels], 0, 0, 0)
    parts = [SIGNATURE, _chunk(b"IHDR", header), *(band.chunk for band in bands)]
    return b"".join([*parts, _chunk(b"IDAT", struct.pack(">I", adler)), _chunk(b"IEND", b"")])


def _encode_band(rows: np.ndarray, start: int, end: int, channels: int, level: int) -> _Band:
    """Encodes `rows` [H, W C] uint8 from `start` to `end` as one IDAT chunk, byte-aligned in the deflate stream."""
    filtered = _filter(rows, start, min(end, len(rows)), channels).tobytes()
    strategy = zlib.Z_RLE if level == 1 else zlib.Z_FILTERED
    encoder = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    last = end >= len(rows)
    # zlib header, before the first band only: deflate, 32 KiB window, no dictionary.
    stream = b"" if start else b"\x78\x01"
    stream += encoder.compress(filtered) + encoder.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
    return _Band(_chunk(b"IDAT", stream), zlib.adler32(filtered), len(filtered))


def _filter(rows: np.ndarray, start: int, end: int, channels: int) -> np.ndarray:
    """Filters R rows; returns [R, 1 + W C] uint8, filter type first. Picks the minimum sum of absolute differences."""
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
    """Paeth predictor of [R, W] uint8 neighbours, computed in uint8, eight times as fast as in wider integers.

    The estimate left + up - corner differs from `left` by |up - corner|, from `up` by |left - corner|, and from
    `corner` by their sum if both are on one side of it, else by their difference; only then can `corner` be nearest.
    """
    to_left, to_up = _distance(up, corner), _distance(left, corner)
    small = np.minimum(to_left, to_up)
    between = (left > corner) != (up > corner)
    between &= np.maximum(to_left, to_up) - small < small
    return _choose(between, corner, _choose(to_left <= to_up, left, up))


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(a, b) - np.minimum(a, b)


def _choose(condition: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """np.where on [R, W] uint8 by bit operations, which numpy vectorises."""
    return ((yes ^ no) & -condition.view(np.uint8)) ^ no


def _adler_of_both(first: int, second: int, second_size: int) -> int:
    """Combines the Adler-32 checksums of two consecutive blocks."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + second_size * ((first & 0xFFFF) - 1)
    return high % ADLER_MODULUS << 16 | low % ADLER_MODULUS


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
