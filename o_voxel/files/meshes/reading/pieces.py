"""The objects of a mesh file, placed in the world and joined to one TexturedMesh."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ....core.grid import to_z_up
from ....material import Material, Texture, TexturedMesh
from ....mesh.normals import vertex_normals
from ....values import Mesh

# Whether linear factors are encoded like the texels, or kept.
FactorSpace = Literal["srgb", "stored"]


@dataclass(frozen=True, eq=False)
class Piece:
    """One object; arrays as in TexturedMesh, float32 and int64. normals [V, 3], uv [V, 2], colors [V, 4] may be None.

    material_ids [F]: rows of the materials that `joined` takes.  part_ids: rows of its names, [F] or one for all.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None
    material_ids: np.ndarray
    uv: np.ndarray | None
    colors: np.ndarray | None
    part_ids: np.ndarray | int = 0


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a file.  names: of each.  ids: rows of `names`, [F] int32 for each object of trimesh with triangles;
    (): one part."""

    names: tuple[str, ...] = ()
    ids: tuple[np.ndarray, ...] = ()


def transformed(
    vertices: np.ndarray, normals: np.ndarray | None, faces: np.ndarray, matrix: np.ndarray, y_up: bool
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Returns (vertices [V, 3], unit normals [V, 3] or None, float32, faces [F, 3] int64) in world space, z up.

    matrix: [4, 4] float64, to the world.  y_up: the world of the input is y up.  Mirroring flips the winding.
    """
    # Rows: images of the three axes and of the origin. Adding 0 turns -0 into 0, which would change file bytes.
    columns = torch.from_numpy(np.array(matrix[:3].T, np.float64))
    *axes, origin = (to_z_up(columns) if y_up else columns).numpy() + 0.0
    linear = np.stack(axes, 1)
    vertices = np.asarray(vertices) @ linear.T + origin
    mirrored = np.linalg.det(linear) < 0
    faces = np.asarray(faces, np.int64)
    faces = np.ascontiguousarray(faces[:, ::-1] if mirrored else faces)
    if normals is None:
        return vertices.astype(np.float32), None, faces
    # Normals transform by the cofactor matrix, also for singular maps.
    cofactors = _cofactors(linear.tolist())
    normals = np.asarray(normals) @ cofactors.T * (-1.0 if mirrored else 1.0)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.divide(normals, length, out=np.zeros_like(normals), where=length > 0)
    return vertices.astype(np.float32), normals.astype(np.float32), faces


def _cofactors(rows: list[list[float]]) -> np.ndarray:
    """The cofactor matrix [3, 3] float64 of a matrix, by rows. In numbers: files have thousands of small objects, for
    each of which three calls of `np.cross` would take longer than all else."""

    def cross(a: list[float], b: list[float]) -> list[float]:
        return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]

    return np.array([cross(rows[(i + 1) % 3], rows[(i + 2) % 3]) for i in range(3)])


def joined(pieces: Sequence[Piece], materials: Sequence[Material], names: Sequence[str] = ()) -> TexturedMesh:
    """Concatenates pieces into one mesh; pieces without UVs or colours get 0 or white if others have them, and pieces
    without normals smooth ones. Without any normals they are None. names: of the parts."""

    def column(pick: Callable[[Piece], np.ndarray | None], width: int, fill: float) -> Tensor | None:
        if all(pick(piece) is None for piece in pieces):
            return None
        blank = np.float32(fill)
        parts = [np.full((len(p.vertices), width), blank) if pick(p) is None else pick(p) for p in pieces]
        return torch.from_numpy(np.concatenate(parts))

    faces = np.concatenate([piece.faces + first for piece, first in zip(pieces, _firsts(pieces), strict=True)])
    uv = column(lambda piece: piece.uv, 2, 0.0)
    textured = any(isinstance(value, Texture) for material in materials for value in vars(material).values())
    if uv is None and textured:
        uv = torch.zeros(sum(len(piece.vertices) for piece in pieces), 2)
    bare = all(piece.normals is None for piece in pieces)
    several = len(names) > 1
    parts = [np.broadcast_to(np.int32(piece.part_ids), len(piece.faces)) for piece in pieces] if several else []
    return TexturedMesh(
        Mesh(torch.from_numpy(np.concatenate([piece.vertices for piece in pieces])), torch.from_numpy(faces)),
        tuple(materials),
        material_ids=torch.from_numpy(np.concatenate([piece.material_ids for piece in pieces])),
        uv=uv,
        vertex_colors=column(lambda piece: piece.colors, 4, 1.0),
        normals=None if bare else torch.from_numpy(np.concatenate([_normals(piece) for piece in pieces])),
        part_ids=torch.from_numpy(np.concatenate(parts)) if several else None,
        part_names=tuple(names) if several or any(names) else (),
    )


def _normals(piece: Piece) -> np.ndarray:
    if piece.normals is not None:
        return piece.normals
    return vertex_normals(Mesh(torch.from_numpy(piece.vertices), torch.from_numpy(piece.faces))).numpy()


def _firsts(pieces: Sequence[Piece]) -> Iterator[int]:
    """Yields the index of each piece's first vertex."""
    first = 0
    for piece in pieces:
        yield first
        first += len(piece.vertices)
