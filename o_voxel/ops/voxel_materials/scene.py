"""Textured mesh and grid as flat tables for sampling: one row per triangle, one per material.

The order of float32 operations is the reference's (O-Voxel's volumetric attributes), because truncation to eight bits
exposes differences of one unit in the last place. Sums are therefore written out and not fused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.grid import Grid
from ...material import Material, TexturedMesh
from ...values import PBR_CHANNELS
from ..texture_sample import PBR_SLOTS, TextureTable, pack_textures

ALPHA_CODES = {"OPAQUE": 0, "MASK": 1, "BLEND": 2}
ALPHA = PBR_CHANNELS["alpha"].start
# A triangle (in space or in UV) is degenerate below this sine of the angle between two edges.
FLAT_SINE = 1e-6


@dataclass(frozen=True, eq=False)
class Scene:
    """Tables for sampling. F triangles, M materials, C values per sample: PBR_CHANNELS, then the optional ones.

    triangles: [F, 3, 3] float32, world units from the grid's corner.  voxel_size: [3] float32.
    tri_bits: low bits of a pair's key that hold the triangle.  side: the grid's longest side, world units.
    plane: [F, 16] float32: corner a, edges ab, ac, normal, ab.ab, ab.ac, ac.ac, determinant.
    uv: [F, 6], colors: [F, 12], normals: [F, 9], tangents: [F, 6] (along u, along v), all float32 or None.
    material: [F] int64.  factors: [M, C] float32.  alpha_mode: [M] int64.  alpha_cutoff: [M] float32.
    normal_at: the first channel of the normal, or -1.
    tables: the textures.  lod: [F, tables] float32, mip level per triangle, 0 the full image.
    """

    shape: tuple[int, int, int]
    voxel_size: Tensor
    side: float
    tri_bits: int
    triangles: Tensor
    plane: Tensor
    uv: Tensor | None
    colors: Tensor | None
    normals: Tensor | None
    tangents: Tensor | None
    material: Tensor
    factors: Tensor
    alpha_mode: Tensor
    alpha_cutoff: Tensor
    normal_at: int
    tables: tuple[TextureTable, ...]
    lod: Tensor

    @property
    def device(self) -> torch.device:
        return self.triangles.device


def pack_scene(mesh: TexturedMesh, grid: Grid, *, emissive: bool, normal: bool, mip_offset: float) -> Scene:
    """Builds the tables of a checked `mesh` (vertices [V, 3], faces [F, 3]) in `grid`, on the mesh's device.

    Raises ValueError when pair keys would exceed 63 bits.
    """
    device = mesh.mesh.vertices.device
    slots = _slots(mesh.materials, emissive, normal)
    voxel_size = torch.tensor(grid.voxel_size, dtype=torch.float32, device=device)
    faces = mesh.mesh.faces.to(torch.int64)
    tri_bits = max(1, len(faces) - 1).bit_length()
    voxels = grid.shape[0] * grid.shape[1] * grid.shape[2]
    if (voxels - 1).bit_length() + tri_bits > 63:
        raise ValueError(f"grid: expected voxels x faces under 2^63, got {grid.shape} and {len(faces)} faces")
    triangles = mesh.mesh.vertices[faces] - torch.tensor(grid.origin, dtype=torch.float32, device=device)
    plane = plane_table(triangles)
    uv_faces = mesh.uv_rows.to(torch.int64)
    uv = None if mesh.uv is None else mesh.uv[uv_faces].flatten(1)
    material = torch.zeros(len(faces), dtype=torch.int64, device=device)
    material = material if mesh.material_ids is None else mesh.material_ids.to(torch.int64)
    tables = pack_textures(mesh.materials, slots, device)
    tangents, lod = None, plane.new_zeros(len(faces), 0)
    if tables:
        tangents, texture_length = uv_frame(plane, uv)
        lod = _mip_levels(tables, material, voxel_size.max() / texture_length, mip_offset)
    return Scene(
        shape=grid.shape,
        voxel_size=voxel_size,
        side=max(n * s for n, s in zip(grid.shape, grid.voxel_size, strict=True)),
        tri_bits=tri_bits,
        triangles=triangles,
        plane=plane,
        uv=uv if tables else None,
        colors=None if mesh.vertex_colors is None else mesh.vertex_colors[faces].flatten(1),
        normals=_corner_normals(mesh, faces, plane) if normal else None,
        tangents=tangents if "normal_texture" in slots else None,
        material=material,
        factors=_factors(mesh.materials, emissive, normal).to(device),
        alpha_mode=torch.tensor([ALPHA_CODES[m.alpha_mode] for m in mesh.materials], device=device),
        alpha_cutoff=torch.tensor([m.alpha_cutoff for m in mesh.materials], dtype=torch.float32, device=device),
        normal_at=len(_factors(mesh.materials, emissive, False)[0]) if normal else -1,
        tables=tables,
        lod=lod,
    )


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Returns the dot products [...] of [..., 3] vectors, summed in the reference's order."""
    product = a * b
    return product[..., 0] + (product[..., 1] + product[..., 2])


