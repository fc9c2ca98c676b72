"""Nodes that load and save mesh files."""

from __future__ import annotations

from typing import Any

from ..o_voxel.core.progress import scaled
from ..o_voxel.files.meshes.gltf.glb import write_glb
from ..o_voxel.files.meshes.options import SaveOptions
from ..o_voxel.files.meshes.read import load_textured_mesh
from ..o_voxel.files.meshes.write import save_mesh
from ..o_voxel.material import TexturedMesh
from ..o_voxel.values import Mesh, VoxelField
from ..o_voxel.voxels.from_mesh import fitted
from ..o_voxel.voxels.sample import vertex_materials
from . import host
from .sockets import MESH, TEXTURED_MESH, VOXELS, expect
from .widgets import CATEGORY, filename_prefix


class LoadMesh:
    CATEGORY = CATEGORY
    DESCRIPTION = "Loads a GLB, OBJ, PLY or STL with its materials, rotated to z up."
    FUNCTION = "load"
    RETURN_TYPES = (TEXTURED_MESH, MESH)
    RETURN_NAMES = ("textured_mesh", "mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        path = "A file in ComfyUI's input folder, or an absolute path: .glb, .gltf, .obj, .ply, .stl."
        fit = "Centre and scale the mesh to the unit cube, the domain of the models. Off: keep position and size."
        return {
            "required": {
                "file": ("STRING", {"default": "mesh.glb", "tooltip": path}),
                "fit_unit_cube": ("BOOLEAN", {"default": True, "tooltip": fit}),
            }
        }

    def load(self, file: str, fit_unit_cube: bool) -> tuple[TexturedMesh, Mesh]:
        mesh = load_textured_mesh(host.input_path(file), progress=host.progress())
        mesh = fitted(mesh) if fit_unit_cube else mesh
        return mesh, mesh.mesh


class SaveGLB:
    CATEGORY = CATEGORY
    DESCRIPTION = "Saves a mesh as GLB in ComfyUI's output folder, with vertex colours if voxels are connected."
    FUNCTION = "save"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("model_file",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "mesh": (MESH, {"tooltip": "From Decode Mesh."}),
                "filename_prefix": filename_prefix("3d/trellis2"),
            },
            "optional": {"voxels": (VOXELS, {"tooltip": "Materials from Decode Mesh, saved as vertex colours."})},
        }

    def save(self, mesh: Mesh, filename_prefix: str, voxels: VoxelField | None = None) -> dict[str, Any]:
        materials, report = None, host.progress()
        if voxels is not None:
            field, surface = host.at_work(expect(voxels, VOXELS)), host.at_work(expect(mesh, MESH))
            materials = host.at_rest(vertex_materials(surface, field, progress=scaled(report, 0.0, 0.3)))
        path, subfolder = host.output_path(filename_prefix, "glb")
        write_glb(path, host.at_rest(expect(mesh, MESH)), materials, progress=scaled(report, 0.3, 0.7))
        return _shown(path.name, subfolder)


class SaveMesh:
    CATEGORY = CATEGORY
    DESCRIPTION = "Saves a mesh with its textures in ComfyUI's output folder: GLB, OBJ, PLY or STL."
    FUNCTION = "save"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("model_file",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        kind = "glb: everything in one file; obj: textures in separate files; ply: vertex colours; stl: shape only."
        images = (
            "Texture format of a glb. png: opens everywhere; jpeg: a quarter of the size; webp: smallest, but not read "
            "by game engines."
        )
        budget = "Maximum size of a glb in MiB, met by smaller encodings, then by smaller textures. 0: no limit."
        geometry = (
            "Vertex format of a glb. quantized: half the size; draco: needs the package DracoPy and a viewer with "
            "Draco."
        )
        scale = (
            "File units per world unit; the object is about 1 long. For STL in millimetres, e.g. 100: about 100 mm "
            "long."
        )
        return {
            "required": {
                "mesh": (TEXTURED_MESH, {"tooltip": "From Game-Ready Asset, Bake Textures, Unwrap or Load Mesh."}),
                "filename_prefix": filename_prefix("3d/asset"),
                "format": (["glb", "obj", "ply", "stl"], {"default": "glb", "tooltip": kind}),
                "images": (["png", "jpeg", "webp"], {"default": "png", "tooltip": images}),
                "geometry": (["full", "quantized", "draco"], {"default": "full", "tooltip": geometry}),
                "max_mib": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 4096.0, "step": 0.1, "tooltip": budget}),
                "scale": ("FLOAT", {"default": 1.0, "min": 0.001, "max": 10000.0, "step": 0.001, "tooltip": scale}),
            }
        }

    def save(
        self,
        mesh: TexturedMesh,
        filename_prefix: str,
        format: str,
        images: str = "png",
        geometry: str = "full",
        max_mib: float = 0.0,
        scale: float = 1.0,
    ) -> dict[str, Any]:
        options = SaveOptions(
            scale=scale,
            image_format=images,
            quantize=geometry == "quantized",
            draco=geometry == "draco",
            max_bytes=int(max_mib * 2**20) or None,
        )
        path, subfolder = host.output_path(filename_prefix, format)
        save_mesh(path, host.at_rest(expect(mesh, TEXTURED_MESH)), options, progress=host.progress())
        return _shown(path.name, subfolder)


def _shown(name: str, subfolder: str) -> dict[str, Any]:
    """Returns the preview entry of a saved model for ComfyUI, and its path for Preview 3D."""
    saved = {"filename": name, "subfolder": subfolder, "type": "output"}
    return {"ui": {"3d": [saved]}, "result": ((f"{subfolder}/" if subfolder else "") + name,)}
