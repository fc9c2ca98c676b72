"""Decodes buffer views compressed by KHR_meshopt_compression or EXT_meshopt_compression.

Source: the bitstream and filters of the specification of KHR_meshopt_compression (Khronos, appendices A and B), whose
version 0 is EXT_meshopt_compression.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .....core.atomic_io import MAX_BYTES

MESHOPT_NAMES = ("KHR_meshopt_compression", "EXT_meshopt_compression")
# First bytes of the streams.
ATTRIBUTES, TRIANGLES, INDICES = (0xA0, 0xA1), (0xE1,), (0xD1,)
STRIDES_OF_FILTER = {"OCTAHEDRAL": (4, 8), "QUATERNION": (8,), "COLOR": (4, 8)}


def decode_view(data: np.ndarray, packed: dict[str, Any], max_bytes: int = MAX_BYTES) -> np.ndarray:
    """Decodes one buffer view, `data` [B] uint8, by the extension's object `packed`; returns uint8 [count · stride].

    max_bytes: maximum decoded size. Raises ValueError for a malformed stream, or one that is too short for its count,
    before anything is allocated; KeyError for a missing property.
    """
    count, stride, mode = packed["count"], packed["byteStride"], packed["mode"]
    name = packed.get("filter", "NONE")
    if type(count) is not int or type(stride) is not int or not isinstance(name, str):
        raise ValueError(f"meshopt: expected whole numbers and a name, got {count!r:.40}, {stride!r:.40}, {name!r:.40}")
    if count < 0 or stride < 1 or count * stride > max_bytes:
        raise ValueError(f"meshopt: expected at most {max_bytes:,} bytes, got {count} of {stride}")
    if mode == "ATTRIBUTES":
        if stride % 4 or stride > 256:
            raise ValueError(f"meshopt: expected a stride of 4 to 256 bytes, in fours, got {stride}")
        if stride not in STRIDES_OF_FILTER.get(name, (stride,)):
            raise ValueError(f"meshopt: expected a stride of {STRIDES_OF_FILTER[name]} for {name}, got {stride}")
        return _filtered(_attributes(data, count, stride), name).reshape(-1)
    if mode not in ("TRIANGLES", "INDICES") or stride not in (2, 4) or name != "NONE":
        raise ValueError(f"meshopt: expected indices of 2 or 4 bytes, got mode {mode}, stride {stride}, filter {name}")
    if mode == "TRIANGLES" and count % 3:
        raise ValueError(f"meshopt: expected whole triangles, got {count} indices")
    decoded = _indices(data, count, mode)
    return decoded.astype("<u2" if stride == 2 else "<u4").view(np.uint8)


def _head(data: np.ndarray, allowed: tuple[int, ...]) -> int:
    if len(data) == 0 or int(data[0]) not in allowed:
        found = f"{int(data[0]):#x}" if len(data) else "nothing"
        raise ValueError(f"meshopt: expected a stream that begins with {allowed[-1]:#x}, got {found}")
    return int(data[0])


def _indices(data: np.ndarray, count: int, mode: str) -> np.ndarray:
    """Returns the indices [count] int64 of a stream of triangles or of single indices."""
    from . import kernel_cpu

    _head(data, TRIANGLES if mode == "TRIANGLES" else INDICES)
    # A byte for each triangle, or for each index, and the tail.
    if len(data) < (count // 3 + 17 if mode == "TRIANGLES" else count + 5):
        raise ValueError(f"meshopt: {len(data)} bytes are too few for {count} indices")
    out = np.zeros(count, np.int64)
    decode = kernel_cpu.decode_triangles if mode == "TRIANGLES" else kernel_cpu.decode_indices
    if decode(data, out) < 0:
        raise ValueError(f"meshopt: malformed stream of {count} indices in {len(data)} bytes")
    return out


def _attributes(data: np.ndarray, count: int, stride: int) -> np.ndarray:
    """Returns the elements [count, stride] uint8 of an attribute stream."""
    from . import kernel_cpu

    version = _head(data, ATTRIBUTES) & 1
    modes = stride // 4 if version else 0
    end = len(data) - max(stride + modes, 24 if version else 32)
    # A block has its control bytes at least; in version 0, a byte for each of its columns.
    blocks = -(-count // min((8192 // stride) & ~15, 256))
    if end < 1 + blocks * (modes or stride):
        raise ValueError(f"meshopt: {len(data)} bytes are too few for {count} elements of {stride}")
    deltas = np.zeros((count, stride), np.uint8)
    if kernel_cpu.unpack_deltas(data, version, deltas, end) != end:
        raise ValueError(f"meshopt: malformed stream of {count} elements in {len(data)} bytes")
    tail = data[len(data) - stride - modes :]
    base, channels = tail[:stride], tail[stride:]
    out = np.empty_like(deltas)
    for channel in range(stride // 4):
        columns = slice(4 * channel, 4 * channel + 4)
        mode = int(channels[channel]) if version else 0
        first, rows = base[columns], np.ascontiguousarray(deltas[:, columns])
        out[:, columns] = _undelta(first, rows, mode)
    return out


def _undelta(first: np.ndarray, rows: np.ndarray, mode: int) -> np.ndarray:
    """Returns elements [N, 4] uint8 from their predecessors' differences `rows`; first [4]: what stands before them."""
    kind, turn = mode & 15, mode >> 4
    if kind > 2 or (turn and kind != 2):
        raise ValueError(f"meshopt: expected a channel mode of 0 to 2, got {mode:#x}")
    dtype = ("u1", "<u2", "<u4")[kind]
    codes, before = rows.view(dtype), np.ascontiguousarray(first).view(dtype)
    if kind == 2:
        turned = codes if turn == 0 else (codes << np.uint32(turn)) | (codes >> np.uint32(32 - turn))
        values = np.bitwise_xor.accumulate(np.concatenate([before[None], turned]), axis=0)[1:]
    else:
        one = codes.dtype.type(1)
        signed = np.where(codes & one, ~(codes >> one), codes >> one)
        values = np.cumsum(np.concatenate([before[None], signed]), axis=0, dtype=codes.dtype)[1:]
    return np.ascontiguousarray(values.astype(dtype)).view(np.uint8).reshape(-1, 4)


