"""Between meshes, O-Voxels and voxel records: the library's story in three functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..core.grid import Grid
from ..files.voxels.records import (
    VoxelRecords,
    dual_grid_to_records,
    field_to_records,
    records_to_dual_grid,
    records_to_field,
)
from ..material import TexturedMesh
from ..values import PBR_CHANNELS, Mesh, OVoxel
from .from_mesh import mesh_to_dual_grid
from .materials import voxel_materials

Progress = Callable[[float], None]

# The share of the time that the surface takes, for the progress; the materials take the rest.
SURFACE_SHARE = 0.5


def fitted(mesh: TexturedMesh) -> TexturedMesh:
    """The mesh centred and scaled so that its longest side just fits [-0.5, 0.5]^3, as the models expect.

    Raises ValueError for a mesh without extent.
    """
    vertices = mesh.mesh.vertices
    if len(vertices) == 0:
        raise ValueError("mesh: expected vertices, got none")
    low, high = vertices.amin(0), vertices.amax(0)
    extent = float((high - low).max())
    if not extent > 0:
        raise ValueError(f"mesh: expected a positive finite extent, got {extent}")
    moved = (vertices - (low + high) / 2) * (0.99999 / extent)
    return replace(mesh, mesh=Mesh(moved, mesh.mesh.faces))


def voxelize(mesh: TexturedMesh, grid: Grid, *, materials: bool = True, progress: Progress | None = None) -> OVoxel:
    """A textured mesh as O-Voxel: its dual grid and, with `materials`, their mean on each of its voxels."""
    share = SURFACE_SHARE if materials else 1.0

    def part(start: float, length: float) -> Progress | None:
        return None if progress is None else lambda fraction: progress(start + length * fraction)

    dual_grid = mesh_to_dual_grid(mesh.mesh, grid, progress=part(0.0, share))
    if not materials:
        return OVoxel(dual_grid)
    found = voxel_materials(mesh, grid, coords=dual_grid.coords, progress=part(share, 1 - share))
    return OVoxel(dual_grid, found.field)


def to_records(voxels: OVoxel) -> VoxelRecords:
    """What a voxel file holds of an O-Voxel: vertices, crossed edges and, where known, materials; uint8 each."""
    shape = dual_grid_to_records(voxels.dual_grid)
    if voxels.field is None:
        return shape
    return VoxelRecords(shape.coords, {**shape.attrs, **field_to_records(voxels.field).attrs}, shape.grid)


def from_records(records: VoxelRecords, grid: Grid | None = None) -> OVoxel:
    """The inverse of `to_records`, to a uint8's precision. grid: where the voxels are, which no file says; without it
    the smallest cube [-0.5, 0.5]^3 of a power-of-two side that holds them. Raises ValueError where there is no surface.
    """
    grid = grid or records.grid or _smallest_cube(records)
    colored = set(PBR_CHANNELS) <= set(records.attrs)
    field = records_to_field(records, grid) if colored else None
    return OVoxel(records_to_dual_grid(records, grid), field)


def _smallest_cube(records: VoxelRecords) -> Grid:
    highest = int(records.coords.max()) if len(records.coords) else 0
    return Grid.cube(max(32, 1 << highest.bit_length()))


__all__ = ["fitted", "from_records", "to_records", "voxelize"]