def root(values: Tensor) -> Tensor:
    """Returns correctly rounded float32 square roots, same shape; torch's are sometimes off by one unit on the CPU."""
    return values.to(torch.float64).sqrt().to(torch.float32)


def normalize(vectors: Tensor) -> Tensor:
    """Normalises [..., 3] vectors; zero stays zero."""
    length = root(dot(vectors, vectors))[..., None]
    return torch.where(length > 0, vectors / length, vectors)


def plane_table(triangles: Tensor) -> Tensor:
    """Returns Scene.plane [F, 16] float32 of triangles [F, 3, 3]."""
    a, b, c = triangles.unbind(1)
    ab, ac = b - a, c - a
    x, y, z = (ab[:, i] * ac[:, j] - ab[:, j] * ac[:, i] for i, j in ((1, 2), (2, 0), (0, 1)))
    normal = normalize(torch.stack((x, y, z), 1))
    d00, d01, d11 = dot(ab, ab), dot(ab, ac), dot(ac, ac)
    scalars = torch.stack((d00, d01, d11, d00 * d11 - d01 * d01), 1)
    return torch.cat((a, ab, ac, normal, scalars), 1)


def uv_frame(plane: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (tangents [F, 6], world units per unit of UV [F]) of triangles with corner `uv` [F, 6].

    Triangles degenerate in UV get the axes x and y, and a length so large that they read the full image. Unlike in the
    reference, the test is by the angle in UV, not the area (whose fixed 1e-6 rejects the small triangles of a dense
    mesh), and mirrored UVs flip the tangents.
    """
    ab, ac = plane[:, 3:6], plane[:, 6:9]
    u1, v1, u2, v2 = uv[:, 2] - uv[:, 0], uv[:, 3] - uv[:, 1], uv[:, 4] - uv[:, 0], uv[:, 5] - uv[:, 1]
    area = u1 * v2 - v1 * u2
    flat = area.abs() <= FLAT_SINE * (u1 * u1 + v1 * v1).sqrt() * (u2 * u2 + v2 * v2).sqrt()
    inverse = 1.0 / torch.where(flat, 1.0, area)
    along_u = v2[:, None] * ab - v1[:, None] * ac
    along_v = u1[:, None] * ac - u2[:, None] * ab
    length_u, length_v = (root(dot(t, t)) for t in (along_u, along_v))
    sign = torch.sign(inverse)[:, None]
    tangents = torch.cat((along_u / length_u[:, None] * sign, along_v / length_v[:, None] * sign), 1)
    axes = tangents.new_tensor((1.0, 0.0, 0.0, 0.0, 1.0, 0.0)).expand_as(tangents)
    length = root((inverse * length_u) * (inverse * length_v))
    tangents = torch.where(flat[:, None] | ~tangents.isfinite().all(1, keepdim=True), axes, tangents)
    return tangents, torch.where(flat, 1e6, length)


def _mip_levels(tables: tuple[TextureTable, ...], material: Tensor, footprint: Tensor, offset: float) -> Tensor:
    """Returns [F, tables] float32 mip levels; footprint: [F] float32, the UV length of a voxel on each triangle."""
    columns = []
    for table in tables:
        # In float64, then rounded: float32 logarithms differ between devices.
        level = (footprint * table.texture_size()[material]).to(torch.float64).log2().to(torch.float32) + offset
        level = torch.where(level.isfinite(), level, 0.0).clamp_min(0.0)
        columns.append(torch.minimum(level, table.last_level[material].clamp_min(0))[:, None])
    return torch.cat(columns, 1)


def _slots(materials: tuple[Material, ...], emissive: bool, normal: bool) -> dict[str, tuple[int, ...]]:
    """Returns the textures to read and the channels they fill."""
    slots = dict(PBR_SLOTS)
    if all(material.alpha_mode == "OPAQUE" for material in materials):
        del slots["alpha_texture"]
    next_channel = ALPHA + 1
    for name, wanted in (("emissive_texture", emissive), ("normal_texture", normal)):
        if wanted:
            slots[name] = tuple(range(next_channel, next_channel + 3))
            next_channel += 3
    return {name: channels for name, channels in slots.items() if any(getattr(m, name) for m in materials)}


def _factors(materials: tuple[Material, ...], emissive: bool, normal: bool) -> Tensor:
    """Returns factors [M, C] float32. A normal's x and y hold its scale, so that all channels multiply alike."""
    rows = []
    for m in materials:
        row = [*m.base_color_factor, m.metallic_factor, m.roughness_factor, m.alpha_factor]
        row += m.emissive_factor if emissive else ()
        row += (m.normal_scale, m.normal_scale, 1.0) if normal else ()
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float32)


def _corner_normals(mesh: TexturedMesh, faces: Tensor, plane: Tensor) -> Tensor:
    return plane[:, 9:12].repeat(1, 3) if mesh.normals is None else mesh.normals[faces].flatten(1)
