"""Core value types: Mesh, DualGrid, VoxelField, OVoxel, as frozen dataclasses, and moving them between devices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from .core.checks import FLOATS, check_tensor
from .core.device import Movable
from .core.grid import Grid

# The six PBR channels of a voxel, in decoder order. Base colour is sRGB; all are in [0, 1].
PBR_CHANNELS = {"base_color": slice(0, 3), "metallic": slice(3, 4), "roughness": slice(4, 5), "alpha": slice(5, 6)}

# Types that `to_device` returns unchanged.
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
    """A flexible dual grid: one dual vertex per voxel, and flags for the grid edges that the surface crosses.

    coords: [N, 3] int32.  dual: [N, 3] float32, dual vertex offset from the voxel's low corner, in voxels (0 to 1; a
    decoder's may exceed this range by its margin).  intersected: [N, 3] bool; axis a is set if the surface crosses
    the grid edge that is parallel to a, spans this voxel, and is at the voxel's high corner in the other two axes.
    split_weight: [N] float32, or None; selects the diagonal that splits a quad.
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
    """Attributes at the centres of occupied voxels.

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
    """A dual grid and optional materials. field.coords [N, 3] equals dual_grid.coords [N, 3], row by row."""

    dual_grid: DualGrid
    field: VoxelField | None = None

    def __post_init__(self) -> None:
        if self.field is not None and not torch.equal(self.field.coords, self.dual_grid.coords):
            raise ValueError("OVoxel.field: expected the voxels of the dual grid, in its order")


def to_device(value: T, device: torch.device | str) -> T:
    """Moves all tensors in `value` to `device`; returns `value` itself if they are there already.

    value: a tensor of any shape, another `Movable` (a CoordSet drops its derived maps), or a tuple or dataclass of
    these; numbers, strings, bools and None pass through. Raises TypeError for other types, also nested ones.
    """
    if isinstance(value, HOST_TYPES):
        return value
    if isinstance(value, Movable):
        return cast(T, value.to(device))
    if isinstance(value, tuple):
        moved = tuple(to_device(part, device) for part in value)
        return value if all(a is b for a, b in zip(moved, value, strict=True)) else cast(T, moved)
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
    """Returns the number of bytes that `to_device` copies."""
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
