"""Draco geometry compression (KHR_draco_mesh_compression) through the package DracoPy."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType

import numpy as np

from .document import Document, narrow_indices
from .geometry import Primitive, add_primitive

EXTENSION = "KHR_draco_mesh_compression"
# Quantisation bits of positions (along the longest side), texture coordinates and normals; encoder effort, 0 to 10.
POSITION_BITS, UV_BITS, NORMAL_BITS, EFFORT = 14, 14, 10, 7
# Draco attribute types, and ids for the attributes that have no type.
TYPES = {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 3}
GENERIC_IDS = {"TANGENT": 0, "COLOR_0": 1}


def add_compressed_primitive(document: Document, part: Primitive, material: int | None) -> dict[str, object]:
    """Adds the arrays of `part` to the document as one Draco stream; returns the primitive's JSON.

    Quantises positions, texture coordinates and normals; reorders vertices and faces; drops faces with repeated
    indices. What the encoder refuses, as it has no other faces, is stored as it is. Deterministic. Raises ImportError
    without DracoPy.
    """
    encoder = draco_module()
    arrays = {name: attribute.values for name, attribute in part.attributes.items()}
    try:
        stream = encoder.encode(
            arrays["POSITION"],
            part.indices.reshape(-1, 3).astype(np.uint32),
            quantization_bits=POSITION_BITS,
            compression_level=EFFORT,
            tex_coord=_double(arrays.get("TEXCOORD_0")),
            tex_coord_quantization_bits=UV_BITS,
            normals=_double(arrays.get("NORMAL")),
            normal_quantization_bits=NORMAL_BITS,
            generic_attributes={number: arrays[name] for name, number in GENERIC_IDS.items() if name in arrays},
        )
    except encoder.EncodingFailedException:
        # No triangle of this material, or part, has three corners apart: no reason to refuse the others.
        return add_primitive(document, part, material)
    # The encoder changes the vertex count and bounds: read them back from the stream.
    decoded = encoder.decode(stream)
    ids, accessors = {}, {}
    for name, attribute in part.attributes.items():
        typed = name in TYPES
        find = decoded.get_attribute_by_type if typed else decoded.get_attribute_by_unique_id
        entry = find(TYPES[name] if typed else GENERIC_IDS[name])
        values = entry["data"].astype(attribute.values.dtype)
        ids[name] = entry["unique_id"]
        accessors[name] = document.add_accessor(
            values, None, normalized=attribute.normalized, bounds=name == "POSITION"
        )
    indices = narrow_indices(decoded.faces.reshape(-1))
    document.use(EXTENSION, required=True)
    compressed = {"bufferView": document.add_view(stream), "attributes": ids}
    return {
        "attributes": accessors,
        "indices": document.add_accessor(indices[:, None], None),
        **({} if material is None else {"material": material}),
        "extensions": {EXTENSION: compressed},
    }


def has_draco() -> bool:
    """Whether the package DracoPy is installed."""
    return find_spec("DracoPy") is not None


def decode_primitive(stream: np.ndarray, ids: Mapping[str, int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Decodes a Draco `stream` [B] uint8; returns (the attributes of `ids`, [V, C] each; indices [3 F] int64).

    ids: attribute name to its id in the stream. Raises ValueError for a malformed stream or an attribute that it lacks;
    ImportError without DracoPy.
    """
    decoder = draco_module()
    try:
        decoded = decoder.decode(stream.tobytes())
    except decoder.FileTypeException as error:
        raise ValueError(f"malformed Draco stream: {error}") from error
    if not hasattr(decoded, "faces"):
        raise ValueError("Draco stream: expected triangles, got points")
    by_id = {entry["unique_id"]: entry["data"] for entry in decoded.attributes}
    lacking = sorted(name for name, number in ids.items() if number not in by_id)
    if lacking:
        raise ValueError(f"Draco stream: expected the attribute {lacking[0]}, which it does not have")
    values = {name: np.asarray(by_id[number]) for name, number in ids.items()}
    return values, np.asarray(decoded.faces, np.int64).reshape(-1)


def draco_module() -> ModuleType:
    """Imports DracoPy. Raises ImportError with installation instructions."""
    try:
        return importlib.import_module("DracoPy")
    except ImportError as error:
        message = "geometry compressed by Draco needs the package DracoPy: pip install DracoPy"
        raise ImportError(message) from error


def _double(values: np.ndarray | None) -> np.ndarray | None:
    """Converts [V, C] to float64, which the encoder requires for texture coordinates and normals."""
    return None if values is None else values.astype(np.float64)
