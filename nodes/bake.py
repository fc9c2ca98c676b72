"""Nodes that bake textures: from voxels, from a detailed surface, from another textured mesh."""

from __future__ import annotations

import logging
from typing import Any

from ..o_voxel.bake.bake import bake
from ..o_voxel.bake.options import BakeOptions
from ..o_voxel.bake.own_uvs import bake_own_uvs
from ..o_voxel.bake.transfer import transfer_colors, transfer_textures, with_maps
from ..o_voxel.material import TexturedMesh
from ..o_voxel.values import Mesh, VoxelField
from ..o_voxel.voxels.from_mesh import fitted
from . import host
from .asset import ALPHA, ALPHA_MODES, SAMPLES, SIZE, SIZE_OVERRIDE, SUPERSAMPLES, TEXTURE_SIZES, texture_side
from .sockets import ANY_MESH, TEXTURED_MESH, VOXELS, materials, painted, textured
from .sockets import surface as surface_of
from .widgets import ASSET_GROUP

log = logging.getLogger(__name__)

SHARE_UV, UNWRAP_SHARED = "keep all", "unwrap what overlaps"
KEEP_UV, NEW_UV, ON_VERTICES = "textures", "textures, unwrap anew", "vertex colours"


class BakeTextures:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = (
        "Bakes textures from voxels or a textured mesh: base colour, metallic, roughness, alpha; also normal map and "
        "ambient occlusion."
    )
    FUNCTION = "bake"
    RETURN_TYPES = (TEXTURED_MESH,)
    RETURN_NAMES = ("textured_mesh",)
    OUTPUT_TOOLTIPS = ("The mesh with its baked textures.",)
    SEARCH_ALIASES = ("bake", "texture", "normal map", "ambient occlusion", "ao", "texture transfer", "pbr")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        surface = (
            "The detailed surface, from Clean Mesh: source of normals and occlusion; without voxels also of colour, if "
            "it has textures."
        )
        voxels = (
            "Materials from Decode Mesh or O-Voxel to Mesh. None: those of a textured detailed_mesh; without either, "
            "normal map and occlusion are added to the mesh's own materials."
        )
        return {
            "required": {
                "textured_mesh": (ANY_MESH, {"tooltip": "From Unwrap, or Load Mesh with texture coordinates."}),
                "detailed_mesh": (ANY_MESH, {"tooltip": surface}),
                "texture_size": (TEXTURE_SIZES, {"default": "2048", "tooltip": SIZE}),
                "supersample": (SUPERSAMPLES, {"default": "1", "tooltip": SAMPLES, "advanced": True}),
                "normal_map": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "Bake a normal map of the detailed surface: one more image."},
                ),
                "occlusion": ("BOOLEAN", {"default": True, "tooltip": "Bake ambient occlusion."}),
                "alpha_mode": (ALPHA_MODES, {"default": "auto", "tooltip": ALPHA, "advanced": True}),
            },
            "optional": {"texture_size_override": SIZE_OVERRIDE, "voxels": (VOXELS, {"tooltip": voxels})},
        }

    def bake(
        self,
        textured_mesh: Mesh | TexturedMesh,
        detailed_mesh: Mesh | TexturedMesh,
        voxels: VoxelField | None = None,
        texture_size: str = "2048",
        supersample: str = "1",
        normal_map: bool = True,
        occlusion: bool = True,
        alpha_mode: str = "auto",
        texture_size_override: int | None = None,
    ) -> tuple[TexturedMesh]:
        target, dense = textured(textured_mesh), surface_of(detailed_mesh)
        field = None if voxels is None else materials(voxels, "voxels")
        if field is None and painted(detailed_mesh):
            field = detailed_mesh
        if target.uv is None:
            raise ValueError("textured_mesh: expected texture coordinates, got none; put Unwrap before this node")
        if field is None and not (normal_map or occlusion):
            materials(None, "voxels")  # raises, with what to connect
        options = BakeOptions(
            resolution=texture_side(texture_size, texture_size_override),
            supersample=int(supersample),
            normal_map=normal_map,
            occlusion=occlusion,
            alpha_mode=alpha_mode,
        )
        target, field = host.at_work(target), host.at_work(field)
        dense = field.mesh if isinstance(field, TexturedMesh) else host.at_work(dense)
        normals, report = target.normals, host.progress()
        baked = bake(target.mesh, target.uv_map, dense, field, options, normals=normals, progress=report)
        return (host.at_rest(baked if field is not None else with_maps(target, baked)),)


