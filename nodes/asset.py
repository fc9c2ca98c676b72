"""Nodes that unwrap and bake, and one that makes a finished asset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..o_voxel.asset import PRESETS, STAGES, make_asset
from ..o_voxel.bake.bake import bake
from ..o_voxel.bake.options import BakeOptions
from ..o_voxel.core.progress import scaled
from ..o_voxel.material import TexturedMesh, UVMap
from ..o_voxel.mesh.normals import smooth_by_angle
from ..o_voxel.mesh.uv.unwrap import unwrap
from ..o_voxel.values import Mesh, VoxelField
from . import host
from .sockets import MESH, TEXTURED_MESH, VOXELS, expect
from .widgets import CATEGORY

TEXTURE_SIZES = ["512", "1024", "2048", "4096", "8192"]
FROM_PRESET = "from preset"
SIZE = "Texels a side. Time and file size grow with its square."


class Unwrap:
    CATEGORY = CATEGORY
    DESCRIPTION = "Cuts a mesh into charts and packs them into one texture."
    FUNCTION = "unwrap"
    RETURN_TYPES = (TEXTURED_MESH,)
    RETURN_NAMES = ("textured_mesh",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        gutter = (
            "Minimum empty texels between charts at the texture size. More keeps seams clean at a distance (mipmaps)."
        )
        crease = "Edges with more degrees between their face normals are shaded sharp. 180: smooth everywhere."
        return {
            "required": {
                "mesh": (MESH, {"tooltip": "From Simplify Mesh. Time grows with its faces: 200,000 is comfortable."}),
                "texture_size": (
                    TEXTURE_SIZES,
                    {"default": "2048", "tooltip": "Texture size, in texels a side, for which the gutter is measured."},
                ),
                "gutter": ("INT", {"default": 2, "min": 1, "max": 64, "tooltip": gutter}),
                "crease_deg": ("FLOAT", {"default": 60.0, "min": 0.0, "max": 180.0, "step": 1.0, "tooltip": crease}),
            }
        }

    def unwrap(self, mesh: Mesh, texture_size: str, gutter: int, crease_deg: float) -> tuple[TexturedMesh]:
        mesh, report = host.at_work(expect(mesh, MESH)), host.progress()
        uv_map = unwrap(mesh, resolution=int(texture_size), gutter=gutter, progress=scaled(report, 0.0, 0.9))
        shaded, normals, _ = smooth_by_angle(mesh, crease_deg, progress=scaled(report, 0.9, 0.1))
        return (host.at_rest(TexturedMesh(shaded, uv=uv_map.uv, uv_faces=uv_map.faces, normals=normals)),)


class BakeTextures:
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Bakes textures from voxels: base colour, metallic, roughness, alpha; also normal map and ambient occlusion."
    )
    FUNCTION = "bake"
    RETURN_TYPES = (TEXTURED_MESH,)
    RETURN_NAMES = ("textured_mesh",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        surface = "The detailed surface, from Clean Mesh: source of colour, normals and occlusion."
        samples = "Samples along each side of a texel. 2 antialiases fine patterns and takes four times as long."
        alpha = "auto: opaque unless a significant part of the surface has alpha below 1."
        return {
            "required": {
                "textured_mesh": (TEXTURED_MESH, {"tooltip": "From Unwrap, or Load Mesh with texture coordinates."}),
                "detailed_mesh": (MESH, {"tooltip": surface}),
                "voxels": (VOXELS, {"tooltip": "Materials from Decode Mesh or O-Voxel to Mesh."}),
                "texture_size": (TEXTURE_SIZES, {"default": "2048", "tooltip": SIZE}),
                "supersample": (["1", "2", "4"], {"default": "1", "tooltip": samples}),
                "normal_map": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "Bake a normal map of the detailed surface: one more image."},
                ),
                "occlusion": ("BOOLEAN", {"default": True, "tooltip": "Bake ambient occlusion."}),
                "alpha_mode": (["auto", "OPAQUE", "MASK", "BLEND"], {"default": "auto", "tooltip": alpha}),
            }
        }

    def bake(
        self,
        textured_mesh: TexturedMesh,
        detailed_mesh: Mesh,
        voxels: VoxelField,
        texture_size: str,
        supersample: str,
        normal_map: bool,
        occlusion: bool,
        alpha_mode: str,
    ) -> tuple[TexturedMesh]:
        if expect(textured_mesh, TEXTURED_MESH).uv is None:
            raise ValueError("textured_mesh: expected texture coordinates, got none; put Unwrap before this node")
        target = host.at_work(textured_mesh)
        faces = target.mesh.faces if target.uv_faces is None else target.uv_faces
        options = BakeOptions(
            resolution=int(texture_size),
            supersample=int(supersample),
            normal_map=normal_map,
            occlusion=occlusion,
            alpha_mode=alpha_mode,
        )
        baked = bake(
            target.mesh,
            UVMap(target.uv, faces, faces.new_zeros(len(faces))),
            host.at_work(expect(detailed_mesh, MESH)),
            host.at_work(expect(voxels, VOXELS)),
            options,
            normals=target.normals,
            progress=host.progress(),
        )
        return (host.at_rest(baked),)


class GameReadyAsset:
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Makes a finished asset from a raw surface and voxels: cleaned, simplified, unwrapped, baked. Choose a preset."
    )
    FUNCTION = "make"
    RETURN_TYPES = (TEXTURED_MESH, MESH)
    RETURN_NAMES = ("textured_mesh", "mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        presets = "; ".join(f"{name}: {_describe(name)}" for name in PRESETS)
        surface = (
            "cleaned: keeps the surface; remeshed: a closed surface around both sides of every sheet; outer shell: one "
            "watertight solid."
        )
        return {
            "required": {
                "mesh": (MESH, {"tooltip": "From Decode Mesh, unprocessed."}),
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
                    [FROM_PRESET, "cleaned", "remeshed", "outer shell"],
                    {"default": FROM_PRESET, "tooltip": surface},
                ),
            },
            "optional": {"voxels": (VOXELS, {"tooltip": "Materials from Decode Mesh. Without them: no textures."})},
        }

    def make(
        self, mesh: Mesh, preset: str, faces: int, texture_size: str, surface: str, voxels: VoxelField | None = None
    ) -> tuple[TexturedMesh, Mesh] | dict[str, Any]:
        options = PRESETS[preset]
        if faces:
            options = replace(options, faces=faces)
        if texture_size != FROM_PRESET:
            options = replace(options, texture_size=int(texture_size))
        if surface != FROM_PRESET:
            options = replace(options, surface=surface)
        field = None if voxels is None else host.at_work(expect(voxels, VOXELS))
        warnings: list[str] = []
        asset = make_asset(
            host.at_work(expect(mesh, MESH)),
            field,
            options,
            progress=host.staged_progress(STAGES),
            on_warning=warnings.append,
        )
        asset = host.at_rest(asset)
        result = asset, asset.mesh
        return {"ui": {"text": warnings}, "result": result} if warnings else result


def _describe(preset: str) -> str:
    """Summarises a preset for its tooltip."""
    options = PRESETS[preset]
    texture = f"{options.texture_size}² texture" if options.texture_size else "no texture"
    maps = [name for name, wanted in (("normals", options.normal_map), ("occlusion", options.occlusion)) if wanted]
    return ", ".join([f"{options.faces:,} triangles", options.surface, texture, *maps])