def _filtered(elements: np.ndarray, name: str) -> np.ndarray:
    """Applies a filter to elements [N, stride] uint8; the result has the same shape and type."""
    stride = elements.shape[1]
    if name == "NONE" or len(elements) == 0:
        return elements
    if name == "EXPONENTIAL":
        words = elements.view("<i4")
        with np.errstate(over="ignore"):
            return np.ldexp(((words << 8) >> 8).astype(np.float32), words >> 24).astype("<f4").view(np.uint8)
    bits = 8 if stride == 4 else 16
    signed, unsigned = f"<i{bits // 8}", f"<u{bits // 8}"
    if name == "OCTAHEDRAL":
        return _octahedral(elements.view(signed)).astype(signed).view(np.uint8)
    if name == "QUATERNION":
        return _quaternions(elements.view(signed)).astype(signed).view(np.uint8)
    if name == "COLOR":
        return _colors(elements.view(unsigned), elements.view(signed)).astype(unsigned).view(np.uint8)
    raise ValueError(f"meshopt: expected a filter of KHR_meshopt_compression, got {name!r:.40}")


def _octahedral(values: np.ndarray) -> np.ndarray:
    """Unit vectors [N, 3] and a fourth column as it is, from octahedral coordinates and their 1.0 in column 2."""
    top = np.iinfo(values.dtype).max
    one = np.maximum(values[:, 2:3].astype(np.float64), 1)
    plane = values[:, :2] / one
    height = 1 - np.abs(plane).sum(1, keepdims=True)
    plane = plane - np.copysign(np.minimum(height, 0), plane)
    vectors = np.concatenate([plane, height], 1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.concatenate([_rounded(vectors * top), values[:, 3:]], 1)


def _quaternions(values: np.ndarray) -> np.ndarray:
    """Unit quaternions [N, 4] from their three smaller components and the place of the largest."""
    one = (values[:, 3:] | 3).astype(np.float64)
    small = values[:, :3] / one * np.sqrt(0.5)
    largest = np.sqrt(np.maximum(1 - (small**2).sum(1, keepdims=True), 0))
    whole = _rounded(np.concatenate([largest, small], 1) * 32767)
    places = ((values[:, 3:] & 3).astype(np.int64) + np.arange(4)) % 4
    out = np.empty_like(whole)
    np.put_along_axis(out, places, whole, 1)
    return out


def _colors(values: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """RGBA [N, 4] from luma, two chrominances and alpha, whose highest bit gives the range."""
    top = np.iinfo(values.dtype).max
    luma, alpha = values[:, 0].astype(np.int64), values[:, 3].astype(np.int64)
    orange, green = signed[:, 1].astype(np.int64), signed[:, 2].astype(np.int64)
    full = (1 << np.frexp(alpha.astype(np.float64))[1].astype(np.int64)) - 1
    alpha = alpha & (full >> 1)
    alpha = (alpha << 1) | (alpha & 1)
    rgba = np.stack([luma + orange - green, luma + green, luma - orange - green, alpha], 1)
    return _rounded(rgba * (top / np.maximum(full, 1))[:, None]).clip(0, top)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Rounds halves away from zero."""
    return np.copysign(np.floor(np.abs(values) + 0.5), values)
