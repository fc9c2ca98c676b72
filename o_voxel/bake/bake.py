"""Texture baking from a dense mesh, and its voxel field or textures, onto the UV atlas of a low-polygon mesh."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..core.checks import check_tensor
from ..core.progress import Progress, in_background, scaled
from ..material import TexturedMesh, UVMap
from ..mesh.connectivity.topology import check_mesh
from ..mesh.connectivity.weld import has_border
from ..mesh.normals import vertex_normals
from ..values import PBR_CHANNELS, Mesh, VoxelField
from .atlas import Atlas
from .mesh_materials import MeshMaterials, check_textured, used_materials
from .options import BakeOptions
from .sources import BakeSources
from .texels import UV_SLACK, band_samples, band_starts, lone_samples

# Shares of the run time, for progress: preparation, and filling at the end.
PREPARE_SHARE, FILL_SHARE = 0.4, 0.05
# For the estimate of the time, on two CPU cores.
SAMPLES_A_SECOND = 500_000


@torch.no_grad()
def bake(
    mesh: Mesh,
    uv_map: UVMap,
    dense: Mesh,
    field: VoxelField | TexturedMesh | None,
    options: BakeOptions = BakeOptions(),
    *,
    normals: Tensor | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> TexturedMesh:
    """Bakes the materials of `field` and the normals and occlusion of `dense` into textures of `mesh`.

    field: voxels with PBR_CHANNELS [N, 6] in [0, 1]; or a textured mesh, whose textures, factors and vertex colours are
    transferred from its surface; or None, for the normal map and occlusion alone.

    mesh: [V, 3] float32 vertices, [F, 3] faces, the low-polygon mesh to texture.  uv_map: its atlas, in [0, 1]: uv
    [U, 2], faces [F, 3].  dense: the detailed source mesh. All in world units and on one device.
    normals: [V, 3] float32 unit vectors, the shading normals of `mesh`; None: `vertex_normals`. They are part of the
    result: the normal map is relative to them and to their tangents.
    backend: "auto", "triton", "numba" or "reference", for every op that supports it.
    progress: called with the fraction done, 0 to 1; its exceptions propagate.

    Each texel sample is projected to the closest nearby point of `dense` with a similar normal, where the field is
    interpolated between occupied voxels; without such a point, at the sample itself. Samples are averaged as encoded
    (base colour: sRGB). Texels without a voxel nearby, and uncovered ones, copy the nearest texel with a value, so that
    no mip level contains background. Where faces overlap in the atlas the lowest is baked. Textures: base colour,
    metallic, roughness; alpha unless OPAQUE; tangent-space normals and occlusion by `options`. Double-sided only if
    `mesh` is open.
    From a textured mesh, every sample takes the closest point of its surface that faces the same way, at any distance;
    textures are filtered to the size of a sample. Emission is baked too; the normal map holds its shading normals and
    normal maps; without `options.occlusion` its own occlusion maps are transferred.

    Deterministic: identical bytes on the same device and backend. GPU memory beyond the arguments: 0.5 KiB per dense
    face temporarily and 100 bytes throughout, 20 bytes per texel, 1 GiB for the current band of rows, and 4 MiB per
    occlusion ray; from a textured mesh 4/3 of its textures and 0.5 KiB per face of it.
    Raises ValueError for meshes or voxels that are empty, not finite or on different devices; UVs outside [0, 1]; an
    atlas without face area, or without any voxel near a texel.
    """
    if field is None and not (options.normal_map or options.occlusion):
        raise ValueError("field: expected voxels or a textured mesh without normal_map and occlusion, got None")
    normals = _check(mesh, uv_map, dense, field, normals)
    return in_background(
        lambda report: _baked((mesh, normals, uv_map), dense, field, options, backend, report),
        progress,
        2 + (options.resolution * options.supersample) ** 2 / SAMPLES_A_SECOND,
    )


def _baked(
    target: tuple[Mesh, Tensor, UVMap],
    dense: Mesh,
    field: VoxelField | TexturedMesh | None,
    options: BakeOptions,
    backend: str,
    report: Progress,
) -> TexturedMesh:
    """`bake` after its checks. target: the mesh to texture, its normals [V, 3] and atlas."""
    mesh, normals, uv_map = target
    report(0.0)
    sources = BakeSources.prepare(target, dense, field, options, backend, scaled(report, 0.0, PREPARE_SHARE))
    side, device = options.resolution, mesh.vertices.device
    atlas = Atlas.empty(side, sources.layers(), device)
    has_sample = torch.zeros(len(mesh.faces), dtype=torch.bool, device=device)
    starts = band_starts(side, options.supersample, device)
    for start in starts:
        samples = band_samples(uv_map, side, options.supersample, start, backend=backend)
        has_sample[samples.face] = True
        atlas.write(samples, sources.look_up(samples))
        done = min(start + starts.step, side) / side
        report(PREPARE_SHARE + (1 - PREPARE_SHARE - FILL_SHARE) * done)
    lone = lone_samples(uv_map, side, has_sample, atlas.covered)
    if lone is not None:
        atlas.write(lone, sources.look_up(lone))
    textured = sources.materials if isinstance(sources.materials, MeshMaterials) else None
    material = atlas.material(options, textured, backend)
    sided = textured is not None and any(field.materials[row].double_sided for row in used_materials(field))
    material = replace(material, double_sided=sided or has_border(mesh))
    report(1.0)
    return TexturedMesh(mesh, (material,), uv=uv_map.uv, uv_faces=uv_map.faces, normals=normals)


def _check(
    mesh: Mesh, uv_map: UVMap, dense: Mesh, field: VoxelField | TexturedMesh | None, normals: Tensor | None
) -> Tensor:
    """Validates the arguments of `bake`; returns the normals [V, 3] to use. Raises ValueError for the first fault."""
    device, faces = mesh.vertices.device, mesh.faces
    parts = {"mesh.faces": faces, "uv_map.uv": uv_map.uv, "uv_map.faces": uv_map.faces}
    parts |= {"dense.vertices": dense.vertices, "dense.faces": dense.faces}
    filled = {"mesh.faces": faces, "dense.faces": dense.faces}
    if isinstance(field, VoxelField):
        parts |= {"field.coords": field.coords, "field.attrs": field.attrs}
        filled["field.coords"] = field.coords
    elif field is not None:
        parts["field.mesh.vertices"] = field.mesh.vertices
        filled["field.mesh.faces"] = field.mesh.faces
    parts["normals"] = mesh.vertices if normals is None else normals
    for name, part in parts.items():
        if part.device != device:
            raise ValueError(f"{name}: expected {device} like the mesh, got {part.device}")
    for name, rows in filled.items():
        if len(rows) == 0:
            raise ValueError(f"{name}: expected at least one row, got none")
    if len(uv_map.faces) != len(faces):
        raise ValueError(f"uv_map.faces: expected {len(faces)} rows like the mesh, got {len(uv_map.faces)}")
    check_mesh(mesh)
    _check_uv(uv_map)
    if isinstance(field, VoxelField):
        width = max(channels.stop for channels in PBR_CHANNELS.values())
        check_tensor(field.attrs, "field.attrs", (None, width))
        if not bool(field.attrs.isfinite().all()):
            raise ValueError("field.attrs: expected finite values, got NaN or infinity")
    elif field is not None:
        check_textured(field, "field")
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
