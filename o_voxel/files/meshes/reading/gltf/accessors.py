"""Accessors of a glTF file as arrays: strides, sparse values, normalised integers (KHR_mesh_quantization)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...gltf.document import COMPONENT_TYPES, SHAPES
from .source import Source

DTYPES = {code: np.dtype(name).newbyteorder("<") for name, code in COMPONENT_TYPES.items()}
WIDTHS = {**{shape: width for width, shape in SHAPES.items()}, "MAT2": 4, "MAT3": 9, "MAT4": 16}


def stored(source: Source, index: int) -> tuple[np.ndarray, bool]:
    """Returns (values [N, components] as stored, whether they are normalised). Raises ValueError if malformed."""
    accessor = source.item("accessors", index)
    dtype, width, count = DTYPES[accessor["componentType"]], WIDTHS[accessor["type"]], accessor["count"]
    if type(count) is not int or count < 0:
        raise ValueError(f"accessor {index}: expected a count of values, got {count!r:.40}")
    # As float32, or int64 for integers; zeros where nothing is stored.
    source.claim(count * width * max(4, dtype.itemsize), f"accessor {index}")
    values = _rows(source, accessor, dtype, (count, width), f"accessor {index}")
    if "sparse" in accessor:
        values = _with_sparse(source, accessor["sparse"], values, f"accessor {index}, sparse")
    return values, bool(accessor.get("normalized", False))


def floats(source: Source, index: int) -> np.ndarray:
    """Returns an accessor's values [N, components] as float32; normalised integers in [0, 1] or [-1, 1]."""
    values, normalized = stored(source, index)
    if normalized and values.dtype.kind in "iu":
        return np.maximum(values / np.iinfo(values.dtype).max, -1).astype(np.float32)
    return np.ascontiguousarray(values, np.float32)


def integers(source: Source, index: int) -> np.ndarray:
    """Returns an accessor's values [N, components] as int64. Raises ValueError unless it holds integers."""
    values, _ = stored(source, index)
    if values.dtype.kind not in "iu":
        raise ValueError(f"accessor {index}: expected integers, got {values.dtype.name}")
    return values.astype(np.int64)


def _rows(source: Source, place: dict[str, Any], dtype: np.dtype, shape: tuple[int, int], name: str) -> np.ndarray:
    """Reads [N, components] at a buffer view and offset; zeros without a view."""
    count, width = shape
    if "bufferView" not in place or count == 0:
        return np.zeros(shape, dtype)
    data, view = source.view(place["bufferView"]), source.item("bufferViews", place["bufferView"])
    row, start = dtype.itemsize * width, place.get("byteOffset", 0)
    stride = view.get("byteStride", row)
    if type(stride) is not int or type(start) is not int:
        raise ValueError(f"{name}: expected whole bytes, got stride {stride!r:.40} and offset {start!r:.40}")
    if min(start, stride - row) < 0 or start + (count - 1) * stride + row > len(data):
        raise ValueError(
            f"{name}: expected {count} values of {row} bytes from {start} on, {stride} apart, got a view of {len(data)}"
        )
    return np.ndarray(shape, dtype, data, start, (stride, dtype.itemsize))


def _with_sparse(source: Source, sparse: dict[str, Any], values: np.ndarray, name: str) -> np.ndarray:
    """Returns a copy of `values` [N, components] with the rows that `sparse` replaces."""
    count, where, what = sparse["count"], sparse["indices"], sparse["values"]
    if type(count) is not int or not 0 <= count <= len(values):
        raise ValueError(f"{name}: expected a count of at most {len(values)}, got {count!r:.40}")
    rows = _rows(source, where, DTYPES[where["componentType"]], (count, 1), name)[:, 0].astype(np.int64)
    if count and (rows.min() < 0 or rows.max() >= len(values)):
        raise ValueError(f"{name}: expected indices below {len(values)}, got {rows.max()}")
    out = values.copy()
    out[rows] = _rows(source, what, values.dtype, (count, values.shape[1]), name)
    return out
