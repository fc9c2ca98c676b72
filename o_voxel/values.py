"""What the library passes around. Every value is frozen: operations return new ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .core.checks import FLOATS, check_tensor
from .core.device import Movable
from .core.grid import Grid

# The six PBR channels of a voxel, in the decoder's order. Base colour is sRGB; all are in [0, 1].
PBR_CHANNELS = {"base_color": slice(0, 3), "metallic": slice(3, 4), "roughness": slice(4, 5), "alpha": slice(5, 6)}

# What has no place on a device.
HOST_TYPES = (bool, int, float, str, type(None))

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh in world units, z up.

    vertices: [V, 3] float32.  faces: [F, 3] int32 or int64, rows of `vertices`.
    """

    vertices: Tensor
    faces: Tensor

    def __post_init__(self) -> None:
        check_tensor(self.vertices, "Mesh.vertices", (None, 3), torch.float32)
        check_tensor(self.faces, "Mesh.faces", (None, 3), (torch.int32, torch.int64))


@dataclass(frozen=True, eq=False)
class DualGrid:
    """A flexible dual grid: one vertex a voxel, and the grid edges that the surface crosses.

    coords: [N, 3] int32.  dual: [N, 3] float32, the vertex inside its voxel, in voxels from its low corner (0 to 1;
    a decoder may leave that range by its margin).  intersected: [N, 3] bool; axis a is set when the surface crosses
    the grid edge parallel to a, along this voxel's extent, at the voxel's high corner in the other two axes.
    split_weight: [N] float32, or None; steers which diagonal splits a quad.
    """

    coords: Tensor
    dual: Tensor
    intersected: Tensor
    grid: Grid
    split_weight: Tensor | None = None

    def __post_init__(self) -> None:
        n = len(check_tensor(self.coords, "DualGrid.coords", (None, 3), torch.int32))
        check_tensor(self.dual, "DualGrid.dual", (n, 3), torch.float32)
        check_tensor(self.intersected, "DualGrid.intersected", (n, 3), torch.bool)
        if self.split_weight is not None:
            check_tensor(self.split_weight, "DualGrid.split_weight", (n,), torch.float32)


@dataclass(frozen=True, eq=False)
class VoxelField:
    """Values on occupied voxels, each at its voxel's centre.

    coords: [N, 3] int32.  attrs: [N, C] float; with C = 6 the channels are PBR_CHANNELS.
    """

    coords: Tensor
    attrs: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        n = len(check_tensor(self.coords, "VoxelField.coords", (None, 3), torch.int32))
        check_tensor(self.attrs, "VoxelField.attrs", (n, None), FLOATS)


@dataclass(frozen=True, eq=False)
class OVoxel:
    """A surface as voxels, and its materials where it has any. field.coords equal dual_grid.coords, row by row."""

    dual_grid: DualGrid
    field: VoxelField | None = None

    def __post_init__(self) -> None:
        if self.field is not None and not torch.equal(self.field.coords, self.dual_grid.coords):
            raise ValueError("OVoxel.field: expected the voxels of the dual grid, in its order")


def to_device(value: T, device: torch.device | str) -> T:
    """`value` with every tensor in it on `device`; itself where all are there.

    value: a tensor or another `Movable`, such as a CoordSet, which leaves behind what it has derived; a tuple or a
    dataclass of such; numbers, strings, bools and None stay. Raises TypeError for anything else, also inside.
    """
    if isinstance(value, HOST_TYPES):
        return value
    if isinstance(value, Movable):
        return value.to(device)
    if isinstance(value, tuple):
        moved = tuple(to_device(part, device) for part in value)
        return value if all(a is b for a, b in zip(moved, value, strict=True)) else moved
    if not is_dataclass(value) or isinstance(value, type):
        kind = type(value)
        raise TypeError(
            "to_device: expected a tensor, a value with device, nbytes and to(), a number or string, or a tuple or "
            f"dataclass of such, got {kind.__module__}.{kind.__qualname__}"
        )
    parts = {item.name: getattr(value, item.name) for item in fields(value) if item.init}
    changed = {name: moved for name, part in parts.items() if (moved := to_device(part, device)) is not part}
    return replace(value, **changed) if changed else value


def tensor_bytes(value: Any) -> int:
    """Bytes that `to_device` moves of a value."""
    return sum(part.nbytes for part in _movable(value))


def _movable(value: Any) -> Iterator[Movable]:
    if isinstance(value, Movable):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _movable(part)
    elif is_dataclass(value):
        for item in fields(value):
            yield from _movable(getattr(value, item.name))
