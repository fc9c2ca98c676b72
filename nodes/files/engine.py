"""Nodes for game engines: collision hulls, levels of detail and their files."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from ...o_voxel.core.progress import scaled
from ...o_voxel.files.meshes.engine import joined, save_for_engine
from ...o_voxel.files.meshes.options import SaveOptions
from ...o_voxel.lods import MOST_LEVELS, LodOptions, make_lods
from ...o_voxel.material import TexturedMesh
from ...o_voxel.mesh.collision import MOST_HULLS, collision_hulls
from ...o_voxel.mesh.connectivity.components import split_parts
from ...o_voxel.values import Mesh
from .. import host
from ..sockets import ANY_MESH, MESH, surface, textured
from ..widgets import FILES_GROUP, MESH_GROUP, filename_prefix
from .meshes import FILE_3D_GLB, HIDDEN, NORMAL_MAPS, PIVOT, shown

ONE_FILE, FILES = "one file", "a file per level"


class CollisionMesh:
    CATEGORY = MESH_GROUP
    DESCRIPTION = "Makes a convex hull around a mesh for physics, or several hulls that follow its shape."
    FUNCTION = "make"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("collision",)
    OUTPUT_TOOLTIPS = ("The hulls, each closed and convex, for Save for Engine or Save Mesh.",)
    SEARCH_ALIASES = ("collision", "convex hull", "convex decomposition", "physics", "collider", "ucx", "coacd")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        hulls = (
            "Most hulls. 1: the convex hull, at once. More follow hollows and arms, take up to some minutes and need "
            "the package coacd."
        )
        concavity = (
            "How far several hulls may stand out from the surface, as a part of its size. Less makes more hulls, and "
            "takes longer. No effect on one hull."
        )
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": "Any mesh; a simplified one is faster. Textures are not needed."}),
                "hulls": ("INT", {"default": 1, "min": 1, "max": MOST_HULLS, "tooltip": hulls}),
                "concavity": (
                    "FLOAT",
                    {
                        "default": 0.05,
                        "min": 0.01,
                        "max": 1.0,
                        "step": 0.01,
                        "round": False,
                        "tooltip": concavity,
                        "advanced": True,
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, hulls: int | None = None) -> bool | str:
        # ComfyUI leaves the range of a widget that stands here to this function; a connected one is None.
        if hulls is not None and not 1 <= hulls <= MOST_HULLS:
            return f"hulls: expected 1 to {MOST_HULLS}, got {hulls}"
        if hulls is not None and hulls > 1 and find_spec("coacd") is None:
            return "hulls: more than 1 needs the package coacd (pip install coacd); 1 works without it"
        return True

    def make(self, mesh: Mesh | TexturedMesh, hulls: int, concavity: float) -> tuple[Mesh]:
        shape = host.at_rest(surface(mesh))
        made = collision_hulls(shape, hulls, concavity=concavity, progress=host.progress())
        triangles = sum(len(hull.faces) for hull in made)
        host.show_text([f"{len(made)} {'hull' if len(made) == 1 else 'hulls'}, {triangles:,} triangles"])
        return (joined(made),)


class SaveForEngine:
    CATEGORY = FILES_GROUP
    DESCRIPTION = (
        "Saves a finished mesh as GLB for a game engine: levels of detail, pivot, normal maps of its kind, collision "
        "hulls."
    )
    FUNCTION = "save"
    RETURN_TYPES = ("STRING", FILE_3D_GLB)
    RETURN_NAMES = ("model_file", "file_3d")
    OUTPUT_TOOLTIPS = (
        "The saved file's name, relative to the output folder; of several files the finest level's.",
        "That file, for nodes that take a 3D file.",
    )
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("lod", "level of detail", "export unreal", "export unity", "godot", "game engine", "collision")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        levels = (
            "Levels of detail, the mesh itself included. Each further one is simplified, unwrapped and gets the "
            "textures at half the size: some seconds each."
        )
        ratio = "Triangles of a level, as a part of those of the level before."
        layout = (
            "one file: levels as MSFT_lod, hulls as nodes UCX_…; viewers without MSFT_lod show the finest level, and "
            "the hulls too. a file per level: name_lod0, name_lod1 …, and name_collision."
        )
        scale = "File units per world unit; the object is about 1 long. glTF's unit is the metre."
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": "The finished mesh, from Game-Ready Asset or Bake Textures."}),
                "filename_prefix": filename_prefix("3d/engine"),
                "levels": ("INT", {"default": 3, "min": 1, "max": MOST_LEVELS, "tooltip": levels}),
                "ratio": (
                    "FLOAT",
                    {"default": 0.5, "min": 0.05, "max": 0.95, "step": 0.05, "tooltip": ratio, "advanced": True},
                ),
                "layout": ([FILES, ONE_FILE], {"default": FILES, "tooltip": layout}),
                "pivot": PIVOT["base"],
                "normal_maps": NORMAL_MAPS,
                "scale": ("FLOAT", {"default": 1.0, "min": 0.001, "max": 10000.0, "step": 0.001, "tooltip": scale}),
            },
            "optional": {"collision": (ANY_MESH, {"tooltip": "From Collision Mesh: saved with the mesh."})},
            "hidden": HIDDEN,
        }

    def save(
        self,
        mesh: Mesh | TexturedMesh,
        filename_prefix: str,
        levels: int,
        ratio: float,
        layout: str,
        pivot: str,
        normal_maps: str,
        scale: float,
        collision: Mesh | TexturedMesh | None = None,
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        report = host.progress()
        work = host.at_work(textured(mesh))
        made = host.at_rest(make_lods(work, LodOptions(levels, ratio), progress=scaled(report, 0.0, 0.8)))
        hulls = () if collision is None else split_parts(host.at_rest(surface(collision)))
        options = SaveOptions(
            scale=scale, pivot=pivot, normal_maps=normal_maps, extras=host.metadata(prompt, extra_pnginfo)
        )
        path, subfolder = host.output_path(filename_prefix, "glb")
        bar = scaled(report, 0.8, 0.2)
        written = save_for_engine(path, made, hulls, options, one_file=layout == ONE_FILE, progress=bar)
        host.show_text([f"{len(level.mesh.faces):,} triangles" for level in made])
        return shown(written[0], subfolder)
