"""Evaluates the materials of a textured mesh at points on its faces."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..material import TexturedMesh
from ..ops.texture_sample import PBR_SLOTS, TextureTable, pack_textures, texture_sample


@dataclass(frozen=True, eq=False)
class SurfaceMaterials:
    """F faces, M materials. Textures are sampled at full size: render samples are about as fine as texels.

    material: [F] int64.  factors: [M, 6] float32 PBR_CHANNELS.  translucent: [F] bool, alpha mode BLEND.
    cutoff: [M] float32, alpha is 0 below it, else 1; -1 keeps alpha (BLEND), 0 makes it 1 (OPAQUE).
    uv: [F, 3, 2] or None.  colors: [F, 3, 4] or None.  tables: packed textures.
    """

    material: Tensor
    factors: Tensor
    translucent: Tensor
    cutoff: Tensor
    uv: Tensor | None
    colors: Tensor | None
    tables: tuple[TextureTable, ...]

    @classmethod
    def of(cls, mesh: TexturedMesh) -> SurfaceMaterials:
        """Packs the materials of a mesh with valid face indices, faces [F, 3], on its device."""
        faces, device = mesh.mesh.faces.long(), mesh.mesh.vertices.device
        materials = mesh.materials
        ids = torch.zeros(len(faces), dtype=torch.int64, device=device)
        ids = ids if mesh.material_ids is None else mesh.material_ids.long()
        factors = [(*m.base_color_factor, m.metallic_factor, m.roughness_factor, m.alpha_factor) for m in materials]
        cutoff = [{"OPAQUE": 0.0, "BLEND": -1.0, "MASK": m.alpha_cutoff}[m.alpha_mode] for m in materials]
        slots = {name: rows for name, rows in PBR_SLOTS.items() if any(getattr(m, name) for m in materials)}
        uv_faces = faces if mesh.uv_faces is None else mesh.uv_faces.long()
        return cls(
            material=ids,
            factors=torch.tensor(factors, dtype=torch.float32, device=device),
            translucent=torch.tensor([m.alpha_mode == "BLEND" for m in materials], device=device)[ids],
            cutoff=torch.tensor(cutoff, dtype=torch.float32, device=device),
            uv=None if mesh.uv is None else mesh.uv[uv_faces],
            colors=None if mesh.vertex_colors is None else mesh.vertex_colors[faces],
            tables=pack_textures(materials, slots, device),
        )

    def read(self, face: Tensor, bary: Tensor) -> Tensor:
        """Evaluates PBR_CHANNELS [6, P] float32 at `bary` [3, P] in `face` [P]."""
        material, weight = self.material.index_select(0, face), bary.T[..., None]
        values = self.factors.index_select(0, material)
        if self.tables:
            uv, full = (self.uv.index_select(0, face) * weight).sum(1), values.new_zeros(len(face))
            for table in self.tables:
                textured = (table.last_level.index_select(0, material) >= 0).nonzero().flatten()
                texels = texture_sample(table, material[textured], uv[textured], full[textured])
                values[textured[:, None], list(table.channels)] *= texels
        if self.colors is not None:
            tint = (self.colors.index_select(0, face) * weight).sum(1).clamp(0, 1)
            values[:, [0, 1, 2, 5]] *= tint
        cutoff = self.cutoff.index_select(0, material)
        values[:, 5] = torch.where(cutoff < 0, values[:, 5], (values[:, 5] >= cutoff).to(values))
        return values.T
