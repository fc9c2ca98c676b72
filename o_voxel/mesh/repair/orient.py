"""One winding a surface, with its front outside."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...values import Mesh
from ..connectivity.orientation import by_views, by_volume
from ..connectivity.surface import Surface, join_faces
from ..connectivity.topology import ValidMesh, check_mesh

OUTWARD = {"volume": by_volume, "views": by_views}


def orient(mesh: Mesh, outward: str = "volume", *, backend: str = "auto") -> Mesh:
    """The mesh with faces turned so that neighbours wind alike and each component's front is outside.

    outward: "volume" encloses a positive volume (exact for closed components, about its own middle for an open one; a
    flat open one keeps the winding that most of its faces have). "views" lets 14 pictures of the whole mesh decide, by
    the side of each component that more pixels see; slower, and better for open shells. A closed component inside
    another faces outward too. A turned face has its last two corners exchanged; nothing else changes.

    Neighbours still differ at edges of more than two faces, and where no winding fits (a Möbius strip); split those
    with `split_non_manifold`. Deterministic; the same on every backend ("auto", "numba", "reference"), but for "views"
    on different devices where a component is seen equally from both sides.
    Raises ValueError for another `outward`.
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    surface = join_faces(mesh.vertices, faces, backend=backend)
    return ValidMesh(mesh.vertices, turn(mesh.faces, faces_to_turn(mesh.vertices, faces, surface, outward)))


def faces_to_turn(vertices: Tensor, faces: Tensor, surface: Surface, outward: str) -> Tensor:
    """Which faces [F] bool `orient` turns."""
    if outward not in OUTWARD:
        raise ValueError(f"outward: expected one of {list(OUTWARD)}, got {outward!r}")
    return OUTWARD[outward](vertices, faces, surface.label, surface.flip, surface.boundary)


def turn(faces: Tensor, flip: Tensor) -> Tensor:
    """`faces` [F, 3] with the last two corners of those in `flip` [F] bool exchanged."""
    return torch.where(flip[:, None], faces[:, [0, 2, 1]], faces)


def turn_surface(surface: Surface, flip: Tensor) -> Surface:
    """`surface` for the faces that `turn` gives, all wound alike. Half-edges 0 and 2 of a turned face change places."""
    half = torch.arange(len(surface.twin), device=flip.device)
    moved = half + torch.where(flip.repeat_interleave(3), 2 - 2 * (half % 3), 0)
    twin = surface.twin[moved]
    twin = torch.where(twin < 0, twin, moved[twin])
    return replace(surface, twin=twin, flip=torch.zeros_like(flip), seam=moved[surface.seam])
