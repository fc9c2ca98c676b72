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
from .core.compiling.background import BACKGROUND
from .core.progress import Progress, StageProgress, scaled, staged
from .files.meshes import png
from .material import AlphaMode, Material, TexturedMesh
from .mesh.connectivity.components import keep_within, remove_small_components
from .mesh.connectivity.row_map import select_faces
from .mesh.connectivity.weld import has_border
from .mesh.normals import smooth_by_angle
from .mesh.remesh.outer_shell import outer_shell
from .mesh.remesh.remesh import remesh
from .mesh.remesh.solid import longest_side, solid
from .mesh.repair.choose import GAP, choose_surface, shell_resolution
from .mesh.repair.clean import CleanOptions, clean
from .mesh.repair.hidden import hidden_faces
from .mesh.simplify import simplify
from .mesh.uv.unwrap import unwrap
from .ops import pack_charts
from .values import Mesh, VoxelField
from .voxels.sample import colored, vertex_materials

log = logging.getLogger(__name__)

# Faces of what casts occlusion, per face of the result: its 128 depth maps are most of the bake's time.
OCCLUDER = 4
STAGES = ("clean", "surface", "simplify", "unwrap", "bake")
Surface = Literal["cleaned", "remeshed", "outer shell", "auto", "hidden removed"]
# Parts of a chosen shell with less of the area are crumbs of the surface that it wraps.
CRUMB_SHARE = 1e-3


@dataclass(frozen=True, kw_only=True)
class AssetOptions:
    """Options of `make_asset`.

    faces: target triangle count. If simplification cannot reach it because of many components, the smallest components
    are removed; a single component that cannot be simplified further keeps its faces.
    texture_size: texels per side; 0 writes vertex colours and no textures.
    surface: "cleaned" keeps the surface including its interior; "hidden removed" drops the faces that are not seen from
    outside; "remeshed" wraps both sides of every sheet, closed; "outer shell" keeps the surface visible from outside as
    one watertight solid; "auto" chooses one of them, see `choose_surface`.
    surface_resolution: voxels along the longest side, for "remeshed" and "outer shell"; of "auto" the most, it takes
    what the triangles need.
    min_wall_mm, size_mm: walls of an outer shell have at least min_wall_mm where its longest side is size_mm,
    millimetres; 0: as they are.  bodies: how many bodies of an outer shell are kept, the largest; None: all.
    gutter: minimum distance between charts, texels.  crease_deg: dihedral angle above which an edge is sharp, degrees.
    normal_map, occlusion: also bake these maps.  supersample: samples per texel along each axis.
    occlusion_rays, occlusion_reach, alpha_mode: see `BakeOptions`.
    """

    faces: int
    texture_size: int
    surface: Surface = "auto"
    surface_resolution: int = 512
    min_wall_mm: float = 0.0
    size_mm: float = 100.0
    bodies: int | None = None
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
        if not (self.min_wall_mm >= 0 and self.size_mm > 0):
            raise ValueError(f"walls: expected 0 mm or more of above 0 mm, got {self.min_wall_mm} of {self.size_mm}")
        if self.bodies is not None and self.bodies < 1:
            raise ValueError(f"bodies: expected 1 or more, or None for all, got {self.bodies}")
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
    "3D print": AssetOptions(faces=500_000, texture_size=0, surface="outer shell", min_wall_mm=0.8, bodies=1),
}


@torch.no_grad()
def make_asset(
    mesh: Mesh,
    voxels: VoxelField | TexturedMesh | None,
    options: AssetOptions = PRESETS["game high"],
    *,
    progress: StageProgress | None = None,
    on_warning: Callable[[str], None] | None = None,
    on_choice: Callable[[str], None] | None = None,
) -> TexturedMesh:
    """Cleans, simplifies, unwraps and bakes a decoded surface; the result is on the mesh's device, in its frame.

    mesh: decoder output, vertices [V, 3] float32, faces [F, 3] int32 or int64.
    voxels: PBR materials, attrs [N, 6] float; or a textured mesh of the same shape, whose materials are transferred;
    without either, or with texture_size 0, no textures are baked.
    progress(stage, fraction): called during each of STAGES.
    on_warning: called with one line per deviation from `options`: components removed, walls thickened, or more faces
    than the target. The same lines are logged as warnings.
    on_choice: called with one line that says what "auto" chose and why, and logged as information.
    Does not modify its inputs. Deterministic on one device. Raises ValueError if cleaning leaves no face, and the
    errors of the stages.
    """
    if voxels is not None and options.texture_size and mesh.faces.is_cuda:
        # Both run on the CPU. On a machine's first asset numba compiles them while Triton compiles what comes before.
        BACKGROUND.start([pack_charts.compile_kernels, png.compile_kernels])
    dense, _ = clean(mesh, options.clean, progress=staged(progress, "clean"))
    if len(dense.faces) == 0:
        raise ValueError("mesh: expected a surface, got none: all faces are degenerate, or the mesh has none")
    warn = on_warning or (lambda line: None)
    made = _surface(mesh, dense, options, staged(progress, "surface"), (warn, on_choice or (lambda line: None)))
    light, occluder = _simplified(made.mesh, options.faces, staged(progress, "simplify"))
    light = _within(light, options.faces, warn)
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
    return bake(shaded, uv_map, made.detail, voxels, replace(maps, occluder=occluder), normals=normals, progress=bars)


def _simplified(mesh: Mesh, faces: int, progress: Progress) -> tuple[Mesh, Mesh]:
    """Returns the mesh of at most `faces` triangles and what casts its occlusion, which needs less than every face."""
    occluder = simplify(mesh, OCCLUDER * faces, progress=scaled(progress, 0.0, 0.8))
    return simplify(occluder, faces, progress=scaled(progress, 0.8, 0.2)), occluder


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


@dataclass(frozen=True, eq=False)
class _Surface:
    """mesh: what is simplified.  detail: what is baked from."""

    mesh: Mesh
    detail: Mesh


def _surface(
    raw: Mesh, dense: Mesh, options: AssetOptions, progress: Progress, tell: tuple[Callable, Callable]
) -> _Surface:
    """Makes the surface of the options from a mesh before and after cleaning. tell: on_warning, on_choice."""
    on_warning, on_choice = tell
    surface, resolution, hidden, choosing = options.surface, options.surface_resolution, None, 0.0
    if surface == "auto":
        choosing = 0.5
        chosen = choose_surface(raw, dense, progress=scaled(progress, 0.0, choosing))
        surface, hidden, resolution = chosen.surface, chosen.hidden, shell_resolution(options.faces, resolution)
        log.info(chosen.why)
        on_choice(chosen.why)
    rest = scaled(progress, choosing, 1 - choosing)
    if surface == "cleaned":
        return _Surface(dense, dense)
    if surface == "hidden removed":
        hidden = hidden_faces(dense, progress=rest) if hidden is None else hidden
        seen = select_faces(dense, ~hidden)[0]
        return _Surface(seen, seen)
    if surface == "remeshed":
        return _Surface(remesh(dense, resolution, progress=rest), dense)
    if options.surface == "auto":
        made = outer_shell(dense, resolution, close_gaps=GAP * resolution, progress=rest)
        made = remove_small_components(made, CRUMB_SHARE)[0]
    else:
        wall = options.min_wall_mm / options.size_mm * longest_side(dense)
        made, report = solid(dense, resolution, min_wall=wall, bodies=options.bodies, progress=rest)
        for line in report.lines(f"{options.min_wall_mm:g} mm"):
            log.warning(line)
            on_warning(line)
    return _Surface(made, dense)


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
