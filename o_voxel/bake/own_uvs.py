"""Materials of voxels baked onto the texture coordinates that a mesh brings along, a set of textures for each material.

Nothing of the mesh moves: a point of its surface is looked up in the voxels, as far as these were made from this very
surface, without a search for a surface nearby.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.progress import Progress, in_background, scaled
from ..core.vectors import length
from ..material import Material, TexturedMesh, UVMap
from ..mesh.connectivity.row_map import select_faces
from ..mesh.connectivity.topology import area_vectors
from ..mesh.uv.check import signed_areas
from ..mesh.uv.unwrap import unwrap
from ..names import material_label
from ..ops.hash_grid import hash_grid
from ..values import Mesh, VoxelField
from .atlas import Atlas
from .bake import SAMPLES_A_SECOND
from .mesh_materials import as_factors, check_textured, used_materials
from .options import BakeOptions
from .sources import Channels, FieldMaterials
from .texels import UV_SLACK, Samples, band_samples, band_starts, lone_samples, unit_square

# Least side of a texture in texels, for materials with a small share of the surface.
LEAST_SIDE = 256
# Share of the UV area that may be hidden behind other faces before it is worth a word.
SHARED = 0.02
# Texels a side on which it is measured.
MEASURE_SIDE = 1024
UNWRAP_SHARE = 0.3

Warn = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _Layout:
    """The faces of one material on the unit square. uv_map: a face for each tile that a face touches, moved to the unit
    square.  face: [T] int64, its face in the mesh.  area: share of the unit square of all faces, overlaps counted.
    wraps: texture coordinates leave the unit square.  made: they come from an unwrap.  hidden: see `_hidden`; None: not
    measured yet.
    """

    uv_map: UVMap
    face: Tensor
    area: float
    wraps: bool
    made: bool
    hidden: float | None = None


@torch.no_grad()
def bake_own_uvs(
    mesh: TexturedMesh,
    field: VoxelField,
    options: BakeOptions = BakeOptions(),
    *,
    placed: Mesh | None = None,
    gutter: int = 2,
    unwrap_shared: bool = False,
    on_warning: Warn | None = None,
    progress: Progress | None = None,
) -> TexturedMesh:
    """Bakes `field` into new textures of `mesh`, on its own texture coordinates, and leaves its geometry as it is.

    mesh: vertices [V, 3], faces [F, 3]; any number of materials.  field: attrs [N, 6] PBR_CHANNELS in [0, 1], on voxels
    of its surface.  placed: the mesh in the field's world, as from `fitted`; None: it lies there already.
    options: resolution, of the material with most surface; others get a half, a quarter … of the side by their share,
    256 at least. supersample and alpha_mode as in `bake`; the others are not used.
    gutter: free texels between charts of a material that is unwrapped: one without texture coordinates and, with
    unwrap_shared, one whose faces share texels.
    on_warning: called with one line for each thing that the texture coordinates do not allow.
    progress: called with the fraction done, 0 to 1; may raise, to cancel.

    Vertices, faces, normals, material ids, parts and texture coordinates are those of `mesh`, the same tensors; an
    unwrapped material's are appended. Names stay. A material's base colour, metallic, roughness, alpha and their
    factors are replaced, and its emission and the vertex colours, which the new look does not know, are removed. Its
    normal and occlusion maps stay, unless it is unwrapped. Coordinates outside [0, 1] repeat: they are baked into the
    texel that they show. Where faces share texels, as mirrored halves do, the first one is baked.
    Deterministic. Raises ValueError for a mesh without faces, rows out of range, or values not finite.
    """
    check_textured(mesh, "mesh")
    surface = mesh.mesh if placed is None else placed
    if len(mesh.mesh.faces) == 0:
        raise ValueError("mesh: expected at least one face, got none")
    if surface.vertices.shape != mesh.mesh.vertices.shape:
        raise ValueError(f"placed: expected the mesh's {len(mesh.mesh.vertices)} vertices, got {len(surface.vertices)}")
    warn = on_warning or (lambda line: None)
    return in_background(
        lambda report: _baked(mesh, surface, (field, options, (gutter, unwrap_shared)), warn, report),
        progress,
        2 + len(used_materials(mesh)) * (options.resolution * options.supersample) ** 2 / SAMPLES_A_SECOND,
    )


def _baked(
    mesh: TexturedMesh,
    surface: Mesh,
    work: tuple[VoxelField, BakeOptions, tuple[int, bool]],
    warn: Warn,
    report: Progress,
) -> TexturedMesh:
    """`bake_own_uvs` after its checks. surface: the mesh in the field's world.  work: field, options, gutter and
    unwrap_shared."""
    field, options, unwrapping = work
    rows = used_materials(mesh)
    areas = length(area_vectors(surface.vertices, surface.faces.long()))
    ids = mesh.material_rows
    shares = torch.stack([areas[ids == row].sum() for row in rows])
    sides = [_side(options.resolution, float(share / shares.max().clamp_min(1e-30))) for share in shares]
    bar = scaled(report, 0, UNWRAP_SHARE)
    for row in _without_area(mesh, rows) if mesh.uv is not None else ():
        name = material_label(row, mesh.materials[row].name)
        warn(f"{name}: its texture coordinates have no area, as those of a palette of colours: it is unwrapped")
    mesh, made, hidden = _with_uvs(mesh, surface, dict(zip(rows, sides, strict=True)), unwrapping, bar)
    source, materials = FieldMaterials(field, hash_grid(field.coords)), list(mesh.materials)
    for number, (row, side) in enumerate(zip(rows, sides, strict=True)):
        layout = replace(_layout(mesh, (ids == row).nonzero().squeeze(1), row in made), hidden=hidden.get(row))
        done = UNWRAP_SHARE + (1 - UNWRAP_SHARE) * number / len(rows)
        bar = scaled(report, done, (1 - UNWRAP_SHARE) / len(rows))
        chosen = replace(options, resolution=side)
        words = material_label(row, mesh.materials[row].name), warn
        materials[row] = _material(mesh.materials[row], surface, layout, source, chosen, words, bar)
    report(1.0)
    return replace(mesh, materials=tuple(materials), vertex_colors=None)


def _side(resolution: int, share: float) -> int:
    """Texels a side for `share` of the largest material's surface: as dense, in halves of the resolution."""
    side = resolution
    while side // 2 >= LEAST_SIDE and share < (side / 2 / resolution) ** 2:
        side //= 2
    return side


