"""Reads and writes .vxz (Sparse Voxel Zip): voxel chunks, each a compressed octree and compressed attributes.

Supports every variant that the original writes. Decodes in two passes, octrees first: they determine the voxel count
and so the attribute sizes, which bounds memory before it is allocated.  N = voxels, C = channels of all attributes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ....core.atomic_io import MAX_BYTES, FilePath, naming, write_files
from ....core.checks import check_tensor
from ....core.progress import Progress, in_background, scaled
from ....voxels.morton import MAX_BITS, decode_z_order, encode_z_order
from ..records import VoxelRecords
from .compression import compress, decompress
from .filters import apply_filter, undo_filter
from .header import VxzChunk, VxzHeader, VxzLayout, check_channels, read_header, stream_columns, write_header
from .octree import count_leaves, decode_octree, encode_octree

# For the estimate of the time, on two CPU cores.
VOXELS_A_SECOND = 300_000


class _Octree(NamedTuple):
    """A partly decoded chunk. blob: compressed bytes.  nodes: [B] uint8 octree.  count: voxels."""

    chunk: VxzChunk
    blob: bytes
    nodes: np.ndarray
    count: int


def read_vxz_header(path: FilePath) -> VxzHeader:
    """Reads only the header: voxel count, layout, attributes, chunks. Raises ValueError if malformed; OSError."""
    with open(path, "rb") as file, naming(path):
        return read_header(file, _size(file))


def read_vxz(path: FilePath, max_bytes: int = MAX_BYTES, threads: int | None = None) -> VoxelRecords:
    """Reads coords [N, 3] int32 and attributes [N, C] uint8: chunks in file order, voxels of a chunk in z-order.

    max_bytes: maximum decoded size of coordinates and values; a larger claim is rejected before allocation.
    threads: chunks decoded in parallel; default, one per core. Raises ValueError, naming the file and the fault, for
    malformed files; ImportError for zstd without a decoder; OSError. Deterministic.
    """
    with open(path, "rb") as file, naming(path):
        header = _checked_header(file, max_bytes)
        octrees = list(_octrees(file, header))
        coords = torch.empty((header.num_voxels, 3), dtype=torch.int32)
        rows = torch.empty((header.num_voxels, header.num_channels), dtype=torch.uint8)
        ends = np.cumsum([octree.count for octree in octrees], dtype=np.int64).tolist()

        def decode(octree: _Octree, end: int) -> None:
            span = slice(end - octree.count, end)
            coords[span], rows[span] = _decode_chunk(octree, header)

        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            list(pool.map(decode, octrees, ends))
        return VoxelRecords(coords, _attributes(rows, header))


def write_vxz(
    path: FilePath,
    records: VoxelRecords,
    layout: VxzLayout | None = None,
    threads: int | None = None,
    *,
    progress: Progress | None = None,
) -> None:
    """Writes `records`, coords [N, 3] int32 and attributes [N, C] uint8, as a .vxz file in the original's byte layout.

    Accepts voxels in any order, on any device. layout: default, the original's. threads: chunks encoded in parallel;
    default, one per core. Replaces `path` atomically; deterministic for the same voxels and library versions. The
    original cannot read three variants: interleave "all", no attributes, no voxels.
    progress: called with the fraction done, 0 to 1; if it raises, nothing is written.
    Raises ValueError for duplicate voxels, coordinates more than 2**21 apart, values that are not uint8, a reserved
    attribute name, and a neighbor-filtered chunk too large for the original; ImportError for zstd without an encoder.
    """
    layout = layout or VxzLayout()
    channels = {name: values.shape[1] for name, values in records.attrs.items()}
    check_channels(channels)
    _check_neighbor_chunk(layout, sum(channels.values()))
    for name, values in records.attrs.items():
        check_tensor(values, f"attribute {name!r} of a .vxz", (len(records), None), torch.uint8)
    content = in_background(
        lambda report: _encoded(records, layout, channels, threads, report),
        scaled(progress, 0.0, 0.95),
        1 + len(records) / VOXELS_A_SECOND,
    )
    write_files({Path(path): content}, scaled(progress, 0.95, 0.05))


def _encoded(
    records: VoxelRecords, layout: VxzLayout, channels: dict[str, int], threads: int | None, report: Progress
) -> bytes:
    """The file that `write_vxz` writes. channels: number of each attribute's."""
    chunks = list(_split(records, layout))
    report(0.1)
    columns = stream_columns(channels, layout.attr_interleave)
    encoded, pool = [], ThreadPoolExecutor(threads or os.cpu_count())
    try:
        for streams in pool.map(lambda chunk: _encode_chunk(chunk[1], chunk[2], columns, layout), chunks):
            encoded.append(streams)
            report(0.1 + 0.9 * len(encoded) / len(chunks))
    finally:
        # After an error, chunks that wait are not begun.
        pool.shutdown(cancel_futures=True)
    entries = []
    start = 0
    for (index, *_), streams in zip(chunks, encoded, strict=True):
        size = sum(map(len, streams.values()))
        entries.append({"idx": index, **_spans(streams), "ptr": [start, size]})
        start += size
    raw_size = records.coords.numel() * 4 + sum(values.numel() for values in records.attrs.values())
    file = io.BytesIO()
    write_header(file, _fields(len(records), layout, channels, entries, (raw_size, start)))
    file.writelines(stream for streams in encoded for stream in streams.values())
    return file.getvalue()


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _checked_header(file: BinaryIO, max_bytes: int) -> VxzHeader:
    header = read_header(file, _size(file))
    stored = sum(chunk.span[1] for chunk in header.chunks)
    if max(header.decoded_bytes, stored) > max_bytes:
        raise ValueError(
            f"{header.num_voxels} voxels of {header.num_channels} channels, stored in {stored} bytes: "
            f"expected at most {max_bytes} bytes; allow more with max_bytes"
        )
    return header