class TransferTextures:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = (
        "Bakes the textures of a mesh onto another one of about the same shape: simplified, remeshed, cleaned. No "
        "voxels are needed."
    )
    FUNCTION = "transfer"
    RETURN_TYPES = (TEXTURED_MESH,)
    RETURN_NAMES = ("textured_mesh",)
    OUTPUT_TOOLTIPS = ("The mesh with the source's materials, as one set of textures or as vertex colours.",)
    SEARCH_ALIASES = (
        "texture transfer",
        "bake textures",
        "project textures",
        "data transfer",
        "high to low",
        "reproject",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        target = (
            "The mesh that gets the materials, from Simplify Mesh, Remesh, Clean Mesh or Unwrap. Its own are replaced."
        )
        source = "The textured original, from Load Mesh. It must lie where the mesh lies, at the same size."
        kind = (
            "textures: on the mesh's own texture coordinates, which must not overlap; a mesh without any or with tiled "
            "ones, is unwrapped. textures, unwrap anew: always unwrapped. vertex colours: fast, as fine as the mesh; "
            "emission and normal maps are left out."
        )
        gutter = "Minimum empty texels between charts of an unwrap. More keeps seams clean at a distance (mipmaps)."
        crease = (
            "Edges of an unwrapped mesh with more degrees between their face normals are shaded sharp. 180: smooth "
            "everywhere."
        )
        normal = "Bake the source's shading and normal map into a normal map: one more image."
        occlusion = "Compute ambient occlusion from the source's surface. Off: its own occlusion map is kept, if any."
        distance = (
            "How far the source is searched for a face of the same orientation, in world units; beyond it the nearest "
            "face counts. 0: 2 % of the source's longest side. Less helps where layers are close together."
        )
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": target}),
                "source": (ANY_MESH, {"tooltip": source}),
                "onto": ([KEEP_UV, NEW_UV, ON_VERTICES], {"default": KEEP_UV, "tooltip": kind}),
                "texture_size": (TEXTURE_SIZES, {"default": "2048", "tooltip": SIZE}),
                "normal_map": ("BOOLEAN", {"default": True, "tooltip": normal}),
                "occlusion": ("BOOLEAN", {"default": False, "tooltip": occlusion}),
                "supersample": (SUPERSAMPLES, {"default": "1", "tooltip": SAMPLES, "advanced": True}),
                "gutter": ("INT", {"default": 2, "min": 1, "max": 64, "tooltip": gutter, "advanced": True}),
                "crease_deg": (
                    "FLOAT",
                    {"default": 60.0, "min": 0.0, "max": 180.0, "step": 1.0, "tooltip": crease, "advanced": True},
                ),
                "alpha_mode": (ALPHA_MODES, {"default": "auto", "tooltip": ALPHA, "advanced": True}),
                "max_distance": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.001,
                        "round": False,
                        "tooltip": distance,
                        "advanced": True,
                    },
                ),
            },
            "optional": {"texture_size_override": SIZE_OVERRIDE},
        }

    def transfer(
        self,
        mesh: Mesh | TexturedMesh,
        source: Mesh | TexturedMesh,
        onto: str,
        texture_size: str,
        normal_map: bool,
        occlusion: bool,
        supersample: str,
        gutter: int,
        crease_deg: float,
        alpha_mode: str,
        max_distance: float,
        texture_size_override: int | None = None,
    ) -> tuple[TexturedMesh]:
        target, origin = host.at_work(textured(mesh)), host.at_work(textured(source))
        if onto == ON_VERTICES:
            shape = surface_of(target)
            return (host.at_rest(transfer_colors(shape, origin, normals=target.normals, progress=host.progress())),)
        options = BakeOptions(
            resolution=texture_side(texture_size, texture_size_override),
            supersample=int(supersample),
            normal_map=normal_map,
            occlusion=occlusion,
            alpha_mode=alpha_mode,
            snap_distance=max_distance or None,
        )
        made = transfer_textures(
            target,
            origin,
            options,
            keep_uv=onto == KEEP_UV,
            gutter=gutter,
            crease_deg=crease_deg,
            progress=host.progress(),
        )
        return (host.at_rest(made),)


