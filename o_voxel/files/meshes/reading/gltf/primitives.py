"""Triangles and vertex attributes of a glTF primitive: strips and fans, morph targets, Draco."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...gltf.draco import EXTENSION as DRACO
from ...gltf.draco import decode_primitive, has_draco
from . import accessors
from .source import Source

TRIANGLES, STRIP, FAN = 4, 5, 6


@dataclass(frozen=True, eq=False)
class Part:
    """The triangles of a primitive in the mesh's own frame, y up, v down; V vertices, all of them used.

    positions [V, 3] float32; faces [F, 3] int64; normals [V, 3] float32 or None; colors [V, 3 or 4] float32, linear, or
    None; uvs: set number to [V, 2] float32; joints [V, 4 K] int64 and weights [V, 4 K] float32, or None;
    material: its index in the file, or None.
    """

    positions: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None
    colors: np.ndarray | None
    uvs: dict[int, np.ndarray]
    joints: np.ndarray | None
    weights: np.ndarray | None
    material: int | None


def read_part(source: Source, primitive: dict[str, Any], weights: Sequence[float]) -> Part | None:
    """Reads a primitive of triangles, with `weights` of its morph targets. Returns None for points, lines or nothing.

    Raises ValueError, LookupError or TypeError for a malformed primitive; ImportError if it needs DracoPy.
    """
    mode = primitive.get("mode", TRIANGLES)
    if mode not in (TRIANGLES, STRIP, FAN):
        source.warn("points and lines are left out")
        return None
    rows = dict(primitive["attributes"])
    if "POSITION" not in rows:
        return None
    packed = primitive.get("extensions", {}).get(DRACO)
    if packed is not None and not has_draco() and _stands_without(source, rows):
        packed = None
    if packed is None:
        values, indices = {}, None
    else:
        values, indices = decode_primitive(source.view(packed["bufferView"]), packed["attributes"])
        values = {name: _scaled(source, rows[name], value) for name, value in values.items() if name in rows}
    for name, row in rows.items():
        if name not in values and _wanted(name):
            read = accessors.integers if name.startswith("JOINTS_") else accessors.floats
            values[name] = read(source, row)
    if indices is None and "indices" in primitive:
        indices = accessors.integers(source, primitive["indices"])[:, 0]
    if indices is None:
        indices = np.arange(len(values["POSITION"]))
    count = len(values["POSITION"])
    for name, value in values.items():
        if len(value) != count:
            raise ValueError(f"{name}: expected {count} values, one for each position, got {len(value)}")
    if len(indices) and not 0 <= indices.min() <= indices.max() < count:
        raise ValueError(f"indices: expected 0 to {count - 1}, got {indices.min()} to {indices.max()}")
    # Draco stores a list of triangles, whatever the primitive's mode.
    faces = _triangles(indices, mode if packed is None else TRIANGLES)
    if len(faces) == 0:
        return None
    _morph(source, primitive, weights, values)
    return _compact(_part(values, faces, primitive.get("material")))


def _wanted(name: str) -> bool:
    return name in ("POSITION", "NORMAL", "COLOR_0") or name.startswith(("TEXCOORD_", "JOINTS_", "WEIGHTS_"))


def _stands_without(source: Source, rows: dict[str, int]) -> bool:
    """Whether the attributes are also stored uncompressed."""
    return all("bufferView" in source.item("accessors", row) for row in rows.values())


def _scaled(source: Source, row: int, values: np.ndarray) -> np.ndarray:
    """Decoded attribute values as float32; normalised integers as `accessors.floats`. Joints stay integers."""
    if source.item("accessors", row).get("normalized", False) and values.dtype.kind in "iu":
        return np.maximum(values / np.iinfo(values.dtype).max, -1).astype(np.float32)
    return values.astype(np.int64 if values.dtype.kind in "iu" else np.float32)


def _triangles(indices: np.ndarray, mode: int) -> np.ndarray:
    """Returns faces [F, 3] int64 of a list, strip or fan. Faces of a strip alternate their winding; degenerate ones,
    which join strips, are dropped."""
    if mode == TRIANGLES:
        return np.ascontiguousarray(indices[: len(indices) // 3 * 3].reshape(-1, 3))
    if len(indices) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == FAN:
        first = np.broadcast_to(indices[0], len(indices) - 2)
        return np.stack([first, indices[1:-1], indices[2:]], 1)
    faces = np.stack([indices[:-2], indices[1:-1], indices[2:]], 1)
    faces[1::2] = faces[1::2][:, [0, 2, 1]]
    a, b, c = faces.T
    return faces[(a != b) & (b != c) & (c != a)]


def _morph(source: Source, primitive: dict[str, Any], weights: Sequence[float], values: dict[str, np.ndarray]) -> None:
    """Adds the weighted differences of the morph targets to `values`."""
    targets = primitive.get("targets", [])
    for weight, target in zip(weights, targets, strict=False):
        if weight == 0:
            continue
        for name, row in target.items():
            if name in values and values[name].dtype.kind == "f":
                difference = accessors.floats(source, row)
                if len(difference) != len(values[name]):
                    raise ValueError(f"morph target {name}: expected {len(values[name])} values, got {len(difference)}")
                width = min(difference.shape[1], values[name].shape[1])
                moved = values[name].copy()
                moved[:, :width] += np.float32(weight) * difference[:, :width]
                values[name] = moved


def _part(values: dict[str, np.ndarray], faces: np.ndarray, material: int | None) -> Part:
    sets = {name: value for name, value in values.items() if name.startswith("TEXCOORD_")}
    joints, weights = (_beside(values, name) for name in ("JOINTS_", "WEIGHTS_"))
    skinned = joints is not None and weights is not None and joints.shape == weights.shape
    return Part(
        positions=_columns("POSITION", values["POSITION"], 3),
        faces=faces,
        normals=_columns("NORMAL", values["NORMAL"], 3) if "NORMAL" in values else None,
        colors=values.get("COLOR_0"),
        uvs={int(name.partition("_")[2]): _columns(name, value, 2) for name, value in sets.items()},
        joints=joints.astype(np.int64) if skinned else None,
        weights=weights if skinned else None,
        material=material,
    )


def _beside(values: dict[str, np.ndarray], prefix: str) -> np.ndarray | None:
    """The sets PREFIX0, PREFIX1 … side by side."""
    sets = [values[name] for name in sorted(values) if name.startswith(prefix)]
    return np.concatenate(sets, 1) if sets else None


def _columns(name: str, values: np.ndarray, width: int) -> np.ndarray:
    if values.shape[1] != width:
        raise ValueError(f"{name}: expected {width} components, got {values.shape[1]}")
    return values.astype(np.float32)


def _compact(part: Part) -> Part:
    """Drops the vertices that no face uses: primitives may share one vertex buffer."""
    used = np.zeros(len(part.positions), bool)
    used[part.faces.reshape(-1)] = True
    if used.all():
        return part
    number = np.cumsum(used) - 1

    def rows(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[used]

    return replace(
        part,
        positions=part.positions[used],
        faces=number[part.faces],
        normals=rows(part.normals),
        colors=rows(part.colors),
        uvs={number: values[used] for number, values in part.uvs.items()},
        joints=rows(part.joints),
        weights=rows(part.weights),
    )
