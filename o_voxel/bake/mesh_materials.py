"""Materials of a textured mesh at points near its surface: textures, factors, vertex colours and shading normals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.color import to_linear, to_srgb
from ..core.vectors import dot, length
from ..material import Material, TexturedMesh
from ..mesh.connectivity.topology import area_vectors, check_mesh
from ..render.surface_materials import SurfaceMaterials
from ..values import Mesh
from .snap import DenseSurface, Snapped

# Reach beyond the first one, in multiples of it, for points without a surface of their orientation.
FARTHER = 4.0
ANYWHERE = 1e30
# Least cosine between normals in a search that takes a surface from either side.
EITHER_SIDE = 0.2
# Samples evaluated at a time: about 0.3 GiB of temporary memory.
SAMPLES_A_PASS = 1 << 20


class MaterialSamples(NamedTuple):
    """field: [P, 6] float32 PBR_CHANNELS.  emission: [P, 3] float32, sRGB, in units of the source's strength.
    occlusion: [P, 1] float32, 1 unoccluded.  normals: [P, 3] float32, unit, or None if the source has none.
    """

    field: Tensor
    emission: Tensor
    occlusion: Tensor
    normals: Tensor | None


@dataclass(frozen=True, eq=False)
class MeshMaterials:
    """A textured mesh to take materials from. unit: [F] float32, world units per unit of UV; inf without UVs.

    strength: largest emission of its materials, linear, at least 1; 0 if none emits.
    """

    surface: DenseSurface
    values: SurfaceMaterials
    unit: Tensor
    strength: float
    source: TexturedMesh

    @classmethod
    def of(cls, source: TexturedMesh, *, normals: bool) -> MeshMaterials:
        """Indexes `source`, vertices [V, 3], faces [F, 3]. normals: its shading normals and normal maps are needed.

        Raises ValueError for non-finite positions or face indices out of range.
        """
        surface = DenseSurface.of(source.mesh, True)
        kept = source
        if not normals:
            bare = tuple(replace(material, normal_texture=None) for material in source.materials)
            kept = replace(source, materials=bare, normals=None)
        used = [source.materials[row] for row in used_materials(source)]
        emitted = max(max(material.emissive_factor) for material in used)
        strength = float(to_linear(torch.tensor(emitted, dtype=torch.float64)))
        return cls(
            surface, SurfaceMaterials.of(kept), source_units(source), max(strength, 1.0) if strength else 0.0, source
        )

    def find(
        self, points: Tensor, facing: Tensor, reach: float, min_cosine: float, *, backend: str = "auto"
    ) -> Snapped:
        """Closest surface points to `points` [P, 3], for every point, whose orientation agrees with `facing` [P, 3].

        Within `reach` (world units) a face must have a cosine of at least `min_cosine` with the unit normals `facing`;
        where there is none, either side of a face will do, then one FARTHER times as far, then any. Normals of the
        result are on the side of `facing`. Deterministic.
        """
        snapped = self.surface.snap(points, facing, reach, min_cosine, backend=backend)
        either = replace(self.surface, normals=None)
        for distance, cosine in ((reach, EITHER_SIDE), (FARTHER * reach, EITHER_SIDE), (ANYWHERE, -1.0)):
            missed = (~snapped.found).nonzero().squeeze(1)
            if len(missed) == 0:
                break
            # Retries ahead of the point are for thin parts; they make no sense at any distance.
            search = either.snap if distance < ANYWHERE else either.closest
            retry = search(points[missed], facing[missed], distance, cosine, backend=backend)
            snapped = snapped.updated(missed, retry)
        return snapped

    def sample(self, found: Snapped, facing: Tensor, size: Tensor) -> MaterialSamples:
        """Evaluates the materials at points from `find`. facing: [P, 3] as there.  size: [P] float32, sides in world
        units of the areas that the samples stand for; textures are filtered to them.
        """
        parts = [self._sample(*part) for part in zip(*(_passes(v) for v in (*found, facing, size)), strict=True)]
        columns = list(zip(*parts, strict=True))
        normals = None if columns[3][0] is None else torch.cat(columns[3])
        first, second, third = (torch.cat(column) for column in columns[:3])
        return MaterialSamples(first, second, third, normals)

    def _sample(self, *parts: Tensor) -> MaterialSamples:
        flat, face, bary, facing, size = parts[2], parts[4].clamp_min(0), parts[5].T.contiguous(), *parts[-2:]
        footprint = size / self.unit[face]
        field = self.values.read(face, bary, footprint).T.clamp(0, 1)
        light = self.values.light(face, bary, footprint)
        if light is None:
            emission, occlusion = torch.zeros_like(facing), torch.ones_like(facing[:, :1])
        else:
            emission, occlusion = to_srgb(light[0].T / max(self.strength, 1.0)), light[1][:, None].clamp(0, 1)
        # Seen from behind, a face is lit on that side.
        flat = torch.where(dot(flat, facing)[:, None] < 0, -flat, flat)
        normals = self.values.normal(face, bary, flat.T, footprint)
        return MaterialSamples(field, emission, occlusion, None if normals is None else normals.T)

    def normal_is_mapped(self) -> bool:
        """Whether the source has shading normals or a normal map of its own."""
        return self.values.normals is not None


def check_textured(source: TexturedMesh, name: str) -> None:
    """Raises ValueError if rows of `source` (vertices [V, 3], faces [F, 3]) are out of range, or values not finite."""
    check_mesh(source.mesh)
    ids, uv = source.material_ids, source.uv
    if ids is not None and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(source.materials):
        raise ValueError(f"{name}.material_ids: expected 0 to {len(source.materials) - 1}, got some outside")
    if uv is not None:
        rows = source.uv_rows
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(uv):
            raise ValueError(f"{name}.uv_faces: expected rows of {len(uv)} coordinates, got some outside")
    for part in ("uv", "vertex_colors"):
        values = getattr(source, part)
        if values is not None and not bool(values.isfinite().all()):
            raise ValueError(f"{name}.{part}: expected finite numbers, got NaN or infinity")


def used_materials(mesh: TexturedMesh) -> list[int]:
    """Returns the rows of the materials that faces of `mesh` use, ascending."""
    if mesh.material_ids is None or len(mesh.material_ids) == 0:
        return [0]
    return mesh.material_ids.unique().tolist()


def texel_sizes(mesh: Mesh, uv: Tensor, uv_faces: Tensor, resolution: int) -> Tensor:
    """Returns the sides [F] float32 in world units of the texels of an atlas on the faces [F, 3] of `mesh`.

    uv: [U, 2], uv_faces: [F, 3].  resolution: texels per side.
    """
    return uv_units(mesh, uv, uv_faces) / resolution


def uv_units(mesh: Mesh, uv: Tensor, uv_faces: Tensor) -> Tensor:
    """Returns world units per unit of UV [F] float32 on faces [F, 3]; 1e30 on faces without UV area.

    uv: [U, 2], uv_faces: [F, 3].
    """
    areas = length(area_vectors(mesh.vertices, mesh.faces.long()))
    corners = uv.to(areas.dtype)[uv_faces.long()]
    (ax, ay), (bx, by) = (corners[:, 1] - corners[:, 0]).unbind(1), (corners[:, 2] - corners[:, 0]).unbind(1)
    flat = (ax * by - ay * bx).abs() / 2
    ratio = (areas / flat.clamp_min(1e-300)).sqrt()
    return torch.where((flat > 0) & (areas > 0), ratio, ANYWHERE).clamp(1e-30, ANYWHERE).float()


def source_units(source: TexturedMesh) -> Tensor:
    """Returns `uv_units` [F] of a textured mesh; inf for all its faces without texture coordinates."""
    if source.uv is None:
        return source.mesh.vertices.new_full((len(source.mesh.faces),), torch.inf)
    return uv_units(source.mesh, source.uv, source.uv_rows)


def _passes(values: Tensor) -> tuple[Tensor, ...]:
    return values.split(SAMPLES_A_PASS)


def alpha_mode_of(source: TexturedMesh, lowest: int) -> str:
    """Returns the alpha mode for a bake of `source` whose least alpha is `lowest`, 0 to 255: its own where it matters.

    "OPAQUE" if no texel is seen through, "BLEND" if a material in use blends, otherwise "MASK".
    """
    modes = {source.materials[row].alpha_mode for row in used_materials(source)}
    if lowest == 255 or modes == {"OPAQUE"}:
        return "OPAQUE"
    return "BLEND" if "BLEND" in modes else "MASK"


def as_factors(material: Material) -> Material:
    """Returns `material` with metallic and roughness textures of one value ([H, W, 1] uint8) replaced by a factor."""
    changes: dict[str, object] = {}
    for name in ("metallic", "roughness"):
        texture = getattr(material, f"{name}_texture")
        if texture is not None and bool((texture.image == texture.image[0, 0]).all()):
            changes |= {f"{name}_texture": None, f"{name}_factor": int(texture.image[0, 0, 0]) / 255}
    return replace(material, **changes)