class TextureMesh:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = (
        "Paints voxels' materials onto a mesh that has texture coordinates of its own. Vertices, faces, parts and "
        "coordinates stay; every material gets textures of its own; normal and occlusion maps are kept."
    )
    FUNCTION = "texture"
    RETURN_TYPES = (TEXTURED_MESH,)
    RETURN_NAMES = ("textured_mesh",)
    OUTPUT_TOOLTIPS = ("The mesh with new textures.",)
    SEARCH_ALIASES = ("texture a mesh", "retexture", "paint mesh", "own uv", "keep uv", "existing mesh", "bake")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = (
            "Texels a side of the material with most surface; small ones get a half, a quarter … of it, 256 at least."
        )
        uvs = (
            "keep all: texture coordinates stay as they are. Mirrored and repeated parts then share one picture. "
            "unwrap what overlaps: materials with such parts get new coordinates. Without any, a material is unwrapped."
        )
        fitted = "The mesh was fitted to the unit cube by Encode Mesh; the same choice as there."
        gutter = "Minimum empty texels between charts of an unwrapped material."
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": "The mesh that Encode Mesh got."}),
                "voxels": (VOXELS, {"tooltip": "From Decode Mesh, with a texture."}),
                "texture_size": (TEXTURE_SIZES, {"default": "2048", "tooltip": size}),
                "uvs": ([SHARE_UV, UNWRAP_SHARED], {"default": SHARE_UV, "tooltip": uvs}),
                "supersample": (SUPERSAMPLES, {"default": "1", "tooltip": SAMPLES, "advanced": True}),
                "alpha_mode": (ALPHA_MODES, {"default": "auto", "tooltip": ALPHA, "advanced": True}),
                "gutter": ("INT", {"default": 2, "min": 1, "max": 64, "tooltip": gutter, "advanced": True}),
                "fit": ("BOOLEAN", {"default": True, "tooltip": fitted, "advanced": True}),
            },
            "optional": {"texture_size_override": SIZE_OVERRIDE},
        }

    def texture(
        self,
        mesh: Mesh | TexturedMesh,
        voxels: VoxelField,
        texture_size: str,
        uvs: str,
        supersample: str,
        alpha_mode: str,
        gutter: int,
        fit: bool,
        texture_size_override: int | None = None,
    ) -> tuple[TexturedMesh] | dict[str, Any]:
        field, lines = materials(voxels, "voxels"), []
        given = textured(mesh)
        # Fitted where Encode Mesh fits it, so that both get the same numbers.
        placed = fitted(given).mesh if fit else given.mesh
        options = BakeOptions(
            resolution=texture_side(texture_size, texture_size_override),
            supersample=int(supersample),
            alpha_mode=alpha_mode,
        )
        made = bake_own_uvs(
            host.at_work(given),
            host.at_work(field),
            options,
            placed=host.at_work(placed),
            gutter=gutter,
            unwrap_shared=uvs == UNWRAP_SHARED,
            on_warning=lines.append,
            progress=host.progress(),
        )
        for line in lines:
            log.warning(line)
        host.show_text(lines)
        result = (host.at_rest(made),)
        return {"ui": {"text": lines}, "result": result} if lines else result
