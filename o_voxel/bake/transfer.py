"""Materials of one textured mesh put onto another one: as textures, or as vertex colours."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..core.progress import Progress, in_background, scaled
from ..material import TexturedMesh
from ..mesh.connectivity.topology import area_vectors, check_mesh
from ..mesh.connectivity.weld import has_border
from ..mesh.normals import smooth_by_angle, vertex_normals
from ..mesh.parts import with_parts_of
from ..mesh.uv.unwrap import unwrap
from ..render.surface_materials import SurfaceMaterials
from ..values import Mesh
from ..voxels.sample import colored
from .bake import bake
from .mesh_materials import MeshMaterials, alpha_mode_of, check_textured, source_units
from .options import BakeOptions
from .sources import reach_of
from .texels import UV_SLACK

# Shares of the run time for progress: unwrapping and shading before the bake.
UNWRAP_SHARE, SHADE_SHARE = 0.4, 0.05
VERTICES_A_SECOND = 300_000


def transfer_textures(
    mesh: Mesh | TexturedMesh,
    source: TexturedMesh,
    options: BakeOptions = BakeOptions(),
    *,
    keep_uv: bool = True,
    gutter: int = 2,
    crease_deg: float = 60.0,
    progress: Progress | None = None,
) -> TexturedMesh:
    """Bakes the materials of `source` into one set of textures of `mesh`; see `bake`.

    mesh: vertices [V, 3], faces [F, 3] of any surface near the source's, as after simplifying or remeshing it; both in
    world units and on one device. keep_uv: its texture coordinates are used if it has some and they lie in [0, 1]; they
    must not overlap. Otherwise it is unwrapped with `gutter` texels between charts, and shaded smooth up to
    `crease_deg`, degrees.
    Parts are those of `mesh` or, without any, of the source's nearest faces.
    options: occlusion is computed from the source's surface; without it the source's own occlusion map is transferred.
    progress: called with the fraction done, 0 to 1; may raise, to cancel. Deterministic. Raises as `unwrap` and `bake`.
    """
    target = mesh if isinstance(mesh, TexturedMesh) else TexturedMesh(mesh)
    if keep_uv and _usable(target):
        uv_map, shaded, normals = target.uv_map, target.mesh, target.normals
        share = 0.0
    else:
        share = UNWRAP_SHARE + SHADE_SHARE
        bar = scaled(progress, 0.0, UNWRAP_SHARE)
        uv_map = unwrap(target.mesh, resolution=options.resolution, gutter=gutter, progress=bar)
        bar = scaled(progress, UNWRAP_SHARE, SHADE_SHARE)
        shaded, normals, _ = smooth_by_angle(target.mesh, crease_deg, progress=bar)
    bar = scaled(progress, share, 1 - share)
    made = with_parts_of(bake(shaded, uv_map, source.mesh, source, options, normals=normals, progress=bar), source)
    return replace(made, part_ids=target.part_ids, part_names=target.part_names) if target.part_names else made


@torch.no_grad()
def transfer_colors(
    mesh: Mesh, source: TexturedMesh, *, normals: Tensor | None = None, progress: Progress | None = None
) -> TexturedMesh:
    """Gives `mesh`, vertices [V, 3], the colours, alpha, metallic and roughness of `source` at its vertices.

    Textures are filtered to about the size of a vertex's faces. Emission and normal maps have no place on vertices.
    Parts are those of the source's nearest faces.
    normals: [V, 3] float32 unit vectors, kept; None: `vertex_normals`, of which none are stored. progress: as usual.
    Deterministic. Raises ValueError for meshes that are empty, not finite or on different devices.
    """
    check_mesh(mesh)
    check_textured(source, "source")
    if mesh.vertices.device != source.mesh.vertices.device:
        raise ValueError(f"source: expected {mesh.vertices.device} like the mesh, got {source.mesh.vertices.device}")
    if len(mesh.faces) == 0 or len(source.mesh.faces) == 0:
        raise ValueError(f"expected two meshes with faces, got {len(mesh.faces)} and {len(source.mesh.faces)}")

    def work(report: Progress) -> TexturedMesh:
        facing = vertex_normals(mesh) if normals is None else normals
        materials = MeshMaterials.of(source, normals=False)
        report(0.2)
        options = BakeOptions()
        reach = reach_of(source.mesh, source, options)
        found = materials.find(mesh.vertices.contiguous(), facing, reach, options.snap_min_cosine)
        report(0.8)
        values = materials.sample(found, facing, _vertex_sizes(mesh)).field
        made = colored(mesh, values)
        used = values[mesh.faces.long().unique(), 5]
        mode = alpha_mode_of(source, int((used.min() * 255).round()))
        shared = any(material.double_sided for material in source.materials) or has_border(mesh)
        material = replace(made.materials[0], double_sided=shared, alpha_mode=mode)
        return with_parts_of(replace(made, materials=(material,), normals=normals), source)

    return in_background(work, progress, 0.5 + len(mesh.vertices) / VERTICES_A_SECOND)


@torch.no_grad()
def own_vertex_colors(mesh: TexturedMesh) -> Tensor:
    """Returns colours [V, 4] float32 sRGB and alpha of the materials of `mesh` at its vertices, [V, 3].

    The mean over the faces around a vertex, textures filtered to about their size; white for unused vertices.
    Deterministic. Raises ValueError for rows out of range or values not finite.
    """
    check_textured(mesh, "mesh")
    plain = replace(mesh, normals=None, materials=tuple(replace(m, normal_texture=None) for m in mesh.materials))
    values, faces = SurfaceMaterials.of(plain), mesh.mesh.faces.long()
    every = torch.arange(len(faces), device=faces.device)
    sizes, unit = _vertex_sizes(mesh.mesh), source_units(mesh)
    total = mesh.mesh.vertices.new_zeros(len(mesh.mesh.vertices), 5)
    for corner in range(3):
        # A little inside, so that no other chart is read.
        weights = total.new_full((3, len(faces)), 0.01)
        weights[corner] = 0.98
        rows = faces[:, corner]
        found = values.read(every, weights, sizes[rows] / unit)[[0, 1, 2, 5]].T.clamp(0, 1)
        total.index_add_(0, rows, torch.nn.functional.pad(found, (0, 1), value=1.0))
    return torch.where(total[:, 4:] > 0, total[:, :4] / total[:, 4:].clamp_min(1), 1.0)


def with_maps(mesh: TexturedMesh, baked: TexturedMesh) -> TexturedMesh:
    """Returns `mesh` with the normal and occlusion maps and the normals [V, 3] of `baked`, on the same UVs [U, 2]."""
    made = baked.materials[0]
    changes = {name: getattr(made, name) for name in ("normal_texture", "occlusion_texture")}
    changes = {name: texture for name, texture in changes.items() if texture is not None}
    if "normal_texture" in changes:
        changes["normal_scale"] = 1.0
    return replace(mesh, materials=tuple(replace(old, **changes) for old in mesh.materials), normals=baked.normals)


def _usable(mesh: TexturedMesh) -> bool:
    """Whether the texture coordinates of `mesh` are those of an atlas."""
    if mesh.uv is None or len(mesh.mesh.faces) == 0:
        return False
    used = mesh.uv[mesh.uv_rows.long()]
    return bool(((used >= -UV_SLACK) & (used <= 1 + UV_SLACK)).all())


def _vertex_sizes(mesh: Mesh) -> Tensor:
    """Returns the side [V] float32 of a square as large as a third of the faces around each vertex."""
    areas = area_vectors(mesh.vertices, mesh.faces.long()).square().sum(1).sqrt() / 3
    total = areas.new_zeros(len(mesh.vertices))
    for corner in mesh.faces.long().unbind(1):
        total.index_add_(0, corner, areas)
    return total.sqrt().float()
