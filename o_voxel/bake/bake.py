"""Textures for a mesh from the dense surface and the voxels that it stands for."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..core.checks import check_tensor
from ..core.progress import Progress, scaled, silent
from ..material import TexturedMesh, UVMap
from ..mesh.connectivity.topology import check_mesh
from ..mesh.connectivity.weld import has_border
from ..mesh.normals import vertex_normals
from ..values import PBR_CHANNELS, Mesh, VoxelField
from .atlas import Atlas
from .options import BakeOptions
from .sources import BakeSources
from .texels import band_samples, band_starts, lone_samples

# uv may leave the atlas by the rounding of whoever made it.
UV_SLACK = 1e-5
# The share of the time that the preparation takes, and the filling at the end, for the progress.
PREPARE_SHARE, FILL_SHARE = 0.4, 0.05


@torch.no_grad()
def bake(
    mesh: Mesh,
    uv_map: UVMap,
    dense: Mesh,
    field: VoxelField,
    options: BakeOptions = BakeOptions(),
    *,
    normals: Tensor | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> TexturedMesh:
    """`mesh` with one material whose textures hold what `field` and `dense` have where its texels are.

    mesh: the mesh to texture, of few faces.  uv_map: its atlas, inside [0, 1].  dense: the surface it was made from.
    field: the voxels' PBR_CHANNELS, in [0, 1]. All in world units and on one device.
    normals: [V, 3] float32 unit vectors, what `mesh` will be shaded with; None: `vertex_normals`. The result carries
    them, for the normal map is relative to them and to the tangents that follow from them.
    backend: "auto", "triton", "numba" or "reference", of every op that has it.
    progress: called with the share done, 0 to 1; what it raises stops the work.

    Each sample of a texel moves to the nearest place on `dense` that is near and faces the same way; the field is read
    there, between the occupied voxels. Where there is no such place it is read where the sample is. Samples average
    as they are encoded (base colour: sRGB). Texels with no voxel near, and those of no face, take the value of the
    nearest texel that has one, so every mip level is free of background. Of faces that overlap in the atlas the lowest
    is baked. Textures: base colour, metallic, roughness; alpha unless OPAQUE; tangent-space normals and occlusion as
    asked for. Double-sided only where `mesh` is open.

    Deterministic: the same bytes each time on one device and backend. GPU memory beyond the arguments: half a KiB a
    dense face for a moment and 100 bytes to the end, 20 bytes a texel, 1 GiB for the rows at hand, and 4 MiB a ray for
    occlusion.
    Raises ValueError for meshes or voxels that are empty, not finite or on different devices; uv outside the atlas; an
    atlas where no face has an area, or no texel a voxel near.
    """
    normals = _check(mesh, uv_map, dense, field, normals)
    report = progress or silent
    report(0.0)
    sources = BakeSources.prepare(
        (mesh, normals, uv_map), dense, field, options, backend, scaled(report, 0.0, PREPARE_SHARE)
    )
    side, device = options.resolution, mesh.vertices.device
    atlas = Atlas.empty(options, device)
    seen = torch.zeros(len(mesh.faces), dtype=torch.bool, device=device)
    starts = band_starts(side, options.supersample, device)
    for start in starts:
        samples = band_samples(uv_map, side, options.supersample, start, backend=backend)
        seen[samples.face] = True
        atlas.write(samples, sources.look_up(samples))
        done = min(start + starts.step, side) / side
        report(PREPARE_SHARE + (1 - PREPARE_SHARE - FILL_SHARE) * done)
    lone = lone_samples(uv_map, side, seen, atlas.covered)
    if lone is not None:
        atlas.write(lone, sources.look_up(lone))
    material = replace(atlas.material(options, backend), double_sided=has_border(mesh))
    report(1.0)
    return TexturedMesh(mesh, (material,), uv=uv_map.uv, uv_faces=uv_map.faces, normals=normals)


def _check(mesh: Mesh, uv_map: UVMap, dense: Mesh, field: VoxelField, normals: Tensor | None) -> Tensor:
    """The normals [V, 3] to use; raises ValueError for the first fault."""
    device, faces = mesh.vertices.device, mesh.faces
    parts = {
        "mesh.faces": faces,
        "uv_map.uv": uv_map.uv,
        "uv_map.faces": uv_map.faces,
        "dense.vertices": dense.vertices,
        "dense.faces": dense.faces,
        "field.coords": field.coords,
        "field.attrs": field.attrs,
        "normals": mesh.vertices if normals is None else normals,
    }
    for name, part in parts.items():
        if part.device != device:
            raise ValueError(f"{name}: expected {device} like the mesh, got {part.device}")
    for name, rows in (("mesh.faces", faces), ("dense.faces", dense.faces), ("field.coords", field.coords)):
        if len(rows) == 0:
            raise ValueError(f"{name}: expected at least one row, got none")
    if len(uv_map.faces) != len(faces):
        raise ValueError(f"uv_map.faces: expected {len(faces)} rows like the mesh, got {len(uv_map.faces)}")
    check_mesh(mesh)
    _check_uv(uv_map)
    width = max(channels.stop for channels in PBR_CHANNELS.values())
    check_tensor(field.attrs, "field.attrs", (None, width))
    if not bool(field.attrs.isfinite().all()):
        raise ValueError("field.attrs: expected finite values, got NaN or infinity")
    if normals is None:
        return vertex_normals(mesh)
    check_tensor(normals, "normals", (len(mesh.vertices), 3), torch.float32)
    if not bool(normals.isfinite().all()):
        raise ValueError("normals: expected finite vectors, got NaN or infinity")
    return normals


def _check_uv(uv_map: UVMap) -> None:
    low, high = (int(row) for row in uv_map.faces.aminmax())
    if low < 0 or high >= len(uv_map.uv):
        raise ValueError(f"uv_map.faces: expected rows 0 to {len(uv_map.uv) - 1} of uv, got {low} to {high}")
    used = uv_map.uv[uv_map.faces.long()]
    # NaN fails every comparison.
    if not bool(((used >= -UV_SLACK) & (used <= 1 + UV_SLACK)).all()):
        raise ValueError(f"uv_map.uv: expected an atlas in [0, 1], got {float(used.min())} to {float(used.max())}")