def _octrees(file: BinaryIO, header: VxzHeader) -> Iterator[_Octree]:
    """Yields each chunk's bytes and octree. Raises ValueError if the voxel count differs from the header's."""
    depth = header.layout.depth
    full = (8**depth - 1) // 7
    left = header.num_voxels
    for chunk in header.chunks:
        with naming(f"chunk {chunk.index}"):
            file.seek(header.data_start + chunk.span[0])
            blob = file.read(chunk.span[1])
            nodes = np.frombuffer(_stream(chunk, blob, "svo", header, min(full, left * depth)), np.uint8)
            count = count_leaves(nodes, depth)
        if count > left:
            raise ValueError(f"expected {header.num_voxels} voxels, got more")
        left -= count
        yield _Octree(chunk, blob, nodes, count)
    if left:
        raise ValueError(f"expected {header.num_voxels} voxels, got {header.num_voxels - left}")


def _stream(chunk: VxzChunk, blob: bytes, name: str, header: VxzHeader, limit: int) -> bytes:
    offset, size = chunk.streams[name]
    with naming(name):
        return decompress(blob[offset : offset + size], header.layout.compression, limit)


def _decode_chunk(octree: _Octree, header: VxzHeader) -> tuple[Tensor, Tensor]:
    """Decodes a chunk of n voxels to coordinates [n, 3] int32 and values [n, C] uint8."""
    layout, count = header.layout, octree.count
    stored = np.empty((count, header.num_channels), np.uint8)
    with naming(f"chunk {octree.chunk.index}"):
        for name, columns in stream_columns(header.channels, layout.attr_interleave).items():
            width = columns.stop - columns.start
            values = _stream(octree.chunk, octree.blob, name, header, count * width)
            if len(values) != count * width:
                raise ValueError(f"{name}: expected {count * width} bytes for {count} voxels, got {len(values)}")
            stored[:, columns] = np.frombuffer(values, np.uint8).reshape(count, width)
    codes = decode_octree(octree.nodes, layout.depth, count)
    rows = undo_filter(stored, codes, layout.filter, layout.depth)
    corner = torch.tensor(octree.chunk.index, dtype=torch.int64) * layout.chunk_size
    return decode_z_order(torch.from_numpy(codes)) + corner.to(torch.int32), torch.from_numpy(rows)


