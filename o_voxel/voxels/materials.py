"""Voxel materials: bakes the PBR materials of a textured mesh into the voxels that its surface touches.

A voxel's value is a weighted mean over the triangles that touch it, each sampled at the projection of the voxel centre
onto its plane, at the mip level whose texels are as large as a voxel (facts: O-Voxel's volumetric attributes). The
weight is the original's in its unit cube: 1 - signed distance to the plane / longest side of the grid. Corrects errors
of the original on which no golden value depends: emissive textures have their own mip levels, small triangles of dense
meshes are filtered, mirrored UVs keep the orientation of normals, and textures may have any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import color
from ..core.checks import check_tensor
from ..core.grid import Grid
from ..core.progress import Progress, in_background, scaled
from ..material import TexturedMesh
from ..ops.voxel_materials import Scene, find_pairs, nearest_rows, pack_scene, unravel, voxel_means
from ..values import PBR_CHANNELS, VoxelField

PBR_WIDTH = max(channels.stop for channels in PBR_CHANNELS.values())
# Fraction of the run time spent on finding voxels, for progress reports.
SCAN_SHARE = 0.3
# For the estimate of the time, on two CPU cores.
VOXELS_A_SIDE_A_SECOND = 100


@dataclass(frozen=True, eq=False)
class VoxelMaterials:
    """Materials of N voxels, in the order of field.coords.

    field: attrs [N, 6] float32, PBR_CHANNELS, in [0, 1].  reached: [N] bool; False for voxels that no triangle touches,
    whose values come from a voxel nearby.
    emissive: [N, 3] float32 >= 0, or None.  normal: [N, 3] float32 mean of unit normals, world axes, not renormalised
    (its length measures how well they agree), or None.
    """

    field: VoxelField
    reached: Tensor
    emissive: Tensor | None = None
    normal: Tensor | None = None


@torch.no_grad()
def voxel_materials(
    mesh: TexturedMesh,
    grid: Grid,
    *,
    coords: Tensor | None = None,
    extras: tuple[str, ...] = (),
    mip_offset: float = 0.0,
    backend: str = "auto",
    progress: Progress | None = None,
) -> VoxelMaterials:
    """Samples the materials of `mesh` on the voxels of `grid`; tensors are on the mesh's device.

    coords: [N, 3] int32, voxels to fill, in any order, such as a DualGrid's. A voxel that no triangle touches copies
    the nearest one that is touched (exact up to two voxels away, then approximate), or 0 if there is none.
    None: the voxels whose grid edges the surface crosses, as in the mesh's dual grid, in lexicographic order.
    extras: "emissive", "normal", or both.  mip_offset: levels to add; positive blurs.
    backend: "auto", "numba" (CPU) or "reference" (torch, CPU or GPU); same voxels, values equal up to rounding.
    progress: called with the fraction done, 0 to 1; may raise to cancel.
    Ignores surface outside the grid. Deterministic: same bytes for any slab size or thread count. Memory beyond the
    slabs: 4/3 of the textures, about 200 bytes per triangle and 100 per voxel.
    Golden: c6_volumetric_attr, from microsoft/TRELLIS.2's `textured_mesh_to_volumetric_attr`.
    Raises ValueError for non-finite positions, UVs, normals or colours, indices out of range, coords outside the grid.
    """
    unknown = set(extras) - {"emissive", "normal"}
    if unknown:
        raise ValueError(f"extras: expected 'emissive' or 'normal', got {sorted(unknown)}")
    _check_values(mesh)
    wanted = None if coords is None else _voxel_numbers(coords, grid, mesh.mesh.vertices.device)
    return in_background(
        lambda report: _sampled(mesh, grid, (coords, wanted), (extras, float(mip_offset)), backend, report),
        progress,
        1 + max(grid.shape) / VOXELS_A_SIDE_A_SECOND,
    )


def _sampled(
    mesh: TexturedMesh,
    grid: Grid,
    voxels: tuple[Tensor | None, Tensor | None],
    options: tuple[tuple[str, ...], float],
    backend: str,
    report: Progress,
) -> VoxelMaterials:
    """`voxel_materials` after its checks. voxels: coords and their numbers.  options: extras and mip_offset."""
    (coords, wanted), (extras, mip_offset) = voxels, options
    scene = pack_scene(mesh, grid, emissive="emissive" in extras, normal="normal" in extras, mip_offset=mip_offset)
    keys = find_pairs(scene, backend=backend, report=scaled(report, 0.0, SCAN_SHARE))
    keys, numbers, rows, reached = _plan(scene, keys, wanted)

    def sampling(done: float) -> None:
        report(SCAN_SHARE + (1 - SCAN_SHARE) * done)

    values = voxel_means(scene, keys, numbers, backend=backend, report=sampling)[rows]
    report(1.0)
    coords = _coords(scene, numbers).to(torch.int32) if coords is None else coords
    return _named(values, reached, coords, grid, extras)


def to_bytes(values: Tensor) -> Tensor:
    """Quantises `values` [...] float in [0, 1] to uint8 [...] as the original does: 255 x, clamped and truncated."""
    return color.to_bytes(values, "down")


def _plan(scene: Scene, keys: Tensor, wanted: Tensor | None) -> tuple[Tensor, Tensor, Tensor | slice, Tensor]:
    """(keys [P] int64 to sample, their voxels [M] int64 ascending, row of each result in these [N], reached [N] bool).

    wanted: [N] int64 voxel numbers to fill, or None for all that triangles touch.
    """
    touched = torch.unique_consecutive(keys >> scene.tri_bits)
    # The voxels of the mesh's own dual grid, in its order, are just those that triangles touch.
    if wanted is None or torch.equal(wanted, touched):
        return keys, touched, slice(None), torch.ones_like(touched, dtype=torch.bool)
    reached = _is_in(wanted, touched)
    empty = (~reached).nonzero()[:, 0]
    if len(empty) and len(touched):
        near = nearest_rows(_coords(scene, touched), _coords(scene, wanted[empty]))
        wanted = wanted.index_copy(0, empty, touched[near])
    voxels, rows = torch.unique(wanted, return_inverse=True)
    return keys[_is_in(keys >> scene.tri_bits, voxels)], voxels, rows, reached


def _is_in(values: Tensor, ascending: Tensor) -> Tensor:
    """[N] bool: whether each of `values` [N] is in `ascending` [M], sorted; int64."""
    if len(ascending) == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    row = torch.searchsorted(ascending, values).clamp_max(len(ascending) - 1)
    return ascending[row] == values


def _coords(scene: Scene, voxels: Tensor) -> Tensor:
    """Coordinates [N, 3] int64 of voxel numbers [N] int64."""
    return torch.stack(unravel(voxels, scene.shape), 1)


def _named(values: Tensor, reached: Tensor, coords: Tensor, grid: Grid, extras: tuple[str, ...]) -> VoxelMaterials:
    emissive = values[:, PBR_WIDTH : PBR_WIDTH + 3] if "emissive" in extras else None
    normal = values[:, -3:] if "normal" in extras else None
    field = VoxelField(coords, values[:, :PBR_WIDTH].contiguous(), grid)
    return VoxelMaterials(
        field,
        reached,
        emissive=None if emissive is None else emissive.contiguous(),
        normal=None if normal is None else normal.contiguous(),
    )


def _voxel_numbers(coords: Tensor, grid: Grid, device: torch.device) -> Tensor:
    """Voxel numbers [N] int64, (x * Y + y) * Z + z, of `coords` [N, 3] int32, after checks."""
    check_tensor(coords, "coords", (None, 3), torch.int32)
    if coords.device != device:
        raise ValueError(f"coords: expected {device} like the mesh, got {coords.device}")
    wide = coords.to(torch.int64)
    shape = torch.tensor(grid.shape, device=device)
    if not bool(((wide >= 0) & (wide < shape)).all()):
        raise ValueError(f"coords: expected voxels inside {grid.shape}, got some outside")
    return (wide[:, 0] * grid.shape[1] + wide[:, 1]) * grid.shape[2] + wide[:, 2]


def _check_values(mesh: TexturedMesh) -> None:
    """Raises ValueError for the first invalid field; one host synchronisation."""
    vertices, uv = mesh.mesh.vertices, mesh.uv
    if mesh.mesh.faces.device != vertices.device:
        raise ValueError(f"mesh: expected one device, got {vertices.device} and {mesh.mesh.faces.device}")
    n_vertices, n_uv, n_materials = len(vertices), 0 if uv is None else len(uv), len(mesh.materials)
    uv_rows = None if uv is None else mesh.uv_rows
    faults = {
        "mesh.vertices: expected finite positions, got nan or inf": _not_finite(vertices),
        f"mesh.faces: expected indices in [0, {n_vertices}), got some outside": _outside(mesh.mesh.faces, n_vertices),
        "uv: expected finite coordinates, got nan or inf": _not_finite(uv),
        f"uv: expected indices in [0, {n_uv}), got some outside, from uv_faces or else faces": _outside(uv_rows, n_uv),
        f"material_ids: expected ids in [0, {n_materials}), got some outside": _outside(mesh.material_ids, n_materials),
        "normals: expected finite vectors, got nan or inf": _not_finite(mesh.normals),
        "vertex_colors: expected finite colours, got nan or inf": _not_finite(mesh.vertex_colors),
    }
    flags = [flag for flag in faults.values() if flag is not None]
    found = iter(torch.stack(flags).tolist())
    for message, flag in faults.items():
        if flag is not None and next(found):
            raise ValueError(message)


def _not_finite(values: Tensor | None) -> Tensor | None:
    return None if values is None else ~values.isfinite().all()


def _outside(rows: Tensor | None, count: int) -> Tensor | None:
    return None if rows is None else ((rows < 0) | (rows >= count)).any()
