"""Writes meshes as binary .ply: element `vertex` with the available attributes, element `face` with index triples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ...bake.transfer import own_vertex_colors
from ...core.atomic_io import FilePath, write_files
from ...core.color import to_bytes
from ...core.progress import Progress, in_background, scaled
from ...material import Material, TexturedMesh
from ...values import Mesh
from .options import SaveOptions
from .prepare import has_color, prepared
from .vertex_buffer import as_textured, checked, rotate_up_axis, vertex_buffer, with_normals

FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])


def write_ply_mesh(
    path: FilePath,
    mesh: Mesh | TexturedMesh,
    options: SaveOptions = SaveOptions(),
    progress: Progress | None = None,
) -> Path:
    """Writes `mesh` as little-endian .ply, z up unless options.up is "y": positions, normals, and vertex colours.

    Base colours of textures and factors become vertex colours where the mesh has none and UVs are not written.
    Normals follow `options.crease_deg`; colours are sRGB bytes, as readers expect; `options.ply_uv` adds s and t, v up.
    Deterministic; writes atomically. progress: called with the fraction done; may raise. Raises ValueError as
    `vertex_buffer.checked` and `vertex_buffer`; OSError.
    """
    content = in_background(lambda report: _encoded(mesh, options), scaled(progress, 0.0, 0.7), 2.0)
    return write_files({Path(path): content}, scaled(progress, 0.7, 0.3))


def _encoded(mesh: Mesh | TexturedMesh, options: SaveOptions) -> bytes:
    whole = prepared(checked(as_textured(mesh)), options)
    y_up = options.y_up(".ply")
    # The format has no textures, and no materials.
    if not options.ply_uv and whole.vertex_colors is None and any(map(has_color, whole.materials)):
        whole = replace(whole, vertex_colors=own_vertex_colors(whole))
    # Drop materials, so that no vertex is split at their borders.
    plain = replace(whole, materials=(Material(),), material_ids=None)
    plain = plain if options.ply_uv else replace(plain, uv=None, uv_faces=None)
    flat = vertex_buffer(with_normals(plain, options.crease_deg))
    columns = _columns("xyz", rotate_up_axis(flat.mesh.vertices, y_up) * options.scale)
    if flat.normals is not None:
        columns |= _columns(("nx", "ny", "nz"), rotate_up_axis(flat.normals, y_up))
    if flat.uv is not None:
        columns |= _columns("st", flat.uv)
    if flat.colors is not None:
        rgba = to_bytes(flat.colors, "half even")
        columns |= _columns(("red", "green", "blue", "alpha"), rgba)
    table = np.zeros(len(flat.mesh.vertices), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    faces = np.zeros(len(flat.mesh.faces), FACE)
    faces["count"] = 3
    faces["corners"] = flat.mesh.faces.numpy()
    return _header(table, len(faces)) + table.tobytes() + faces.tobytes()


def _columns(names: str | tuple[str, ...], values: Tensor) -> dict[str, np.ndarray]:
    """Returns {name: column [N]} of `values` [N, C]."""
    return dict(zip(names, values.numpy().T, strict=True))


def _header(table: np.ndarray, faces: int) -> bytes:
    types = {"float32": "float", "uint8": "uchar"}
    properties = [f"property {types[table.dtype[name].name]} {name}" for name in table.dtype.names]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}", *properties]
    lines += [f"element face {faces}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(lines).encode("ascii")
