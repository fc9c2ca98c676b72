"""From a raw surface and its voxels to an asset that is ready to use: the library's mesh work, told in one function."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch

from .bake.bake import bake
from .bake.options import BakeOptions
from .core.progress import Progress, StageProgress, staged
from .material import Material, TexturedMesh
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
    """What `make_asset` makes.

    faces: at most so many triangles; where no collapse gets there, because the parts are so many, the smallest parts
    are left out (one part that is too intricate stays as it is).
    texture_size: texels a side; 0 gives colours at the vertices and no textures.
    surface: "cleaned" keeps the surface with what lies inside; "remeshed" wraps both sides of every sheet, closed;
    "outer shell" keeps what is seen from outside as one watertight solid.
    surface_resolution: voxels along the longest side of those two.
    gutter: texels between charts, at least.  crease_deg: edges that bend more are sharp.
    normal_map, occlusion: bake them too.  supersample: samples a texel, along each side.
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
    clean: CleanOptions = field(default_factory=CleanOptions)

    def __post_init__(self) -> None:
        if self.faces < 1:
            raise ValueError(f"faces: expected at least 1, got {self.faces}")
        if self.texture_size < 0:
            raise ValueError(f"texture_size: expected 0 (no textures) or more, got {self.texture_size}")
        if self.surface not in get_args(Surface):
            raise ValueError(f"surface: expected one of {get_args(Surface)}, got {self.surface!r}")


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
    voxels: VoxelField | None,
    options: AssetOptions = PRESETS["game high"],
    *,
    progress: StageProgress | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> TexturedMesh:
    """A decoded surface, cleaned, simplified, unwrapped and baked; on the mesh's device, in its frame.

    mesh: as the decoder gives it.  voxels: its materials; None, or a texture size of 0, gives no textures.
    progress(stage, fraction): as each of STAGES goes on.
    on_warning: called with one line for each way in which the asset falls short of `options`: parts left out, or more
    faces than wanted. The same lines are logged as warnings.
    Neither input is written to. The same bytes each time on one device. Raises ValueError for a mesh without a face
    left, and what the functions that it calls raise.
    """
    dense, _ = clean(mesh, options.clean, progress=staged(progress, "clean"))
    if len(dense.faces) == 0:
        raise ValueError("mesh: expected a surface, got none; its faces are degenerate, or there are none")
    light = _surface(dense, options, staged(progress, "surface"))
    light = simplify(light, options.faces, progress=staged(progress, "simplify"))
    light = _within(light, options.faces, on_warning or (lambda line: None))
    if voxels is None or options.texture_size == 0:
        return _colored(light, voxels, options)
    uv_map = unwrap(
        light,
        resolution=options.texture_size,
        gutter=options.gutter,
        progress=staged(progress, "unwrap"),
    )
    shaded, normals, _ = smooth_by_angle(light, options.crease_deg)
    maps = BakeOptions(
        resolution=options.texture_size,
        supersample=options.supersample,
        normal_map=options.normal_map,
        occlusion=options.occlusion,
    )
    bars = staged(progress, "bake")
    return bake(shaded, uv_map, dense, voxels, maps, normals=normals, progress=bars)


def _within(mesh: Mesh, faces: int, on_warning: Callable[[str], None]) -> Mesh:
    """`mesh` without its smallest parts where it has more than `faces` faces; what that costs is warned of."""
    if len(mesh.faces) <= faces:
        return mesh
    kept, _, left_out = keep_within(mesh, faces)
    lines = []
    if left_out.parts:
        lines.append(f"{left_out} left out to stay within {faces:,} triangles")
    if len(kept.faces) > faces:
        lines.append(f"{len(kept.faces):,} triangles where {faces:,} were wanted: the largest part goes no lower")
    for line in lines:
        log.warning(line)
        on_warning(line)
    return kept


def _surface(dense: Mesh, options: AssetOptions, progress: Progress) -> Mesh:
    if options.surface == "cleaned":
        return dense
    work = remesh if options.surface == "remeshed" else outer_shell
    return work(dense, options.surface_resolution, progress=progress)


def _colored(mesh: Mesh, voxels: VoxelField | None, options: AssetOptions) -> TexturedMesh:
    """Without textures: base colour at the vertices, the means of metallic and roughness as factors."""
    shaded, normals, _ = smooth_by_angle(mesh, options.crease_deg)
    if voxels is None:
        return TexturedMesh(shaded, (Material(metallic_factor=0.0),), normals=normals)
    found = colored(shaded, vertex_materials(shaded, voxels))
    material = replace(found.materials[0], double_sided=has_border(shaded))  # cleaning has wound it alike
    return replace(found, materials=(material,), normals=normals)
