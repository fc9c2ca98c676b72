"""Reads a glTF file to a TexturedMesh."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from .....core.color import linear_to_srgb
from .....core.progress import Progress
from .....material import TexturedMesh
from ..pieces import FactorSpace, Piece, joined, transformed
from .materials import MaterialReader
from .primitives import Part, read_part
from .scene import placements, posed
from .source import Source, Warn, open_gltf

# Share of the run time for geometry, in the progress of a file with textures.
GEOMETRY_SHARE = 0.4


def load_gltf(
    path: Path, *, y_up: bool, factors: FactorSpace, warn: Warn, report: Progress, max_bytes: int
) -> TexturedMesh:
    """Reads the triangles of the default scene of a .glb or .gltf, with materials, UVs, vertex colours and normals.

    Instances (EXT_mesh_gpu_instancing) are placed, morph targets have their default weights, skinned meshes the default
    pose of their joints. Follows the extensions in `source.FOLLOWED`. Normals are None if no primitive has any.
    A part of the result is a node with triangles, all its instances together.
    y_up: turn y up, glTF's frame, to z up.  warn: called with one line for what is left out.  max_bytes: of what the
    file may unfold to.
    Raises ValueError, LookupError or TypeError for a malformed file; ImportError for Draco without DracoPy; OSError.
    """
    source = open_gltf(path, warn, max_bytes)
    materials = MaterialReader(source, factors)
    placed, world = placements(source)
    parts: dict[tuple[int, tuple[float, ...]], list[Part]] = {}
    pieces: list[Piece] = []
    names: list[str] = []
    for number, placement in enumerate(placed):
        key = placement.mesh, placement.weights
        if key not in parts:
            primitives = source.item("meshes", placement.mesh)["primitives"]
            found = (read_part(source, primitive, placement.weights) for primitive in primitives)
            parts[key] = [part for part in found if part is not None]
        if placement.skin is not None and any(part.joints is not None for part in parts[key]):
            warn("skinned meshes are read in the default pose of their joints; joints and animations are left out")
        for part in parts[key]:
            moved, matrices = part, placement.matrices
            if placement.skin is not None and part.joints is not None:
                moved, matrices = posed(source, part, placement.skin, world), (np.eye(4),)
            made = (_piece(source, moved, matrix, materials, y_up) for matrix in matrices)
            pieces += [replace(piece, part_ids=len(names)) for piece in made]
        if parts[key] and placement.matrices:
            names.append(placement.name)
        report(GEOMETRY_SHARE * (number + 1) / len(placed))
    if not pieces:
        raise ValueError("expected at least one triangle, got none")
    return joined(pieces, materials.materials, names)


def _piece(source: Source, part: Part, matrix: np.ndarray, materials: MaterialReader, y_up: bool) -> Piece:
    """A part in the world: z up, v up, sRGB colours."""
    arrays = part.positions, part.normals, part.colors, part.faces
    source.claim(sum(values.nbytes for values in arrays if values is not None), "instances of a mesh")
    vertices, normals, faces = transformed(part.positions, part.normals, part.faces, matrix, y_up)
    row, place = materials.row(part.material)
    uv = part.uvs.get(place.texcoord)
    if uv is not None:
        uv = place(uv) * np.float32((1, -1)) + np.float32((0, 1))
    colors = None if part.colors is None else _srgb(part.colors)
    return Piece(vertices, faces, normals, np.full(len(faces), row), uv, colors)


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Linear colours [V, 3 or 4] as sRGB RGBA [V, 4] float32 in [0, 1]."""
    rgba = np.ones((len(linear), 4))
    rgba[:, : linear.shape[1]] = linear.astype(np.float64).clip(0, 1)
    rgba[:, :3] = linear_to_srgb(rgba[:, :3])
    return rgba.astype(np.float32)