def _attributes(rows: Tensor, header: VxzHeader) -> dict[str, Tensor]:
    parts = rows.split(list(header.channels.values()), dim=1) if header.channels else ()
    return {name: part.contiguous() for name, part in zip(header.channels, parts, strict=True)}


def _split(records: VoxelRecords, layout: VxzLayout) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Yields chunks by x, y, z: (index, z-order codes [n] int64 ascending, values [n, C] uint8)."""
    if len(records) == 0:
        return
    coords = records.coords.cpu().to(torch.int64)
    blocks = coords >> layout.depth
    low = blocks.amin(dim=0)
    extent = blocks.amax(dim=0) - low + 1
    if int(extent.max()) << layout.depth > 1 << MAX_BITS:
        raise ValueError(f"coords: expected at most 2**{MAX_BITS} voxels between the furthest along an axis")
    x, y, z = (blocks - low).unbind(dim=1)
    block = (x * extent[1] + y) * extent[2] + z
    codes = encode_z_order(coords & layout.chunk_size - 1)
    keys, order = (block << 3 * layout.depth | codes).sort()
    if bool((keys[1:] == keys[:-1]).any()):
        raise ValueError(f"coords: expected each voxel once, got {int((keys[1:] == keys[:-1]).sum())} again")
    rows = torch.cat([torch.empty((len(order), 0), dtype=torch.uint8), *(v.cpu() for v in records.attrs.values())], 1)
    _, counts = (keys >> 3 * layout.depth).unique_consecutive(return_counts=True)
    for part in order.split(counts.tolist()):
        yield blocks[part[0]].tolist(), codes[part].numpy(), rows[part].numpy()


def _encode_chunk(
    codes: np.ndarray, rows: np.ndarray, columns: dict[str, slice], layout: VxzLayout
) -> dict[str, bytes]:
    """Compresses a chunk, codes [n] int64 and values `rows` [n, C] uint8; returns its streams in file order."""
    stored = apply_filter(rows, codes, layout.filter, layout.depth)
    streams = {"svo": encode_octree(codes, layout.depth)} | {name: stored[:, part] for name, part in columns.items()}
    return {name: compress(values.tobytes(), layout.compression, layout.level) for name, values in streams.items()}


def _spans(streams: dict[str, bytes]) -> dict[str, list[int]]:
    spans = {}
    start = 0
    for name, stream in streams.items():
        spans[name] = [start, len(stream)]
        start += len(stream)
    return spans


def _fields(
    count: int, layout: VxzLayout, channels: dict[str, int], chunks: list[dict], sizes: tuple[int, int]
) -> dict:
    """Returns the header fields in the original's order. sizes: bytes before and after compression."""
    raw, compressed = sizes
    return {
        "num_voxel": count,
        "chunk_size": layout.chunk_size,
        "filter": layout.filter,
        "compression": layout.compression,
        "compression_level": layout.level,
        "raw_size": raw,
        "compressed_size": compressed,
        "compress_ratio": raw / compressed if compressed else 0.0,
        "attr_interleave": layout.attr_interleave,
        "attr": [[name, count] for name, count in channels.items()],
        "chunks": chunks,
    }


def _check_neighbor_chunk(layout: VxzLayout, num_channels: int) -> None:
    # The original decodes a chunk in a dense block of C + 1 bytes per voxel, with 32-bit indices.
    if layout.filter == "neighbor" and layout.chunk_size**3 * (num_channels + 1) >= 1 << 31:
        raise ValueError(
            f"chunk_size: expected one with chunk_size**3 * {num_channels + 1} below 2**31 for the neighbor filter and "
            f"{num_channels} channels, or the original could not read the file; got {layout.chunk_size}"
        )
