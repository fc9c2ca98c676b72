"""Multi-threaded PNG encoder: bands of rows are filtered and deflated independently.

Format: PNG specification (ISO/IEC 15948), zlib and deflate streams (RFC 1950, 1951).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from ....core.backend import Backend, always, numba_probe, resolve_backend
from ....core.progress import Progress, silent

BACKENDS = (Backend("numba", numba_probe, when="for images of 8 MiB and more"), Backend("zlib", always))
# Bytes per band. Fixed, so that the file does not depend on the number of threads.
BAND_BYTES = 1 << 18
# Images with fewer bytes, 1024 texels square among them, are not worth the seconds that numba compiles once a machine.
NUMBA_BYTES = 8 << 20
SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
ADLER_MODULUS = 65521


class _Band(NamedTuple):
    chunk: bytes
    adler: int
    size: int


def encode_png(
    image: np.ndarray,
    level: int = 1,
    threads: int | None = None,
    progress: Progress | None = None,
    *,
    backend: str = "auto",
) -> bytes:
    """Encodes `image` [H, W, C] uint8: C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; row 0 is the top row.

    level: zlib level, 0 (stored) to 9 (smallest). Level 1 matches runs of one byte only: on textures as small as
    Pillow's default and many times as fast; exactly repeating patterns need 2 or more.
    threads: None for one per core; does not affect the output.  progress: called with the fraction done after each
    band; may raise.
    backend: "numba" filters rows by compiled loops, and at level 1 deflates by them too: the same bytes on every
    machine. "zlib" takes numpy and zlib, and other levels zlib: the same bytes with one version of zlib. "auto": numba
    for images of NUMBA_BYTES and more, if it is installed.
    Raises ValueError for another shape, dtype or level, or a backend that does not work.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in COLOR_TYPES or 0 in image.shape:
        raise ValueError(f"image: expected [H, W, 1 to 4] uint8, not empty, got {list(image.shape)} {image.dtype}")
    if not 0 <= level <= 9:
        raise ValueError(f"level: expected 0 to 9, got {level}")
    height, width, channels = image.shape
    rows = np.ascontiguousarray(image).reshape(height, width * channels)
    device = torch.device("cpu")
    small = backend == "auto" and image.nbytes < NUMBA_BYTES
    encode = _encoder(channels, level, "zlib" if small else resolve_backend(backend, BACKENDS, device))
    step = max(1, BAND_BYTES // (width * channels + 1))
    starts = range(0, height, step)
    report, bands = progress or silent, []
    pool = ThreadPoolExecutor(threads or os.cpu_count() or 1)
    try:
        for band in pool.map(lambda start: encode(rows, start, min(start + step, height)), starts):
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


def compile_kernels() -> None:
    """Encodes one texel by the loops that numba compiles, if it is installed."""
    if numba_probe(torch.device("cpu"), torch.float32) is None:
        encode_png(np.zeros((1, 1, 3), np.uint8), threads=1, backend="numba")


def _encoder(channels: int, level: int, backend: str) -> Callable[[np.ndarray, int, int], _Band]:
    """Returns what encodes `rows` [H, W C] uint8 from a start to an end as one IDAT chunk.

    A band is byte-aligned in the deflate stream.
    """
    if backend == "numba":
        from .kernel_cpu import deflate, filter_rows
    else:
        from .filters import filter_rows

    def encode(rows: np.ndarray, start: int, end: int) -> _Band:
        filtered = filter_rows(rows, start, end, channels).reshape(-1)
        last = end == len(rows)
        packed = deflate(filtered, last) if backend == "numba" and level == 1 else _by_zlib(filtered, level, last)
        # zlib header, before the first band only: deflate, 32 KiB window, no dictionary.
        stream = (b"" if start else b"\x78\x01", packed)
        return _Band(_chunk(b"IDAT", *stream), zlib.adler32(filtered), len(filtered))

    return encode


def _by_zlib(filtered: np.ndarray, level: int, last: bool) -> bytes:
    strategy = zlib.Z_RLE if level == 1 else zlib.Z_FILTERED
    encoder = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    return encoder.compress(filtered) + encoder.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def _adler_of_both(first: int, second: int, second_size: int) -> int:
    """Combines the Adler-32 checksums of two consecutive blocks."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + second_size * ((first & 0xFFFF) - 1)
    return high % ADLER_MODULUS << 16 | low % ADLER_MODULUS


def _chunk(kind: bytes, *parts: bytes | np.ndarray) -> bytes:
    check = zlib.crc32(kind)
    for part in parts:
        check = zlib.crc32(part, check)
    return b"".join([struct.pack(">I", sum(map(len, parts))), kind, *parts, struct.pack(">I", check)])
