"""Meshes to files."""

from __future__ import annotations

from typing import Any

from ..o_voxel.formats.glb import vertex_materials, write_glb
from ..o_voxel.values import Mesh, VoxelField
from . import host
from .sockets import MESH, VOXELS, expect
from .widgets import CATEGORY


class SaveGLB:
    CATEGORY = CATEGORY
    DESCRIPTION = "Saves a mesh as GLB in ComfyUI's output folder, coloured where voxels are connected."
    FUNCTION = "save"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("model_file",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        prefix = "Name of the file, with folders if you like, inside ComfyUI's output folder; a number is added."
        return {
            "required": {
                "mesh": (MESH, {"tooltip": "From Decode Mesh."}),
                "filename_prefix": ("STRING", {"default": "3d/trellis2", "tooltip": prefix}),
            },
            "optional": {"voxels": (VOXELS, {"tooltip": "Materials from Decode Mesh; they become vertex colours."})},
        }

    def save(self, mesh: Mesh, filename_prefix: str, voxels: VoxelField | None = None) -> dict[str, Any]:
        expect(mesh, MESH)
        materials = None if voxels is None else vertex_materials(mesh, expect(voxels, VOXELS))
        path, subfolder = host.output_path(filename_prefix, "glb")
        write_glb(path, mesh, materials)
        saved = {"filename": path.name, "subfolder": subfolder, "type": "output"}
        return {"ui": {"3d": [saved]}, "result": ((f"{subfolder}/" if subfolder else "") + path.name,)}