def _with_uvs(
    mesh: TexturedMesh, surface: Mesh, sides: dict[int, int], unwrapping: tuple[int, bool], report: Progress
) -> tuple[TexturedMesh, set[int], dict[int, float]]:
    """(mesh with UVs for all its materials, rows of those that were unwrapped, hidden shares that were measured).

    sides: by row, texels of a texture.  unwrapping: gutter and unwrap_shared.
    """
    gutter, shared = unwrapping
    ids, made = mesh.material_rows, set(sides) if mesh.uv is None else _without_area(mesh, sides)
    hidden: dict[int, float] = {}
    if mesh.uv is not None and shared:
        for row in set(sides) - made:
            hidden[row] = _hidden(_layout(mesh, (ids == row).nonzero().squeeze(1), False))
        made |= {row for row, share in hidden.items() if share > SHARED}
    uv = surface.vertices.new_zeros(0, 2) if mesh.uv is None else mesh.uv
    faces = mesh.uv_rows.clone() if made else mesh.uv_faces
    for number, row in enumerate(sorted(made)):
        part, found = select_faces(surface, ids == row)
        bar = scaled(report, number / len(made), 1 / len(made))
        charts = unwrap(part, resolution=sides[row], gutter=gutter, progress=bar)
        faces[found.faces] = (charts.faces + len(uv)).to(faces.dtype)
        u, v = charts.uv.unbind(1)
        # Files turn v by 1 - v: rounded like this, it comes back to the bit.
        uv = torch.cat([uv, torch.stack([u, 1 - (1 - v)], 1)])
    return (replace(mesh, uv=uv, uv_faces=faces) if made else mesh), made, hidden


