"""Header of a .vxz file: "VXZ", a zero byte, the data offset (u32, big endian), then JSON up to that offset.

Validates all sizes, ranges and names that a reader relies on. Stream offsets are relative to their chunk, chunk offsets
to the start of the data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from ....core.atomic_io import naming
from .compression import CODECS
from .filters import FILTERS

INTERLEAVES = ("none", "as_is", "all")
MAX_HEADER_BYTES = 64 << 20
MAX_CHANNELS = 4096

_START = struct.Struct(">3sBI")
_CHUNK_KEYS = ("idx", "svo", "ptr")
_INT32 = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True)
class VxzLayout:
    """Storage options of a .vxz. The defaults are the original's.

    chunk_size: voxels per chunk side, a power of two from 2 to 1024.  filter: "none", "parent" or "neighbor".
    compression: "none", "deflate", "lzma" or "zstd".  compression_level: None for the codec's highest; 0 to 9 for
    deflate and lzma, 1 to 22 for zstd, 0 for none.  attr_interleave: one stream per channel ("none"), per attribute
    ("as_is"), or in total ("all", which the original writes but cannot read).
    """

    chunk_size: int = 256
    filter: str = "none"
    compression: str = "lzma"
    compression_level: int | None = None
    attr_interleave: str = "as_is"

    def __post_init__(self) -> None:
        if self.chunk_size not in [1 << depth for depth in range(1, 11)]:
            raise ValueError(f"chunk_size: expected a power of two from 2 to 1024, got {self.chunk_size!r}")
        _check_choice("filter", self.filter, FILTERS)
        _check_choice("compression", self.compression, CODECS)
        _check_choice("attr_interleave", self.attr_interleave, INTERLEAVES)
        codec = CODECS[self.compression]
        if not codec.lowest <= self.level <= codec.highest:
            wanted = f"{codec.lowest} to {codec.highest} for {self.compression}"
            raise ValueError(f"compression_level: expected {wanted}, got {self.compression_level}")

    @property
    def depth(self) -> int:
        """Depth of a chunk's octree."""
        return self.chunk_size.bit_length() - 1

    @property
    def level(self) -> int:
        """The compression level, or the codec's default."""
        return CODECS[self.compression].default if self.compression_level is None else self.compression_level


@dataclass(frozen=True)
class VxzChunk:
    """index: chunk position, in chunks.  span: (offset, size) in the data.  streams: (offset, size) in the chunk."""

    index: tuple[int, int, int]
    span: tuple[int, int]
    streams: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class VxzHeader:
    """Contents of a .vxz header. channels: count by attribute, in order.  data_start: file offset, bytes."""

    num_voxels: int
    layout: VxzLayout
    channels: Mapping[str, int]
    chunks: tuple[VxzChunk, ...]
    data_start: int

    @property
    def num_channels(self) -> int:
        """Total channel count of all attributes."""
        return sum(self.channels.values())

    @property
    def decoded_bytes(self) -> int:
        """Size of the decoded voxels, bytes: int32 coordinates and uint8 values."""
        return self.num_voxels * (12 + self.num_channels)


def stream_columns(channels: Mapping[str, int], interleave: str) -> dict[str, slice]:
    """Returns the attribute streams of a chunk, in order: {name: columns of the values [N, C]}."""
    columns = {}
    start = 0
    for name, count in channels.items():
        if interleave == "none":
            columns |= {f"{name}_{i}": slice(start + i, start + i + 1) for i in range(count)}
        else:
            columns[name] = slice(start, start + count)
        start += count
    return {"attr": slice(0, start)} if interleave == "all" and start else columns


def write_header(file: BinaryIO, fields: dict) -> None:
    """Writes everything before the data. Raises ValueError for a header larger than `read_header` accepts."""
    text = json.dumps(fields).encode()
    start = _START.size + len(text)
    if start > MAX_HEADER_BYTES:
        raise ValueError(f"header of {start} bytes, expected at most {MAX_HEADER_BYTES}: use a larger chunk_size")
    file.write(_START.pack(b"VXZ", 0, start) + text)


def read_header(file: BinaryIO, file_size: int) -> VxzHeader:
    """Reads and validates the header at the start of `file`. Raises ValueError naming the fault.

    Guarantees: ranges are inside the file and their chunk and do not overlap; chunks are unique, in int32's range, and
    have exactly the streams of the attributes; `num_voxels` is possible for the number of chunks.
    """
    prefix = file.read(_START.size)
    if len(prefix) < _START.size:
        raise ValueError(f"expected a .vxz file, got {len(prefix)} bytes")
    magic, version, start = _START.unpack(prefix)
    if magic != b"VXZ" or version != 0:
        raise ValueError(f"expected a .vxz file of version 0, got one that begins with {prefix[:4]!r}")
    if not _START.size <= start <= min(file_size, MAX_HEADER_BYTES):
        raise ValueError(f"header ends at byte {start}, expected at most {min(file_size, MAX_HEADER_BYTES)}")
    try:
        fields = json.loads(file.read(start - _START.size))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"header is not JSON: {error}") from error
    return _parse(fields, start, file_size - start)


