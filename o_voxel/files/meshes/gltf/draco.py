"""Geometry compressed by Draco (KHR_draco_mesh_compression), through the optional package DracoPy."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np

from .document import Document, narrow_indices
from .geometry import Primitive

EXTENSION = "KHR_draco_mesh_compression"
# Bits of a position along the longest side, of a texture coordinate, and of a normal; the encoder's effort, 0 to 10.
POSITION_BITS, UV_BITS, NORMAL_BITS, EFFORT = 14, 14, 10, 7
# What a stream calls its attributes: the types that it knows, and ids that are given to the others.
TYPES = {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 3}
OWN_IDS = {"TANGENT": 0, "COLOR_0": 1}


def add_compressed_primitive(document: Document, part: Primitive, material: int) -> dict[str, object]:
    """The JSON of `part`, its arrays put into the document as one Draco stream.

    Places, texture coordinates and normals are quantised; vertices and faces are reordered, faces without area in the
    index are dropped. Deterministic. Raises ImportError without DracoPy.
    """
    encoder = draco_module()
    given = {name: attribute.values for name, attribute in part.attributes.items()}
    stream = encoder.encode(
        given["POSITION"],
        part.indices.reshape(-1, 3).astype(np.uint32),
        quantization_bits=POSITION_BITS,
        compression_level=EFFORT,
        tex_coord=_double(given.get("TEXCOORD_0")),
        tex_coord_quantization_bits=UV_BITS,
        normals=_double(given.get("NORMAL")),
        normal_quantization_bits=NORMAL_BITS,
        generic_attributes={number: given[name] for name, number in OWN_IDS.items() if name in given},
    )
    # How many vertices there are, and between which bounds, only the stream knows.
    decoded = encoder.decode(stream)
    ids, accessors = {}, {}
    for name, attribute in part.attributes.items():
        known = name in TYPES
        find = decoded.get_attribute_by_type if known else decoded.get_attribute_by_unique_id
        entry = find(TYPES[name] if known else OWN_IDS[name])
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
        "material": material,
        "extensions": {EXTENSION: compressed},
    }


def draco_module() -> ModuleType:
    """DracoPy. Raises ImportError, saying how to get it."""
    try:
        return importlib.import_module("DracoPy")
    except ImportError as error:
        raise ImportError("draco: expected the package DracoPy: pip install DracoPy, or save without draco") from error


def _double(values: np.ndarray | None) -> np.ndarray | None:
    """The encoder takes texture coordinates and normals as float64 only."""
    return None if values is None else values.astype(np.float64)
