"""Voxel records: coordinates with named attributes, as in voxel files, and conversion from and to O-Voxel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.checks import check_tensor
from ...core.color import Rounding, to_bytes
from ...core.grid import Grid
from ...values import PBR_CHANNELS, DualGrid, OVoxel, VoxelField

# Attribute dtypes of .npz and .ply; .vxz supports only uint8.
RECORD_DTYPES = (
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.float32,
    torch.float64,
)


@dataclass(frozen=True, eq=False)
class VoxelRecords:
    """Voxel coordinates with named attributes.

    coords: [N, 3] int32, x, y, z.  attrs: by name, each [N, C] with C >= 1, of one of RECORD_DTYPES; the original's
    files use uint8. Names are printable; order is preserved.  grid: if known; no file format contains it.
    """

    coords: Tensor
    attrs: Mapping[str, Tensor]
    grid: Grid | None = None

    def __post_init__(self) -> None:
        n = len(check_tensor(self.coords, "VoxelRecords.coords", (None, 3), torch.int32))
        for name, values in self.attrs.items():
            if not name or not name.isprintable():
                raise ValueError(f"VoxelRecords.attrs: expected printable names, got {name!r}")
            check_tensor(values, f"VoxelRecords.attrs[{name!r}]", (n, None), RECORD_DTYPES)
            if values.shape[1] == 0:
                raise ValueError(f"VoxelRecords.attrs[{name!r}]: expected at least 1 channel, got 0")

    def __len__(self) -> int:
        """The number of voxels."""
        return len(self.coords)


def as_coords(values: np.ndarray) -> Tensor:
    """Converts integral values [N, 3] of any dtype to int32. Raises ValueError outside int32's range, and for NaN."""
    limits = np.iinfo(np.int32)
    if values.size and not (values.min() >= limits.min and values.max() <= limits.max):
        raise ValueError(f"coords: expected values in int32's range, got {values.min()} to {values.max()}")
    return torch.from_numpy(values.astype(np.int32))


def dual_grid_to_records(dual_grid: DualGrid) -> VoxelRecords:
    """Converts a dual grid to the original's attributes: `vertices` [N, 3] and `intersected` [N, 1], both uint8.

    vertices = trunc(255 clamp(dual, 0, 1)); intersected = x + 2 y + 4 z. Lossy: dual vertices have a precision
    of 1/255 voxel, and split weights are dropped. Raises ValueError for non-finite dual vertices.
    """
    flags = dual_grid.intersected.to(torch.uint8)
    packed = flags[:, 0:1] | flags[:, 1:2] << 1 | flags[:, 2:3] << 2
    vertices = _bytes(dual_grid.dual, "DualGrid.dual", "down")
    return VoxelRecords(dual_grid.coords, {"vertices": vertices, "intersected": packed}, dual_grid.grid)


def records_to_dual_grid(records: VoxelRecords, grid: Grid | None = None) -> DualGrid:
    """Converts records to a dual grid, dual [N, 3] float32 = vertices / 255: `dual_grid_to_records` inverted.

    grid: default, the records' own. Raises ValueError without a grid, for attributes that are missing or have another
    shape or dtype, and for flags above 7.
    """
    n = len(records)
    vertices = check_tensor(_attribute(records, "vertices"), "vertices", (n, 3), torch.uint8)
    packed = check_tensor(_attribute(records, "intersected"), "intersected", (n, 1), torch.uint8)
    if n and int(packed.max()) > 7:
        raise ValueError(f"intersected: expected values from 0 to 7, got {int(packed.max())}")
    flags = torch.cat([packed >> axis & 1 for axis in range(3)], dim=1).bool()
    return DualGrid(records.coords, vertices.to(torch.float32) / 255, flags, _grid_of(records, grid))


def field_to_records(field: VoxelField) -> VoxelRecords:
    """Converts a PBR field, attrs [N, 6], to uint8 `base_color` [N, 3], `metallic`, `roughness` and `alpha` [N, 1].

    Clamps values to [0, 1] and rounds to the nearest of 255 steps, so 8-bit values round-trip exactly. Raises
    ValueError for another number of channels and for non-finite values.
    """
    check_tensor(field.attrs, "VoxelField.attrs", (len(field.coords), 6))
    levels = _bytes(field.attrs.to(torch.float32), "VoxelField.attrs", "half even")
    return VoxelRecords(field.coords, {name: levels[:, part] for name, part in PBR_CHANNELS.items()}, field.grid)


def records_to_field(records: VoxelRecords, grid: Grid | None = None) -> VoxelField:
    """Converts the PBR attributes of `records` to a field [N, 6] float32; uint8 is divided by 255, float is unchanged.

    grid: as in `records_to_dual_grid`. Raises ValueError for PBR attributes missing or of another shape or dtype.
    """
    parts = []
    for name, part in PBR_CHANNELS.items():
        shape = (len(records), part.stop - part.start)
        values = check_tensor(_attribute(records, name), name, shape, (torch.uint8, torch.float32, torch.float64))
        scale = 255 if values.dtype == torch.uint8 else 1
        parts.append(values.to(torch.float32) / scale)
    return VoxelField(records.coords, torch.cat(parts, dim=1), _grid_of(records, grid))


def _bytes(values: Tensor, name: str, rounding: Rounding) -> Tensor:
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name}: expected finite values")
    return to_bytes(values, rounding)


def _attribute(records: VoxelRecords, name: str) -> Tensor:
    if name not in records.attrs:
        raise ValueError(f"records: expected an attribute {name!r}, got {sorted(records.attrs)}")
    return records.attrs[name]


def _grid_of(records: VoxelRecords, grid: Grid | None) -> Grid:
    found = records.grid if grid is None else grid
    if found is None:
        raise ValueError("grid: expected one, since the records carry none")
    return found


def to_records(voxels: OVoxel) -> VoxelRecords:
    """Converts an O-Voxel to records: vertices [N, 3], crossed edges [N, 1] and, if present, PBR materials; uint8."""
    shape = dual_grid_to_records(voxels.dual_grid)
    if voxels.field is None:
        return shape
    return VoxelRecords(shape.coords, {**shape.attrs, **field_to_records(voxels.field).attrs}, shape.grid)


def from_records(records: VoxelRecords, grid: Grid | None = None) -> OVoxel:
    """Converts records to an O-Voxel of N voxels, coords [N, 3]; inverse of `to_records` up to uint8 precision.

    grid: default, the records' own, else the smallest power-of-two cube grid over [-0.5, 0.5]^3, at least 32 per side,
    that contains them. Raises ValueError without dual grid attributes.
    """
    grid = grid or records.grid or _smallest_cube(records)
    colored = set(PBR_CHANNELS) <= set(records.attrs)
    field = records_to_field(records, grid) if colored else None
    return OVoxel(records_to_dual_grid(records, grid), field)


def _smallest_cube(records: VoxelRecords) -> Grid:
    highest = int(records.coords.max()) if len(records.coords) else 0
    return Grid.cube(max(32, 1 << highest.bit_length()))