def _parse(fields: object, data_start: int, data_size: int) -> VxzHeader:
    fields = _object(fields, "header")
    layout = VxzLayout(
        chunk_size=_integer(_field(fields, "chunk_size"), "chunk_size"),
        filter=_field(fields, "filter"),
        compression=_field(fields, "compression"),
        attr_interleave=_field(fields, "attr_interleave"),
    )
    channels = _channels(_list(_field(fields, "attr"), "attr"))
    names = stream_columns(channels, layout.attr_interleave).keys()
    chunks = []
    for number, entry in enumerate(_list(_field(fields, "chunks"), "chunks")):
        with naming(f"chunk {number}"):
            chunks.append(_chunk(_object(entry, "entry"), {*names, *_CHUNK_KEYS}, layout.chunk_size, data_size))
    if len({chunk.index for chunk in chunks}) < len(chunks):
        raise ValueError("chunks: expected each idx once")
    _check_apart("chunks", (chunk.span for chunk in chunks))
    num_voxels = _integer(_field(fields, "num_voxel"), "num_voxel")
    if not len(chunks) <= num_voxels <= len(chunks) * layout.chunk_size**3:
        raise ValueError(f"num_voxel: got {num_voxels} in {len(chunks)} chunks of {layout.chunk_size}**3")
    return VxzHeader(num_voxels, layout, channels, tuple(chunks), data_start)


def _channels(entries: list) -> dict[str, int]:
    channels = {}
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise ValueError(f"attr: expected [name, channels], got {entry!r:.80}")
        name, count = entry[0], _integer(entry[1], "attr: channels")
        if name in channels or not 1 <= count <= MAX_CHANNELS:
            raise ValueError(f"attr: expected unique names with 1 to {MAX_CHANNELS} channels, got {entry!r:.80}")
        channels[name] = count
    check_channels(channels)
    return channels


def check_channels(channels: Mapping[str, int]) -> None:
    """Raises ValueError for more than MAX_CHANNELS channels in total, or a reserved attribute name."""
    reserved = [name for name in channels if name in _CHUNK_KEYS]
    if reserved:
        raise ValueError(f"attr: the format keeps the name {reserved[0]!r} for itself")
    if sum(channels.values()) > MAX_CHANNELS:
        raise ValueError(f"attr: expected at most {MAX_CHANNELS} channels, got {sum(channels.values())}")


def _chunk(entry: dict, keys: set[str], chunk_size: int, data_size: int) -> VxzChunk:
    if entry.keys() != keys:
        raise ValueError(f"expected the entries {sorted(keys)}, got {sorted(entry)!r:.200}")
    index = tuple(_integer(i, "idx", signed=True) for i in _list(entry["idx"], "idx"))
    if len(index) != 3 or not all(i * chunk_size in _INT32 and (i + 1) * chunk_size - 1 in _INT32 for i in index):
        raise ValueError(f"idx: expected three indices of voxels in int32's range, got {list(index)!r:.80}")
    span = _span(entry["ptr"], "ptr", data_size)
    streams = {name: _span(entry[name], name, span[1]) for name in entry if name not in ("idx", "ptr")}
    _check_apart("streams", streams.values())
    return VxzChunk(index, span, streams)


def _span(value: object, name: str, end: int) -> tuple[int, int]:
    numbers = tuple(_integer(i, name) for i in _list(value, name))
    if len(numbers) != 2 or sum(numbers) > end:
        raise ValueError(f"{name}: expected [offset, size] within {end} bytes, got {list(numbers)!r:.80}")
    return numbers


def _check_apart(name: str, spans: Iterable[tuple[int, int]]) -> None:
    end = 0
    for offset, size in sorted(spans):
        if offset < end:
            raise ValueError(f"{name}: the one at byte {offset} overlaps the one that ends at byte {end}")
        end = offset + size


def _check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    if value not in tuple(choices):
        raise ValueError(f"{name}: expected {', '.join(choices)}, got {value!r:.80}")


def _field(fields: dict, name: str) -> object:
    if name not in fields:
        raise ValueError(f"header: expected a field {name!r}")
    return fields[name]


def _object(value: object, name: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a JSON object, got {value!r:.80}")
    return value


def _list(value: object, name: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"{name}: expected a list, got {value!r:.80}")
    return value


def _integer(value: object, name: str, signed: bool = False) -> int:
    if type(value) is not int or (value < 0 and not signed) or abs(value) > 1 << 62:
        raise ValueError(f"{name}: expected a whole number, got {value!r:.80}")
    return value
