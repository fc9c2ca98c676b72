"""Assembly of parts into one normalised textured mesh, and the seed ranges of training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ....o_voxel.material import Material, TexturedMesh
from ....o_voxel.values import Mesh
from .dice import Dice
from .families import FAMILIES
from .shapes import Shape, turned

# An object's longest side. The margin to the box [-0.5, 0.5]³ is more than a voxel from 32 voxels a side on.
EXTENT = 0.93
# Positions are rounded to multiples of this: it removes the last bits of sines, which differ between machines, and
# makes the two copies of points along a seam equal.
STEP = 2.0**-17

# Disjoint seeds of training and evaluation. Training counts up from 0.
TRAIN_SEEDS = range(1 << 30)
HELD_OUT_SEEDS = range(1 << 30, 1 << 31)


def make_object(family: str, seed: int) -> TexturedMesh:
    """The object of a family (a key of FAMILIES) and seed, on the CPU; the same bytes at every call.

    Centred at the origin, longest side EXTENT, z up, front at -y (towards `Camera(yaw_deg=0)`). Surfaces may be open,
    thin, or inside others; the winding is arbitrary, so materials are double-sided.
    Raises ValueError for an unknown family or a negative seed.
    """
    if family not in FAMILIES:
        raise ValueError(f"family: expected one of {', '.join(sorted(FAMILIES))}, got {family!r}")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    return assemble(FAMILIES[family](Dice(family, seed)))


def assemble(parts: Sequence[tuple[Shape, Material]]) -> TexturedMesh:
    """Merge shapes and their materials into one normalised mesh; coincident points of a part become one vertex."""
    steps = _quantized(np.concatenate([shape.points for shape, _ in parts]))
    sizes = [len(shape.points) for shape, _ in parts]
    starts = np.cumsum([0, *sizes[:-1]])
    key = np.repeat(np.arange(len(parts)), sizes)
    for axis in range(3):
        key = (key << 17) + steps[:, axis] + (1 << 16)
    _, first, row = np.unique(key, return_index=True, return_inverse=True)
    uv_faces = np.concatenate([shape.faces + start for (shape, _), start in zip(parts, starts, strict=True)])
    faces = row[uv_faces]
    a, b, c = faces.T
    whole = (a != b) & (b != c) & (c != a)
    ids = np.repeat(np.arange(len(parts)), [len(shape.faces) for shape, _ in parts])
    return TexturedMesh(
        Mesh(
            torch.from_numpy((steps[first] * STEP).astype(np.float32)), torch.from_numpy(faces[whole].astype(np.int32))
        ),
        tuple(material for _, material in parts),
        material_ids=torch.from_numpy(ids[whole].astype(np.int32)),
        uv=torch.from_numpy(np.concatenate([shape.uv for shape, _ in parts]).astype(np.float32)),
        uv_faces=torch.from_numpy(uv_faces[whole].astype(np.int32)),
    )


def facing(mesh: TexturedMesh, yaw_deg: float) -> TexturedMesh:
    """The object rotated about z by -yaw_deg and normalised again: the side seen by a camera at this yaw faces -y."""
    steps = _quantized(turned(mesh.mesh.vertices.double().numpy(), "z", -yaw_deg))
    return replace(mesh, mesh=Mesh(torch.from_numpy((steps * STEP).astype(np.float32)), mesh.mesh.faces))


def _quantized(points: np.ndarray) -> np.ndarray:
    """Points [P, 3] fp64 centred and scaled to EXTENT, as multiples of STEP [P, 3] int64."""
    low, high = points.min(0), points.max(0)
    return np.round((points - (low + high) / 2) * (EXTENT / (high - low).max() / STEP)).astype(np.int64)
