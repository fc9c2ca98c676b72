"""Builder for a glTF 2.0 document and its binary buffer, serialised as GLB.

Source: glTF 2.0 specification (Khronos), whose key names are used.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

COMPONENT_TYPES = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
VERTEX_DATA, INDEX_DATA = 34962, 34963
GLB_MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
MAX_SIZE = (1 << 32) - 1
GENERATOR = "ComfyUI-TRELLIS2"


class Document:
    """Collects glTF objects; `add_…` methods return an object's index. The output depends only on the calls."""

    def __init__(self) -> None:
        self._lists: dict[str, list[dict[str, Any]]] = {}
        # Joined once, at the end: textures are many megabytes.
        self._parts: list[bytes | memoryview] = []
        self._size = 0
        self._extensions: dict[str, bool] = {}

    def add(self, name: str, value: dict[str, Any]) -> int:
        """Appends `value` to the list `name` ("materials", "meshes", "nodes", ...) and returns its index."""
        rows = self._lists.setdefault(name, [])
        rows.append(value)
        return len(rows) - 1

    def add_once(self, name: str, value: dict[str, Any]) -> int:
        """Returns the index of an equal value, or adds `value`."""
        rows = self._lists.get(name, [])
        return rows.index(value) if value in rows else self.add(name, value)

    def use(self, extension: str, required: bool) -> None:
        """Declares an extension. required: readers without support must reject the file."""
        self._extensions[extension] = required or self._extensions.get(extension, False)

    def add_view(self, content: bytes | memoryview, **more: Any) -> int:
        """Adds a buffer view of `content`, which must not change any more, aligned to four bytes; returns its index."""
        self._append(bytes(-self._size % 4))
        view = {"buffer": 0, "byteOffset": self._size, "byteLength": len(content), **more}
        self._append(content)
        return self.add("bufferViews", view)

    def _append(self, content: bytes | memoryview) -> None:
        self._parts.append(content)
        self._size += len(content)

    def add_indices(self, indices: np.ndarray) -> int:
        """Adds an accessor of `indices` [N] int; returns its index."""
        narrow = narrow_indices(indices)
        return self.add_accessor(narrow[:, None], self.add_view(_bytes_of(narrow), target=INDEX_DATA))

    def add_vertices(self, values: np.ndarray, *, normalized: bool = False, bounds: bool = False) -> int:
        """Adds a vertex attribute accessor of `values` [N, 1 to 4], rows aligned to four bytes; returns its index."""
        size = values.itemsize * values.shape[1]
        stride = size + -size % 4
        if stride == size:
            view = self.add_view(_bytes_of(values), target=VERTEX_DATA)
            return self.add_accessor(values, view, normalized=normalized, bounds=bounds)
        padded = np.zeros((len(values), stride), np.uint8)
        padded[:, :size] = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), size)
        view = self.add_view(_bytes_of(padded), target=VERTEX_DATA, byteStride=stride)
        return self.add_accessor(values, view, normalized=normalized, bounds=bounds)

    def add_accessor(
        self, values: np.ndarray, view: int | None, *, normalized: bool = False, bounds: bool = False
    ) -> int:
        """Adds an accessor of `values` [N, 1 to 4]; returns its index. view: None if an extension holds the data."""
        accessor = {} if view is None else {"bufferView": view}
        accessor |= {"componentType": COMPONENT_TYPES[values.dtype.name], "count": len(values)}
        accessor["type"] = SHAPES[values.shape[1]]
        if normalized:
            accessor["normalized"] = True
        if bounds:
            accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        return self.add("accessors", accessor)

    def add_image(self, content: bytes, media_type: str) -> int:
        """Adds an embedded image; returns its index."""
        return self.add("images", {"bufferView": self.add_view(content), "mimeType": media_type})

    def to_glb(self, extras: Mapping[str, Any] | None = None) -> bytes:
        """Returns the GLB file. extras: JSON values for `asset.extras`."""
        self._append(bytes(-self._size % 4))
        asset = {"version": "2.0", "generator": GENERATOR, **({"extras": dict(extras)} if extras else {})}
        top: dict[str, Any] = {"asset": asset, "scene": 0, **self._lists}
        top["buffers"] = [{"byteLength": self._size}]
        for key, names in (("extensionsUsed", list(self._extensions)), ("extensionsRequired", self._required())):
            if names:
                top[key] = names
        return pack_glb(top, *self._parts)

    def _required(self) -> list[str]:
        return [name for name, required in self._extensions.items() if required]


def narrow_indices(indices: np.ndarray) -> np.ndarray:
    """Converts `indices` [N] to uint16 if all are below 65535 (the primitive restart value), else to uint32."""
    return indices.astype(np.uint16 if indices.max() < 65535 else np.uint32)


def _bytes_of(values: np.ndarray) -> memoryview:
    """The bytes of an array, without a copy where its rows are contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def pack_glb(document: Mapping[str, Any], *binary: bytes | memoryview) -> bytes:
    """Packs a JSON document and its buffer, in parts with a sum of lengths divisible by four, into a GLB container.

    Raises ValueError beyond 4 GiB, the limit of the container's length fields.
    """
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    stored = sum(map(len, binary))
    size = 28 + len(text) + stored
    if size > MAX_SIZE:
        raise ValueError(f"mesh: expected a file of at most {MAX_SIZE:,} bytes, got {size:,}; simplify it")
    parts = [struct.pack("<5I", GLB_MAGIC, 2, size, len(text), JSON_CHUNK), text]
    return b"".join([*parts, struct.pack("<II", stored, BINARY_CHUNK), *binary])