def _without_area(mesh: TexturedMesh, rows: Iterable[int]) -> set[int]:
    """Those of the materials `rows` whose faces have no area in UV space."""
    flat, ids = signed_areas(mesh.uv.double()[mesh.uv_rows.long()]) == 0, mesh.material_rows
    return {row for row in rows if bool(flat[ids == row].all())}


def _layout(mesh: TexturedMesh, rows: Tensor, made: bool) -> _Layout:
    """The faces `rows` [R] int64 of one material on the unit square."""
    corners = mesh.uv.double()[mesh.uv_rows[rows].long()]
    inside = bool(((corners >= -UV_SLACK) & (corners <= 1 + UV_SLACK)).all())
    uv_map, face = unit_square(mesh, rows)
    return _Layout(uv_map, face, float(signed_areas(corners).abs().sum()), not inside, made)


def _hidden(layout: _Layout) -> float:
    """Share of the UV area that lies behind other faces, to about a percent."""
    taken = sum(
        len(band_samples(layout.uv_map, MEASURE_SIDE, 1, start, backend="auto").face)
        for start in band_starts(MEASURE_SIDE, 1, layout.face.device)
    )
    return 1 - taken / MEASURE_SIDE**2 / max(layout.area, 1e-30)


def _material(
    old: Material,
    surface: Mesh,
    layout: _Layout,
    source: FieldMaterials,
    options: BakeOptions,
    words: tuple[str, Warn],
    report: Progress,
) -> Material:
    """The material of one layout. words: how warnings name it, and what takes them."""
    side, device, (name, warn) = options.resolution, surface.vertices.device, words
    atlas, corners = Atlas.empty(side, {"field"}, device), surface.vertices[surface.faces[layout.face].long()]

    def write(samples: Samples) -> None:
        atlas.write(samples, Channels(field=source.sample(samples.at(corners), "auto")))

    seen = torch.zeros(len(layout.face), dtype=torch.bool, device=device)
    starts = band_starts(side, options.supersample, device)
    for start in starts:
        samples = band_samples(layout.uv_map, side, options.supersample, start, backend="auto")
        seen[samples.face] = True
        write(samples)
        report(0.95 * min(start + starts.step, side) / side)
    lone = lone_samples(layout.uv_map, side, seen, atlas.covered)
    if lone is not None:
        write(lone)
    if not bool(atlas.field.valid.any()):
        warn(f"{name}: it is left as it is: its faces have no area, or no voxel is near")
        return old
    hidden = 0.0 if layout.made else _hidden(layout) if layout.hidden is None else layout.hidden
    if hidden > SHARED:
        warn(
            f"{name}: {hidden:.0%} of its texture coordinates lie on others, as mirrored or repeated parts do; these "
            "parts share one picture. Unwrap anew for a picture of their own"
        )
    if old.emissive_texture is not None or max(old.emissive_factor) > 0:
        warn(f"{name}: its emission is removed: the model makes none")
    made = as_factors(atlas.material(options, None, "auto"))
    textures = {key: getattr(made, key) for key in _REPLACED}
    if layout.wraps:
        textures = {
            key: replace(value, wrap=("repeat", "repeat")) if key.endswith("texture") and value is not None else value
            for key, value in textures.items()
        }
    kept = replace(old, **textures, emissive_factor=(0.0, 0.0, 0.0), emissive_texture=None)
    return replace(kept, normal_texture=None, occlusion_texture=None) if layout.made else kept


# Of a material, what a bake replaces.
_REPLACED = (
    "base_color_factor",
    "base_color_texture",
    "metallic_factor",
    "metallic_texture",
    "roughness_factor",
    "roughness_texture",
    "alpha_mode",
    "alpha_factor",
    "alpha_texture",
)
