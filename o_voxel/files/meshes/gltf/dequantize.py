"""Converts normalised integer vertex attributes of a glTF file (KHR_mesh_quantization) to float32.

trimesh ignores the normalisation, which scales texture coordinates by 65535.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from .document import BINARY_CHUNK, COMPONENT_TYPES, SHAPES

DTYPES = {code: np.dtype(name).newbyteorder("<") for name, code in COMPONENT_TYPES.items()}
WIDTHS = {shape: width for width, shape in SHAPES.items()}
EXPANDED = ("POSITION", "NORMAL", "TANGENT", "TEXCOORD")


def expand_normalized(document: dict[str, Any], chunks: bytes) -> bytes:
    """Appends float32 copies to `chunks`, the GLB bytes after the JSON; updates `document` to refer to them.

    Does not convert colours. Raises LookupError, TypeError or ValueError for a malformed file.
    """
    meshes = document.get("meshes", [])
    attributes = [(n, row) for m in meshes for p in m["primitives"] for n, row in p["attributes"].items()]
    rows = sorted({row for name, row in attributes if name.startswith(EXPANDED)})
    accessors = document.get("accessors", [])
    rows = [row for row in rows if accessors[row].get("normalized") and _plain(accessors[row])]
    if not rows or chunks[4:8] != struct.pack("<I", BINARY_CHUNK):
        return chunks
    size = struct.unpack_from("<I", chunks)[0]
    binary = bytearray(chunks[8 : 8 + size])
    for row in rows:
        accessor = accessors[row]
        values = _floats(accessor, document["bufferViews"][accessor["bufferView"]], binary)
        binary.extend(bytes(-len(binary) % 4))
        view = {"buffer": 0, "byteOffset": len(binary), "byteLength": values.nbytes}
        binary.extend(values.tobytes())
        document["bufferViews"].append(view)
        accessors[row] = {"bufferView": len(document["bufferViews"]) - 1, "componentType": COMPONENT_TYPES["float32"]}
        accessors[row] |= {"count": len(values), "type": accessor["type"]}
    document["buffers"][0]["byteLength"] = len(binary)
    return struct.pack("<II", len(binary), BINARY_CHUNK) + binary + chunks[8 + size :]


def _plain(accessor: dict[str, Any]) -> bool:
    return "bufferView" in accessor and "sparse" not in accessor


def _floats(accessor: dict[str, Any], view: dict[str, Any], binary: bytes) -> np.ndarray:
    """Decodes an accessor to [N, 1 to 4] float32."""
    dtype, width, count = DTYPES[accessor["componentType"]], WIDTHS[accessor["type"]], accessor["count"]
    if view["buffer"] != 0 or dtype.kind == "f" or count < 0:
        raise ValueError(f"normalized accessor: expected integers in the file's own buffer, got {accessor!r:.200}")
    row = dtype.itemsize * width
    stride = view.get("byteStride", row)
    start, offset = view.get("byteOffset", 0), accessor.get("byteOffset", 0)
    end = offset + (count - 1) * stride + row
    if min(start, offset, stride - row) < 0 or end > view["byteLength"] or start + end > len(binary):
        raise ValueError(f"normalized accessor: expected {count} values inside its view, got {accessor!r:.200}")
    values = np.ndarray((count, width), dtype, binary, start + offset, (stride, dtype.itemsize))
    return np.maximum(values / np.iinfo(dtype).max, -1).astype(np.float32)
