"""Writes binary STL for 3D printing: triangles only, without materials."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...core.atomic_io import FilePath, write_files
from ...core.progress import Progress, in_background, scaled
from ...core.vectors import unit
from ...material import TexturedMesh
from ...mesh.connectivity.topology import area_vectors
from ...values import Mesh
from .options import SaveOptions
from .prepare import prepared
from .vertex_buffer import as_textured, checked, rotate_up_axis

TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
# 80 bytes; must not begin with "solid", which marks the text format.
HEADER = b"binary STL".ljust(80)


def write_stl(
    path: FilePath,
    mesh: Mesh | TexturedMesh,
    options: SaveOptions = SaveOptions(),
    progress: Progress | None = None,
) -> Path:
    """Writes the triangles of `mesh`, z up unless options.up is "y", with face normals (0 for zero-area faces).

    Deterministic; writes atomically. progress: called with the fraction done; may raise. Raises ValueError as
    `vertex_buffer.checked`; OSError.
    """
    content = in_background(lambda report: _encoded(mesh, options), scaled(progress, 0.0, 0.7), 1.0)
    return write_files({Path(path): content}, scaled(progress, 0.7, 0.3))


def _encoded(mesh: Mesh | TexturedMesh, options: SaveOptions) -> bytes:
    whole = prepared(checked(as_textured(mesh)), options).mesh
    vertices = rotate_up_axis(whole.vertices, options.y_up(".stl"))
    faces = whole.faces.long()
    table = np.zeros(len(faces), TRIANGLE)
    table["normal"] = unit(area_vectors(vertices, faces)).numpy()
    table["corners"] = (vertices * options.scale)[faces].numpy()
    return HEADER + np.uint32(len(faces)).tobytes() + table.tobytes()
