"""Nodes that show what a mesh is made of: its UV layout and its figures."""

from __future__ import annotations

from typing import Any

from ..o_voxel.core.progress import in_background
from ..o_voxel.material import TexturedMesh
from ..o_voxel.mesh.info import mesh_info
from ..o_voxel.render.uv_atlas import atlas_lines, draw_uv_atlas
from ..o_voxel.values import Mesh
from . import host
from .sockets import ANY_MESH, TEXTURED_MESH, surface, textured
from .textures import MATERIAL, SOURCE
from .widgets import ASSET_GROUP, MESH_GROUP

SECONDS = 2.0  # estimate, for the bar


class UVAtlas:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = (
        "Draws the UV layout. Each chart has a soft colour. Orange: fewer texels than the mean; blue: more; red: "
        "triangles overlap; hatched: mirrored; the darker margin is outside the texture."
    )
    FUNCTION = "draw"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "figures")
    OUTPUT_TOOLTIPS = ("The layout, v up, as the texture lies.", "Charts, overlaps, fill and stretch as text.")
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("uv", "uv map", "uv layout", "uv preview", "show uv", "texture stretch", "overlaps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = "Pixels a side. Overlaps are counted in these pixels; choose the texture's size for its texels."
        return {
            "required": {
                "textured_mesh": (ANY_MESH, {"tooltip": SOURCE + " It needs UV coordinates."}),
                "size": ("INT", {"default": 1024, "min": 64, "max": 4096, "step": 64, "tooltip": size}),
                "material": MATERIAL,
            }
        }

    def draw(self, textured_mesh: TexturedMesh, size: int, material: int) -> dict[str, Any]:
        mesh = host.at_work(textured(textured_mesh))
        image, report = in_background(lambda _: draw_uv_atlas(mesh, size, material), host.progress(), SECONDS)
        lines = atlas_lines(report)
        host.show_text(lines)
        return {"ui": {"text": lines}, "result": (host.at_rest(image[None]), "\n".join(lines))}


class MeshInfo:
    CATEGORY = MESH_GROUP
    DESCRIPTION = (
        "Shows triangles, parts, open edges, size in metres, area, volume and textures of a mesh, and passes it on."
    )
    FUNCTION = "measure"
    RETURN_TYPES = (TEXTURED_MESH, "INT", "INT", "BOOLEAN", "STRING")
    RETURN_NAMES = ("mesh", "triangles", "parts", "watertight", "text")
    OUTPUT_TOOLTIPS = (
        "The same mesh, unchanged.",
        "Number of triangles.",
        "Sets of triangles connected by edges.",
        "True if every edge has two triangles, as 3D printing needs.",
        "All figures, a line a topic.",
    )
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("mesh statistics", "polygon count", "triangle count", "watertight", "volume", "bounding box")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mesh": (ANY_MESH, {"tooltip": "Any mesh, with or without textures."})}}

    def measure(self, mesh: Mesh | TexturedMesh) -> dict[str, Any]:
        surface(mesh)  # refuses other values
        given = host.at_work(mesh)
        info = in_background(lambda _: mesh_info(given), host.progress(), SECONDS)
        lines = info.lines()
        host.show_text(lines)
        result = (textured(host.at_rest(mesh)), info.triangles, info.parts, info.watertight, "\n".join(lines))
        return {"ui": {"text": lines}, "result": result}
