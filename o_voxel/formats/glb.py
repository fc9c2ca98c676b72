"""glTF 2.0 binary files: a mesh with vertex colours. y up, as glTF wants; bytes are a function of the input alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import FLOATS, check_tensor
from ..color import to_linear
from ..ops.grid_sample import grid_sample
from ..ops.hash_grid import hash_grid
from ..values import PBR_CHANNELS, Mesh, VoxelField
from .files import FilePath, atomic_write

FLOAT, UINT16, UINT32 = 5126, 5123, 5125
VERTEX_DATA, INDEX_DATA = 34962, 34963


def to_y_up(vectors: Tensor) -> Tensor:
    """Positions or directions [N, 3] from our z-up frame to glTF's y-up one: (x, y, z) to (x, z, -y)."""
    x, y, z = vectors.unbind(1)
    return torch.stack([x, z, -y], dim=1)


def vertex_materials(mesh: Mesh, field: VoxelField) -> Tensor:
    """The field's channels at the mesh's vertices, [V, C] float32 in [0, 1]."""
    points = field.grid.to_grid(mesh.vertices)
    return grid_sample(field.attrs.float(), hash_grid(field.coords), points).clamp(0, 1)


def write_glb(path: FilePath, mesh: Mesh, materials: Tensor | None = None) -> Path:
    """Write `mesh`, and with `materials` [V, 6] float (PBR_CHANNELS, base colour in sRGB) its colours.

    Base colour becomes linear vertex colours; metallic and roughness are one factor each, their means, until the mesh
    is textured. Double-sided, because a raw dual-grid surface has no consistent winding. Vertices that no face uses are
    left out. The file appears whole or not at all. Raises ValueError for an empty or non-finite mesh.
    """
    if len(mesh.faces) == 0:
        raise ValueError("mesh: expected at least one face, got none; there is nothing to write")
    if not bool(torch.isfinite(mesh.vertices).all()):
        raise ValueError("mesh: expected finite vertices, got NaN or infinity")
    low, high = int(mesh.faces.min()), int(mesh.faces.max())
    if low < 0 or high >= len(mesh.vertices):
        raise ValueError(f"mesh: expected faces of vertices 0 to {len(mesh.vertices) - 1}, got {low} to {high}")
    if materials is not None:
        check_tensor(materials, "materials", (len(mesh.vertices), 6), FLOATS)
        if not bool(torch.isfinite(materials).all()):
            raise ValueError("materials: expected finite numbers, got NaN or infinity")
    used, faces = torch.unique(mesh.faces.long(), return_inverse=True)
    arrays = [("POSITION", _packed(to_y_up(mesh.vertices[used]), np.float32))]
    metallic, roughness = 0.0, 1.0
    if materials is not None:
        kept = materials[used].float().clamp(0, 1)
        metallic, roughness = (float(kept[:, PBR_CHANNELS[name]].mean()) for name in ("metallic", "roughness"))
        color = to_linear(kept[:, PBR_CHANNELS["base_color"]])
        opaque = torch.nn.functional.pad(color, (0, 1), value=1.0)
        arrays.append(("COLOR_0", _packed((opaque * 65535).round(), np.uint16)))
    content = _assemble(arrays, _packed(faces, np.uint32), metallic, roughness)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        file.write(content)
    return target


def _packed(values: Tensor, dtype: type[np.generic]) -> np.ndarray:
    return np.ascontiguousarray(values.cpu().numpy().astype(dtype))


def _assemble(
    attributes: Sequence[tuple[str, np.ndarray]], faces: np.ndarray, metallic: float, roughness: float
) -> bytes:
    """The file of one mesh: a JSON chunk that describes the views of one binary chunk."""
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    binary = bytearray()
    component = {np.dtype(np.float32): FLOAT, np.dtype(np.uint16): UINT16, np.dtype(np.uint32): UINT32}

    def add(array: np.ndarray, kind: str, target: int, **more: Any) -> int:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": array.nbytes, "target": target})
        view = {"bufferView": len(views) - 1, "componentType": component[array.dtype], "type": kind}
        accessors.append({**view, "count": array.size if kind == "SCALAR" else len(array), **more})
        binary.extend(array.tobytes())
        binary.extend(bytes(-len(binary) % 4))
        return len(accessors) - 1

    indices = add(faces.reshape(-1), "SCALAR", INDEX_DATA)
    primitive: dict[str, int] = {}
    for name, array in attributes:
        bounds = {"min": array.min(0).tolist(), "max": array.max(0).tolist()} if name == "POSITION" else {}
        scaled = {"normalized": True} if array.dtype == np.uint16 else {}
        primitive[name] = add(array, f"VEC{array.shape[1]}", VERTEX_DATA, **bounds, **scaled)
    surface = {"baseColorFactor": [1, 1, 1, 1], "metallicFactor": metallic, "roughnessFactor": roughness}
    document = {
        "asset": {"version": "2.0", "generator": "ComfyUI-TRELLIS2"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": primitive, "indices": indices, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": surface, "doubleSided": True}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks
