"""Evaluates the materials of a textured mesh at points on its faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.color import to_linear
from ..material import Material, TexturedMesh
from ..ops.texture_sample import PBR_SLOTS, TextureTable, pack_textures, texture_sample
from .surface_normals import SurfaceNormals

# Channels of a sample of light: emission (as encoded in the texture), then occlusion.
LIGHT_SLOTS = {"emissive_texture": (0, 1, 2), "occlusion_texture": (3,)}
SEE_THROUGH = ("BLEND", "MASK")
NORMAL_SLOTS = {"normal_texture": (0, 1, 2)}


@dataclass(frozen=True, eq=False)
class SurfaceMaterials:
    """F faces, M materials. Textures are sampled at full size, as render samples are about as fine as texels, or by
    `footprint` [P] float32: the sides, in units of UV, of the areas that the samples stand for.

    material: [F] int64.  factors: [M, 6] float32 PBR_CHANNELS.  translucent: [F] bool, alpha mode BLEND.
    cutout: [F] bool, alpha mode MASK.
    cutoff: [M] float32, alpha is 0 below it, else 1; -1 keeps alpha (BLEND), 0 makes it 1 (OPAQUE).
    uv: [F, 3, 2] or None.  colors: [F, 3, 4] or None.  tables: packed textures.
    emission: [M, 3] float32 linear factors, or None if no material emits or has an occlusion map.
    light_tables, normal_tables: packed textures of LIGHT_SLOTS and NORMAL_SLOTS.  normal_scale: [M] float32.
    normals: shading normals, or None: the scene's.
    """

    material: Tensor
    factors: Tensor
    translucent: Tensor
    cutout: Tensor
    cutoff: Tensor
    uv: Tensor | None
    colors: Tensor | None
    tables: tuple[TextureTable, ...]
    emission: Tensor | None
    light_tables: tuple[TextureTable, ...]
    normal_tables: tuple[TextureTable, ...]
    normal_scale: Tensor
    normals: SurfaceNormals | None

    @classmethod
    def of(cls, mesh: TexturedMesh, smooth: bool = True) -> SurfaceMaterials:
        """Packs the materials of a mesh with valid face indices, faces [F, 3], on its device.

        smooth: False ignores the mesh's normals; normal maps then bend the face normals.
        """
        faces, device = mesh.mesh.faces.long(), mesh.mesh.vertices.device
        materials = mesh.materials
        ids = torch.zeros(len(faces), dtype=torch.int64, device=device)
        ids = ids if mesh.material_ids is None else mesh.material_ids.long()
        factors = [(*m.base_color_factor, m.metallic_factor, m.roughness_factor, m.alpha_factor) for m in materials]
        cutoff = [{"OPAQUE": 0.0, "BLEND": -1.0, "MASK": m.alpha_cutoff}[m.alpha_mode] for m in materials]
        blend, mask = (torch.tensor([m.alpha_mode == mode for m in materials], device=device) for mode in SEE_THROUGH)
        uv_faces = mesh.uv_rows.long()
        normal_tables = _packed(materials, NORMAL_SLOTS, device)
        return cls(
            material=ids,
            factors=torch.tensor(factors, dtype=torch.float32, device=device),
            translucent=blend[ids],
            cutout=mask[ids],
            cutoff=torch.tensor(cutoff, dtype=torch.float32, device=device),
            uv=None if mesh.uv is None else mesh.uv[uv_faces],
            colors=None if mesh.vertex_colors is None else mesh.vertex_colors[faces],
            tables=_packed(materials, PBR_SLOTS, device),
            emission=_emission(materials, device),
            light_tables=_packed(materials, LIGHT_SLOTS, device),
            normal_tables=normal_tables,
            normal_scale=torch.tensor([m.normal_scale for m in materials], dtype=torch.float32, device=device),
            normals=SurfaceNormals.of(mesh, mapped=bool(normal_tables), smooth=smooth),
        )

    def read(self, face: Tensor, bary: Tensor, footprint: Tensor | None = None) -> Tensor:
        """Evaluates PBR_CHANNELS [6, P] float32 at `bary` [3, P] in `face` [P]."""
        material, weight = self.material.index_select(0, face), bary.T[..., None]
        values = self._times_texels(self.factors.index_select(0, material), self.tables, face, bary, footprint)
        if self.colors is not None:
            tint = (self.colors.index_select(0, face) * weight).sum(1).clamp(0, 1)
            values[:, [0, 1, 2, 5]] *= tint
        cutoff = self.cutoff.index_select(0, material)
        values[:, 5] = torch.where(cutoff < 0, values[:, 5], (values[:, 5] >= cutoff).to(values))
        return values.T

    def light(self, face: Tensor, bary: Tensor, footprint: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Emitted radiance [3, P], linear, and occlusion [P] in [0, 1] at `bary` [3, P] in `face` [P]; None without."""
        if self.emission is None:
            return None
        values = self._times_texels(bary.new_ones(len(face), 4), self.light_tables, face, bary, footprint)
        emission = self.emission.index_select(0, self.material.index_select(0, face)).T
        return emission * to_linear(values[:, :3].T), values[:, 3]

    def normal(self, face: Tensor, bary: Tensor, flat: Tensor, footprint: Tensor | None = None) -> Tensor | None:
        """Shading normals [3, P] at `bary` [3, P] in `face` [P], on the side of the face normals `flat` [3, P].

        None if the mesh has neither normals nor a normal map.
        """
        if self.normals is None:
            return None
        if not self.normal_tables:
            return self.normals.facing(face, bary, flat)
        flat_texel = bary.new_tensor([0.5, 0.5, 1.0]).expand(len(face), 3).clone()
        material = self.material.index_select(0, face)
        for table in self.normal_tables:
            flat_texel[table.last_level.index_select(0, material) >= 0] = 1
        local = self._times_texels(flat_texel, self.normal_tables, face, bary, footprint).T * 2 - 1
        scale = self.normal_scale.index_select(0, material)
        return self.normals.facing(face, bary, flat, torch.stack((local[0] * scale, local[1] * scale, local[2])))

    def _times_texels(
        self,
        values: Tensor,
        tables: Sequence[TextureTable],
        face: Tensor,
        bary: Tensor,
        footprint: Tensor | None = None,
    ) -> Tensor:
        """Multiplies `values` [P, C] in place by the texels of their materials' textures; returns them."""
        if not tables:
            return values
        material = self.material.index_select(0, face)
        uv = (self.uv.index_select(0, face) * bary.T[..., None]).sum(1)
        for table in tables:
            textured = (table.last_level.index_select(0, material) >= 0).nonzero().flatten()
            every = len(textured) == len(face)
            rows, places = (material, uv) if every else (material[textured], uv[textured])
            level = values.new_zeros(len(rows))
            if footprint is not None:
                size = footprint if every else footprint[textured]
                level = (size * table.texture_size()[rows]).clamp_min(1).log2()
                level = torch.minimum(level, table.last_level[rows].to(level))
            texels = texture_sample(table, rows, places, level)
            if every:
                values[:, list(table.channels)] *= texels
            else:
                values[textured[:, None], list(table.channels)] *= texels
        return values


def _packed(
    materials: Sequence[Material], slots: dict[str, tuple[int, ...]], device: torch.device
) -> tuple[TextureTable, ...]:
    used = {name: rows for name, rows in slots.items() if any(getattr(m, name) for m in materials)}
    return pack_textures(materials, used, device)


def _emission(materials: Sequence[Material], device: torch.device) -> Tensor | None:
    """Linear emission factors [M, 3] float32; None if no material emits or has an occlusion map."""
    factors = torch.tensor([m.emissive_factor for m in materials], dtype=torch.float32, device=device)
    occluded = any(m.occlusion_texture is not None for m in materials)
    return to_linear(factors) if occluded or bool((factors > 0).any()) else None
