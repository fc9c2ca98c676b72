"""Consistent face winding within each component, oriented outward by signed volume or by visibility."""

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
    """Flips faces so that neighbours have consistent winding and each component faces outward.

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces.
    outward: "volume" makes the signed volume positive (exact for closed components, about the centroid for open ones; a
    flat open one keeps its majority winding). "views" votes by the pixels that show a component's front or back in 14
    orthographic views of the whole mesh; slower, and better for open shells. A closed component inside another faces
    outward too. A flipped face has its last two corners swapped; nothing else changes.

    Winding stays inconsistent at non-manifold edges and on non-orientable surfaces (a Möbius strip); split those with
    `split_non_manifold`. Deterministic; identical on every backend ("auto", "numba", "reference"), except for "views"
    on different devices when a component shows both sides equally. Raises ValueError for another `outward`.
    """
    faces = check_mesh(mesh).faces.to(torch.int64)
    surface = join_faces(mesh.vertices, faces, backend=backend)
    return ValidMesh(mesh.vertices, turn(mesh.faces, faces_to_turn(mesh.vertices, faces, surface, outward)))


def faces_to_turn(vertices: Tensor, faces: Tensor, surface: Surface, outward: str) -> Tensor:
    """Mask [F] bool of the faces [F, 3] int64 that `orient` flips; vertices: [V, 3] float32."""
    if outward not in OUTWARD:
        raise ValueError(f"outward: expected one of {list(OUTWARD)}, got {outward!r}")
    return OUTWARD[outward](vertices, faces, surface.label, surface.flip, surface.boundary)


def turn(faces: Tensor, flip: Tensor) -> Tensor:
    """Reverses the winding of the `faces` [F, 3] in the mask `flip` [F] bool by swapping their last two corners."""
    return torch.where(flip[:, None], faces[:, [0, 2, 1]], faces)


def turn_surface(surface: Surface, flip: Tensor) -> Surface:
    """Updates `surface` after `turn` with mask `flip` [F] bool: half-edges 0 and 2 of a flipped face are swapped.

    The result has twin [3 F], label [F], seam [S] and an all-false flip [F].
    """
    half = torch.arange(len(surface.twin), device=flip.device)
    moved = half + torch.where(flip.repeat_interleave(3), 2 - 2 * (half % 3), 0)
    twin = surface.twin[moved]
    twin = torch.where(twin < 0, twin, moved[twin])
    return replace(surface, twin=twin, flip=torch.zeros_like(flip), seam=moved[surface.seam])
