"""Codecs of .vxz streams: raw deflate, raw LZMA2, Zstandard, or none, with bounded decoding.

The decoded size of a stream is known in advance; a stream that would exceed it is rejected, not expanded.
"""

from __future__ import annotations

import importlib
import zlib
from types import ModuleType
from typing import NamedTuple


class Codec(NamedTuple):
    """Range and default of a codec's compression level."""

    lowest: int
    highest: int
    default: int


CODECS = {"none": Codec(0, 0, 0), "deflate": Codec(0, 9, 9), "lzma": Codec(0, 9, 9), "zstd": Codec(1, 22, 22)}

# Dictionary sizes of an LZMA2 decoder: the minimum, and the maximum over all preset levels.
_LZMA_DICTIONARY = (4096, 64 << 20)


def compress(data: bytes, codec: str, level: int) -> bytes:
    """Compresses `data`; deterministic for the same library version. Raises ImportError without zstd."""
    if codec == "deflate":
        encoder = zlib.compressobj(level, wbits=-15)
        return encoder.compress(data) + encoder.flush()
    if codec == "lzma":
        import lzma

        filters = [{"id": lzma.FILTER_LZMA2, "preset": level}]
        return lzma.compress(data, lzma.FORMAT_RAW, filters=filters)
    if codec == "zstd":
        return _compress_zstd(data, level)
    return data


def decompress(data: bytes, codec: str, limit: int) -> bytes:
    """Decompresses `data`, using about `limit` bytes beyond it. Raises ImportError without zstd.

    Raises ValueError if `data` is damaged, truncated, followed by more bytes, or decodes to more than `limit` bytes.
    """
    result = _DECODERS[codec](data, limit)
    if len(result) > limit:
        raise ValueError(f"{codec} stream: expected at most {limit} bytes, got more")
    return result


def _decompress_none(data: bytes, limit: int) -> bytes:
    return bytes(data[: limit + 1])


def _decompress_deflate(data: bytes, limit: int) -> bytes:
    decoder = zlib.decompressobj(wbits=-15)
    try:
        result = decoder.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"deflate stream is damaged: {error}") from error
    _check_end("deflate", decoder.eof or len(result) > limit, decoder.unused_data)
    return result


def _decompress_lzma(data: bytes, limit: int) -> bytes:
    import lzma

    # Match distances never exceed the output size, so the dictionary may be smaller than the encoder's 64 MiB.
    smallest, largest = _LZMA_DICTIONARY
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": min(max(limit, smallest), largest)}]
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
    try:
        result = decoder.decompress(data, limit + 1)
    except lzma.LZMAError as error:
        raise ValueError(f"lzma stream is damaged: {error}") from error
    _check_end("lzma", decoder.eof or len(result) > limit, decoder.unused_data)
    return result


def _decompress_zstd(data: bytes, limit: int) -> bytes:
    module = _zstd_module()
    built_in = module.__name__ != "zstandard"
    try:
        size = module.get_frame_info(data).decompressed_size if built_in else module.frame_content_size(data)
        if size is None or not 0 <= size <= limit:
            raise ValueError(f"zstd stream: expected a stated size of at most {limit} bytes, got {size}")
        if not built_in:
            return module.ZstdDecompressor().decompress(data, max_output_size=limit, allow_extra_data=False)
        decoder = module.ZstdDecompressor()
        result = decoder.decompress(data, limit + 1)
    except module.ZstdError as error:
        raise ValueError(f"zstd stream is damaged: {error}") from error
    _check_end("zstd", decoder.eof or len(result) > limit, decoder.unused_data)
    return result


def _compress_zstd(data: bytes, level: int) -> bytes:
    module = _zstd_module()
    if module.__name__ == "zstandard":
        return module.ZstdCompressor(level=level).compress(data)
    return module.compress(data, level)


def _zstd_module() -> ModuleType:
    for name in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError("zstd streams need Python 3.14 or the package `zstandard`: pip install zstandard")


def _check_end(codec: str, ended: bool, unused: bytes) -> None:
    if not ended:
        raise ValueError(f"{codec} stream is cut short")
    if unused:
        raise ValueError(f"{codec} stream: expected its end, got {len(unused)} more bytes")


_DECODERS = {
    "none": _decompress_none,
    "deflate": _decompress_deflate,
    "lzma": _decompress_lzma,
    "zstd": _decompress_zstd,
}
