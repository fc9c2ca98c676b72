"""Nodes that unwrap and bake, and one that makes a finished asset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..o_voxel.asset import PRESETS, STAGES, AssetOptions, make_asset
from ..o_voxel.bake.options import MAX_RAYS
from ..o_voxel.core.progress import scaled
from ..o_voxel.material import TexturedMesh
from ..o_voxel.mesh.normals import smooth_by_angle
from ..o_voxel.mesh.uv.unwrap import unwrap
from ..o_voxel.values import Mesh, VoxelField
from . import host
from .sockets import (
    ANY_MESH,
    ASSET_OPTIONS,
    MESH,
    TEXTURED_MESH,
    VOXELS,
    AssetOverrides,
    expect,
    materials,
    painted,
    textured,
)
from .sockets import surface as surface_of
from .widgets import ASSET_GROUP, override

TEXTURE_SIZES = ["512", "1024", "2048", "4096", "8192"]
SUPERSAMPLES = ["1", "2", "4"]
ALPHA_MODES = ["auto", "OPAQUE", "MASK", "BLEND"]
FROM_PRESET = "from preset"
SWITCH = [FROM_PRESET, "on", "off"]
SAMPLES = "Samples along each side of a texel. 2 antialiases fine patterns and takes four times as long."
ALPHA = "auto: opaque unless a significant part of the surface has alpha below 1."
SIZE = "Texels a side. Time and file size grow with its square."
MIN_SIZE, MAX_SIZE = 64, 16_384
# A socket without a widget: a saved graph's values keep their places.
SIZE_OVERRIDE = (
    "INT",
    {
        "forceInput": True,
        "min": MIN_SIZE,
        "max": MAX_SIZE,
        "tooltip": f"Optional: a number from another node in place of texture_size, {MIN_SIZE} to {MAX_SIZE:,} texels "
        "a side. Time, memory and file size grow with its square.",
    },
)


def texture_side(size: str, replaced_by: int | None) -> int | None:
    """Returns texels a side of a texture_size widget and its override socket; None for the preset's own.

    Raises ValueError naming the socket for a number that is out of range, TypeError for another type.
    """
    if replaced_by is None:
        return None if size == FROM_PRESET else int(size)
    if isinstance(replaced_by, bool) or not isinstance(replaced_by, int):
        kind = type(replaced_by).__name__
        raise TypeError(f"texture_size_override: expected an INT, got {kind}; convert it, or disconnect the socket")
    if not MIN_SIZE <= replaced_by <= MAX_SIZE:
        raise ValueError(
            f"texture_size_override: expected {MIN_SIZE} to {MAX_SIZE} texels a side, got {replaced_by}; change the "
            "number, or disconnect the socket"
        )
    return replaced_by


class Unwrap:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = "Cuts a mesh into charts and packs them into one texture."
    FUNCTION = "unwrap"
    RETURN_TYPES = (TEXTURED_MESH,)
    RETURN_NAMES = ("textured_mesh",)
    OUTPUT_TOOLTIPS = ("The mesh with texture coordinates and shading normals, for Bake Textures.",)
    SEARCH_ALIASES = ("uv", "uv unwrap", "uv map", "smart uv", "parametrize", "charts", "seams", "texture coordinates")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        gutter = (
            "Minimum empty texels between charts at the texture size. More keeps seams clean at a distance (mipmaps)."
        )
        crease = "Edges with more degrees between their face normals are shaded sharp. 180: smooth everywhere."
        source = (
            "From Simplify Mesh. Time grows with its faces: 200,000 is comfortable. A textured mesh gives its shape: "
            "its old texture coordinates and textures are dropped."
        )
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": source}),
                "texture_size": (
                    TEXTURE_SIZES,
                    {"default": "2048", "tooltip": "Texture size, in texels a side, for which the gutter is measured."},
                ),
                "gutter": ("INT", {"default": 2, "min": 1, "max": 64, "tooltip": gutter, "advanced": True}),
                "crease_deg": (
                    "FLOAT",
                    {"default": 60.0, "min": 0.0, "max": 180.0, "step": 1.0, "tooltip": crease, "advanced": True},
                ),
            },
            "optional": {"texture_size_override": SIZE_OVERRIDE},
        }

    def unwrap(
        self,
        mesh: Mesh | TexturedMesh,
        texture_size: str,
        gutter: int,
        crease_deg: float,
        texture_size_override: int | None = None,
    ) -> tuple[TexturedMesh]:
        side, report = texture_side(texture_size, texture_size_override), host.progress()
        shape = host.at_work(surface_of(mesh))
        uv_map = unwrap(shape, resolution=side, gutter=gutter, progress=scaled(report, 0.0, 0.9))
        shaded, normals, _ = smooth_by_angle(shape, crease_deg, progress=scaled(report, 0.9, 0.1))
        plain = textured(shaded)  # without a bake it is saved as a plain mesh is
        return (host.at_rest(replace(plain, uv=uv_map.uv, uv_faces=uv_map.faces, normals=normals)),)


class GameReadyAsset:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = (
        "Makes a finished asset from a raw surface and voxels: cleaned, simplified, unwrapped, baked. Choose a preset."
    )
    FUNCTION = "make"
    RETURN_TYPES = (TEXTURED_MESH, MESH)
    RETURN_NAMES = ("textured_mesh", "mesh")
    OUTPUT_TOOLTIPS = (
        "The finished mesh, with textures if voxels are connected or the input has some.",
        "The same mesh without texture coordinates and textures.",
    )
    SEARCH_ALIASES = ("game ready", "game asset", "finish mesh", "3d print", "low poly", "unreal", "unity", "bake")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        presets = "; ".join(f"{name}: {_describe(name)}" for name in PRESETS)
        surface = (
            "auto: chooses by the surface's open edges, parts and hidden area, and says so on the node. cleaned: keeps "
            "the surface; hidden removed: without what nobody sees; remeshed: a closed surface around both sides of "
            "every sheet; outer shell: one watertight solid."
        )
        source = (
            "From Decode Mesh, unprocessed, or any other mesh. A textured one keeps its materials if no voxels are "
            "connected: they are baked from its surface."
        )
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": source}),
                "preset": (list(PRESETS), {"default": "game high", "tooltip": presets}),
                "faces": (
                    "INT",
                    {"default": 0, "min": 0, "max": 20_000_000, "step": 1000, "tooltip": "0: the preset's triangles."},
                ),
                "texture_size": (
                    [FROM_PRESET, *TEXTURE_SIZES],
                    {"default": FROM_PRESET, "tooltip": SIZE},
                ),
                "surface": (
                    [FROM_PRESET, "cleaned", "remeshed", "outer shell", "auto", "hidden removed"],
                    {"default": FROM_PRESET, "tooltip": surface},
                ),
            },
            "optional": {
                "voxels": (
                    VOXELS,
                    {"tooltip": "Materials from Decode Mesh. Without them: those of a textured mesh, if any."},
                ),
                "texture_size_override": SIZE_OVERRIDE,
                "options": (
                    ASSET_OPTIONS,
                    {"tooltip": "From Asset Options: maps, occlusion, gutter, creases and holes, not the preset's."},
                ),
            },
        }

    def make(
        self,
        mesh: Mesh | TexturedMesh,
        preset: str,
        faces: int,
        texture_size: str,
        surface: str,
        voxels: VoxelField | None = None,
        texture_size_override: int | None = None,
        options: AssetOverrides | None = None,
    ) -> tuple[TexturedMesh, Mesh] | dict[str, Any]:
        shape, chosen = surface_of(mesh), PRESETS[preset]
        if options is not None:
            chosen = configured(chosen, expect(options, ASSET_OPTIONS))
        if faces:
            chosen = replace(chosen, faces=faces)
        side = texture_side(texture_size, texture_size_override)
        if side is not None:
            chosen = replace(chosen, texture_size=side)
        if surface != FROM_PRESET:
            chosen = replace(chosen, surface=surface)
        field = None if voxels is None else host.at_work(materials(voxels, "voxels"))
        if field is None and painted(mesh):
            field = host.at_work(mesh)
        warnings: list[str] = []
        choices: list[str] = []
        if options is not None and (options.normal_map or options.occlusion) and not (field and chosen.texture_size):
            missing = (
                "voxels are not connected, and the mesh has no textures"
                if field is None
                else f"preset {preset} has no texture"
            )
            warnings.append(f"no normal map or occlusion, which options asks for: {missing}")
        asset = make_asset(
            host.at_work(shape),
            field,
            chosen,
            progress=host.staged_progress(STAGES),
            on_warning=warnings.append,
            on_choice=choices.append,
        )
        asset = host.at_rest(asset)
        result = asset, asset.mesh
        host.show_text([f"{len(asset.mesh.faces):,} triangles", *choices, *warnings])
        return {"ui": {"text": [*choices, *warnings]}, "result": result} if warnings else result


class AssetSettings:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = (
        "Chooses maps, ambient occlusion, gutter, creases and holes of Game-Ready Asset in place of its preset."
    )
    FUNCTION = "choose"
    RETURN_TYPES = (ASSET_OPTIONS,)
    RETURN_NAMES = ("options",)
    OUTPUT_TOOLTIPS = ("Choices for the options input of Game-Ready Asset.",)
    SEARCH_ALIASES = ("game ready", "asset options", "ambient occlusion", "gutter", "crease", "bake options")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        shared = PRESETS["preview"]  # all presets agree in what the tooltips quote
        normal = "A normal map of the detailed surface: one more image, little time. Keeps detail at few triangles."
        occlusion = (
            "Ambient occlusion, in the roughness image. The longest part of a bake without a GPU: see occlusion_rays."
        )
        rays = (
            "Directions that occlusion looks in, over the whole sphere. Fewer: faster, with visible steps. Time and "
            f"memory (4 MiB each) are proportional to them. 0: from preset, {shared.occlusion_rays} in all."
        )
        reach = (
            "Maximum distance of what shades a point, in world units; the object is about 1 long. Small: only cracks "
            "and corners are dark. 0: no limit. -1: from preset, no limit in all."
        )
        gutter = (
            "Minimum empty texels between charts. More keeps seams clean at a distance (mipmaps) and leaves less for "
            f"the surface. 0: from preset, {shared.gutter} in all."
        )
        crease = (
            "Edges with more degrees between their face normals are shaded sharp. 180: smooth everywhere. -1: from "
            f"preset, {shared.crease_deg:g} in all."
        )
        hole = (
            "Holes with a perimeter up to this are closed, in world units; the object is about 1 long. Large values "
            f"close openings too. 0: none. -1: from preset, {shared.clean.max_hole_perimeter:g} in all."
        )
        solid = (
            "Voxels along the longest side of a remeshed surface or outer shell. Detail below a voxel is lost; memory "
            "and time grow with its square. No effect on a cleaned surface; auto takes fewer if that is enough for the "
            "triangles. 0: from preset, "
            f"{shared.surface_resolution} in all."
        )
        return {
            "required": {
                "normal_map": (SWITCH, {"default": FROM_PRESET, "tooltip": normal}),
                "occlusion": (SWITCH, {"default": FROM_PRESET, "tooltip": occlusion}),
                "occlusion_rays": ("INT", {"default": 0, "min": 0, "max": MAX_RAYS, "tooltip": rays}),
                "occlusion_distance": (
                    "FLOAT",
                    {"default": -1.0, "min": -1.0, "max": 10.0, "step": 0.01, "round": False, "tooltip": reach},
                ),
                "supersample": ([FROM_PRESET, *SUPERSAMPLES], {"default": FROM_PRESET, "tooltip": SAMPLES}),
                "alpha_mode": ([FROM_PRESET, *ALPHA_MODES], {"default": FROM_PRESET, "tooltip": ALPHA}),
                "gutter": ("INT", {"default": 0, "min": 0, "max": 64, "tooltip": gutter}),
                "crease_deg": ("FLOAT", {"default": -1.0, "min": -1.0, "max": 180.0, "step": 1.0, "tooltip": crease}),
                "max_hole_perimeter": (
                    "FLOAT",
                    {"default": -1.0, "min": -1.0, "max": 10.0, "step": 0.001, "round": False, "tooltip": hole},
                ),
                "surface_resolution": ("INT", {"default": 0, "min": 0, "max": 1024, "step": 32, "tooltip": solid}),
            }
        }

    def choose(
        self,
        normal_map: str,
        occlusion: str,
        occlusion_rays: int,
        occlusion_distance: float,
        supersample: str,
        alpha_mode: str,
        gutter: int,
        crease_deg: float,
        max_hole_perimeter: float,
        surface_resolution: int,
    ) -> tuple[AssetOverrides]:
        switches = {FROM_PRESET: None, "on": True, "off": False}
        return (
            AssetOverrides(
                normal_map=switches[normal_map],
                occlusion=switches[occlusion],
                occlusion_rays=occlusion_rays or None,
                occlusion_reach=override(occlusion_distance),
                supersample=None if supersample == FROM_PRESET else int(supersample),
                alpha_mode=None if alpha_mode == FROM_PRESET else alpha_mode,
                gutter=gutter or None,
                crease_deg=override(crease_deg),
                max_hole_perimeter=override(max_hole_perimeter),
                surface_resolution=surface_resolution or None,
            ),
        )


def configured(preset: AssetOptions, chosen: AssetOverrides) -> AssetOptions:
    """Returns a preset with what the options node chose in place of its own. Raises ValueError, see `AssetOptions`."""
    changes = {name: value for name, value in vars(chosen).items() if value is not None}
    if "occlusion_reach" in changes:
        changes["occlusion_reach"] = changes["occlusion_reach"] or None
    if "max_hole_perimeter" in changes:
        changes["clean"] = replace(preset.clean, max_hole_perimeter=changes.pop("max_hole_perimeter"))
    return replace(preset, **changes)


def _describe(preset: str) -> str:
    """Summarises a preset for its tooltip."""
    options = PRESETS[preset]
    texture = f"{options.texture_size}² texture" if options.texture_size else "no texture"
    maps = [name for name, wanted in (("normals", options.normal_map), ("occlusion", options.occlusion)) if wanted]
    surface = "surface chosen" if options.surface == "auto" else options.surface
    return ", ".join([f"{options.faces:,} triangles", surface, texture, *maps])
