"""Converts geometry to glTF conventions (y up, v down, linear colours), as float32 or quantised integers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ....core.color import to_linear
from ....core.grid import to_y_up
from ..vertex_buffer import Groups, VertexBuffer
from .document import Document

INT16, INT8, UINT16 = 32767, 127, 65535


@dataclass(frozen=True, eq=False)
class Attribute:
    """A stored vertex attribute: values [V, 2 to 4]; normalized: integers represent [0, 1] or [-1, 1]."""

    values: np.ndarray
    normalized: bool = False


@dataclass(frozen=True, eq=False)
class Primitive:
    """The faces of one material. indices: [3 F] int32 or int64.  attributes: by glTF name, POSITION first."""

    indices: np.ndarray
    attributes: dict[str, Attribute]


def primitive(part: VertexBuffer, scale: float, *, tangents: bool) -> Primitive:
    """Converts `part`, V vertices, to attributes [V, C] float32, colours uint16, on the CPU. tangents: include them if
    present."""
    attributes = {"POSITION": Attribute(_float(to_y_up(part.mesh.vertices) * scale))}
    if part.normals is not None:
        attributes["NORMAL"] = Attribute(_float(to_y_up(part.normals)))
    if part.tangents is not None and tangents:
        tangents_y_up = torch.cat([to_y_up(part.tangents[:, :3]), part.tangents[:, 3:]], 1)
        attributes["TANGENT"] = Attribute(_float(tangents_y_up))
    if part.uv is not None:
        u, v = part.uv.unbind(1)
        attributes["TEXCOORD_0"] = Attribute(_float(torch.stack([u, 1 - v], 1)))
    if part.colors is not None:
        attributes["COLOR_0"] = Attribute(_colors(part.colors), normalized=True)
    return Primitive(part.mesh.faces.reshape(-1).to(torch.int32).cpu().numpy(), attributes)


def primitives(flat: VertexBuffer, places: Groups, scale: float) -> list[Primitive]:
    """Converts each group of a grouped buffer, see `primitive`, with tangents if present; all at once, for a file may
    have thousands."""
    whole = primitive(flat, scale, tangents=True)
    return [
        Primitive(
            whole.indices[3 * first : 3 * last],
            {name: Attribute(a.values[begin:end], a.normalized) for name, a in whole.attributes.items()},
        )
        for (first, last), (begin, end) in zip(pairwise(places.faces), pairwise(places.vertices), strict=True)
    ]


def without_tangents(part: Primitive) -> Primitive:
    """Returns `part` without TANGENT, for a material that has no normal map."""
    return Primitive(part.indices, {name: a for name, a in part.attributes.items() if name != "TANGENT"})


def quantized(parts: list[Primitive]) -> tuple[list[Primitive], dict[str, list[float]]]:
    """Quantises primitives (KHR_mesh_quantization); returns them and the node transform that restores positions.

    Positions: 16 bits over the longest side of the bounding box. Normals and tangents: 8 bits per component, 0.5
    degrees. Texture coordinates: 16 bits if all are in [0, 1], else unchanged.
    """
    points = np.concatenate([part.attributes["POSITION"].values for part in parts]).astype(np.float64)
    low, high = points.min(0), points.max(0)
    center, step = (low + high) / 2, float((high - low).max()) / 2 / INT16 or 1.0
    coordinates = [part.attributes["TEXCOORD_0"].values for part in parts if "TEXCOORD_0" in part.attributes]
    inside = all(uv.min() >= 0 and uv.max() <= 1 for uv in coordinates)

    def small(name: str, attribute: Attribute) -> Attribute:
        values = attribute.values.astype(np.float64)
        if name == "POSITION":
            return Attribute(np.rint((values - center) / step).astype(np.int16))
        if name in ("NORMAL", "TANGENT"):
            return Attribute(np.rint(values * INT8).astype(np.int8), normalized=True)
        if name == "TEXCOORD_0" and inside:
            return Attribute(np.rint(values * UINT16).astype(np.uint16), normalized=True)
        return attribute

    smaller = [Primitive(p.indices, {name: small(name, a) for name, a in p.attributes.items()}) for p in parts]
    return smaller, {"translation": center.tolist(), "scale": [step] * 3}


def add_primitive(document: Document, part: Primitive, material: int | None) -> dict[str, object]:
    """Adds the arrays of `part` to the document; returns the primitive's JSON. material: None for a bare shape."""
    attributes = {
        name: document.add_vertices(attribute.values, normalized=attribute.normalized, bounds=name == "POSITION")
        for name, attribute in part.attributes.items()
    }
    painted = {} if material is None else {"material": material}
    return {"attributes": attributes, "indices": document.add_indices(part.indices), **painted}


def _float(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def _colors(srgb: Tensor) -> np.ndarray:
    """Converts sRGB [V, 4] float to linear RGBA [V, 4] uint16; 8 linear bits would show banding in dark colours."""
    rgba = srgb.float().clamp(0, 1)
    linear = torch.cat([to_linear(rgba[:, :3]), rgba[:, 3:]], 1)
    return (linear * UINT16).round().cpu().numpy().astype(np.uint16)
