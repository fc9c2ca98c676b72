"""Mesh post-processing in one function: clean, remesh, simplify, unwrap and bake a decoded surface and its voxels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch

from .bake.bake import bake
from .bake.options import BakeOptions
from .bake.transfer import transfer_colors
from .core.progress import Progress, StageProgress, scaled, staged
from .material import AlphaMode, Material, TexturedMesh
from .mesh.connectivity.components import keep_within
from .mesh.connectivity.weld import has_border
from .mesh.normals import smooth_by_angle
from .mesh.remesh.outer_shell import outer_shell
from .mesh.remesh.remesh import remesh
from .mesh.repair.clean import CleanOptions, clean
from .mesh.simplify import simplify
from .mesh.uv.unwrap import unwrap
from .values import Mesh, VoxelField
from .voxels.sample import colored, vertex_materials

log = logging.getLogger(__name__)

STAGES = ("clean", "surface", "simplify", "unwrap", "bake")
Surface = Literal["cleaned", "remeshed", "outer shell"]


@dataclass(frozen=True, kw_only=True)
class AssetOptions:
    """Options of `make_asset`.

    faces: target triangle count. If simplification cannot reach it because of many components, the smallest components
    are removed; a single component that cannot be simplified further keeps its faces.
    texture_size: texels per side; 0 writes vertex colours and no textures.
    surface: "cleaned" keeps the surface including its interior; "remeshed" wraps both sides of every sheet, closed;
    "outer shell" keeps the surface visible from outside as one watertight solid.
    surface_resolution: voxels along the longest side, for "remeshed" and "outer shell".
    gutter: minimum distance between charts, texels.  crease_deg: dihedral angle above which an edge is sharp, degrees.
    normal_map, occlusion: also bake these maps.  supersample: samples per texel along each axis.
    occlusion_rays, occlusion_reach, alpha_mode: see `BakeOptions`.
    """

    faces: int
    texture_size: int
    surface: Surface = "cleaned"
    surface_resolution: int = 512
    gutter: int = 2
    crease_deg: float = 60.0
    normal_map: bool = False
    occlusion: bool = False
    supersample: int = 1
    occlusion_rays: int = 128
    occlusion_reach: float | None = None
    alpha_mode: AlphaMode | Literal["auto"] = "auto"
    clean: CleanOptions = field(default_factory=CleanOptions)

    def __post_init__(self) -> None:
        if self.faces < 1:
            raise ValueError(f"faces: expected at least 1, got {self.faces}")
        if self.texture_size < 0:
            raise ValueError(f"texture_size: expected 0 (no textures) or more, got {self.texture_size}")
        if self.surface not in get_args(Surface):
            raise ValueError(f"surface: expected one of {get_args(Surface)}, got {self.surface!r}")
        self.bake_options()  # refuses its values here, not after minutes of cleaning and unwrapping

    def bake_options(self) -> BakeOptions:
        """Returns the options of the bake. Raises ValueError, see `BakeOptions`."""
        return BakeOptions(
            resolution=max(self.texture_size, 1),
            supersample=self.supersample,
            normal_map=self.normal_map,
            occlusion=self.occlusion,
            occlusion_rays=self.occlusion_rays,
            occlusion_reach=self.occlusion_reach,
            alpha_mode=self.alpha_mode,
        )


PRESETS = {
    "preview": AssetOptions(faces=20_000, texture_size=1024),
    "game low": AssetOptions(faces=8_000, texture_size=1024, normal_map=True, occlusion=True, supersample=2),
    "game high": AssetOptions(faces=50_000, texture_size=2048, normal_map=True, occlusion=True),
    "film": AssetOptions(faces=1_000_000, texture_size=4096, normal_map=True, occlusion=True),
    "3D print": AssetOptions(faces=500_000, texture_size=0, surface="outer shell"),
}


@torch.no_grad()
def make_asset(
    mesh: Mesh,
    voxels: VoxelField | TexturedMesh | None,
    options: AssetOptions = PRESETS["game high"],
    *,
    progress: StageProgress | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> TexturedMesh:
    """Cleans, simplifies, unwraps and bakes a decoded surface; the result is on the mesh's device, in its frame.

    mesh: decoder output, vertices [V, 3] float32, faces [F, 3] int32 or int64.
    voxels: PBR materials, attrs [N, 6] float; or a textured mesh of the same shape, whose materials are transferred;
    without either, or with texture_size 0, no textures are baked.
    progress(stage, fraction): called during each of STAGES.
    on_warning: called with one line per deviation from `options`: components removed, or more faces than the target.
    The same lines are logged as warnings.
    Does not modify its inputs. Deterministic on one device. Raises ValueError if cleaning leaves no face, and the
    errors of the stages.
    """
    dense, _ = clean(mesh, options.clean, progress=staged(progress, "clean"))
    if len(dense.faces) == 0:
        raise ValueError("mesh: expected a surface, got none: all faces are degenerate, or the mesh has none")
    light = _surface(dense, options, staged(progress, "surface"))
    light = simplify(light, options.faces, progress=staged(progress, "simplify"))
    light = _within(light, options.faces, on_warning or (lambda line: None))
    if voxels is None or options.texture_size == 0:
        return _colored(light, voxels, options, staged(progress, "bake"))
    uv_map = unwrap(
        light,
        resolution=options.texture_size,
        gutter=options.gutter,
        progress=staged(progress, "unwrap"),
    )
    bars = staged(progress, "bake")
    shaded, normals, _ = smooth_by_angle(light, options.crease_deg, progress=scaled(bars, 0.0, 0.05))
    maps, bars = options.bake_options(), scaled(bars, 0.05, 0.95)
    return bake(shaded, uv_map, dense, voxels, maps, normals=normals, progress=bars)


def _within(mesh: Mesh, faces: int, on_warning: Callable[[str], None]) -> Mesh:
    """Removes the smallest components of a mesh with more than `faces` faces, with a warning."""
    if len(mesh.faces) <= faces:
        return mesh
    kept, _, left_out = keep_within(mesh, faces)
    lines = []
    if left_out.parts:
        lines.append(f"{left_out} left out to stay within {faces:,} triangles")
    if len(kept.faces) > faces:
        lines.append(f"{len(kept.faces):,} triangles where {faces:,} were wanted: the largest part is at its minimum")
    for line in lines:
        log.warning(line)
        on_warning(line)
    return kept


def _surface(dense: Mesh, options: AssetOptions, progress: Progress) -> Mesh:
    if options.surface == "cleaned":
        return dense
    work = remesh if options.surface == "remeshed" else outer_shell
    return work(dense, options.surface_resolution, progress=progress)


def _colored(
    mesh: Mesh, voxels: VoxelField | TexturedMesh | None, options: AssetOptions, progress: Progress
) -> TexturedMesh:
    """Returns the mesh with vertex colours, see `colored`."""
    shaded, normals, _ = smooth_by_angle(mesh, options.crease_deg, progress=scaled(progress, 0.0, 0.5))
    if voxels is None:
        return TexturedMesh(shaded, (Material(metallic_factor=0.0),), normals=normals)
    if isinstance(voxels, TexturedMesh):
        return transfer_colors(shaded, voxels, normals=normals, progress=scaled(progress, 0.5, 0.5))
    found = colored(shaded, vertex_materials(shaded, voxels, progress=scaled(progress, 0.5, 0.5)))
    material = replace(found.materials[0], double_sided=has_border(shaded))  # cleaning made the winding consistent
    return replace(found, materials=(material,), normals=normals)
