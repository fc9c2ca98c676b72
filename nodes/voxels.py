"""Nodes that convert meshes to O-Voxels and latents and back, and load and save O-Voxels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..o_voxel.core.grid import Grid
from ..o_voxel.files.voxels.read_write import read_voxels, write_voxels
from ..o_voxel.files.voxels.records import from_records, to_records
from ..o_voxel.material import TexturedMesh
from ..o_voxel.values import Mesh, OVoxel, VoxelField
from ..o_voxel.voxels.from_mesh import voxelize
from ..o_voxel.voxels.to_mesh import dual_grid_to_mesh
from ..trellis2.from_mesh import encode_mesh
from ..trellis2.pipeline import Pipeline
from ..trellis2.stage_pictures import picture_of
from ..trellis2.values import ImageCondition, ShapeLatent
from . import host
from .files.meshes import loadable
from .sockets import ANY_MESH, CONDITION, MESH, O_VOXEL, PIPELINE, SHAPE, VOXELS, SamplerOverrides, expect, textured
from .widgets import (
    FILES_GROUP,
    GENERATE_GROUP,
    MESH_GROUP,
    TYPE_FROM_MODEL,
    chosen,
    configured,
    filename_prefix,
    number_override,
    stage_inputs,
)

VOXEL_SUFFIXES = (".vxz", ".npz", ".ply")
ENCODED = [TYPE_FROM_MODEL, "512", "1024", "1536"]
RESOLUTION = {"default": 512, "min": 16, "max": 2048, "step": 16}


class MeshToVoxels:
    CATEGORY = MESH_GROUP
    DESCRIPTION = "Converts any mesh, open or closed, with or without inner parts, to an O-Voxel over the unit cube."
    FUNCTION = "voxelize"
    RETURN_TYPES = (O_VOXEL,)
    RETURN_NAMES = ("o_voxel",)
    OUTPUT_TOOLTIPS = ("Surface and materials on the voxels of the unit cube.",)
    SEARCH_ALIASES = ("voxel", "voxelize", "voxelise", "o-voxel", "texture transfer", "sample materials")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        resolution = "Voxels a side. Detail below a voxel is lost; memory and time grow with its square."
        source = "Any mesh in the unit cube, as from Load Mesh; a plain one becomes white, rough, non-metallic."
        return {
            "required": {
                "textured_mesh": (ANY_MESH, {"tooltip": source}),
                "resolution": ("INT", {**RESOLUTION, "tooltip": resolution}),
                "materials": ("BOOLEAN", {"default": True, "tooltip": "Also sample the materials at every voxel."}),
            }
        }

    def voxelize(self, textured_mesh: Mesh | TexturedMesh, resolution: int, materials: bool) -> tuple[OVoxel]:
        mesh = host.at_work(textured(textured_mesh))
        voxels = voxelize(mesh, Grid.cube(resolution), materials=materials, progress=host.progress())
        return (host.at_rest(voxels),)


class VoxelsToMesh:
    CATEGORY = MESH_GROUP
    DESCRIPTION = "Extracts the surface of an O-Voxel, and its materials if any."
    FUNCTION = "extract"
    RETURN_TYPES = (MESH, VOXELS)
    RETURN_NAMES = ("mesh", "voxels")
    OUTPUT_TOOLTIPS = ("The surface of the O-Voxel, z up.", "Its materials, for Bake Textures; None if it has none.")
    SEARCH_ALIASES = ("voxel", "voxel to mesh", "dual contouring", "marching cubes", "extract surface")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tile = "Slab thickness in voxels, to save memory on large grids. 0: the whole grid at once. Same result."
        return {
            "required": {
                "o_voxel": (O_VOXEL, {"tooltip": "From Mesh to O-Voxel or Load O-Voxel."}),
                "tile_size": (
                    "INT",
                    {"default": 0, "min": 0, "max": 4096, "step": 16, "tooltip": tile, "advanced": True},
                ),
            }
        }

    def extract(self, o_voxel: OVoxel, tile_size: int) -> tuple[Mesh, VoxelField | None]:
        voxels = expect(o_voxel, O_VOXEL)
        mesh = dual_grid_to_mesh(host.at_work(voxels.dual_grid), tile_size or None, progress=host.progress())
        return host.at_rest(mesh), host.at_rest(voxels.field)


class EncodeMesh:
    CATEGORY = GENERATE_GROUP
    DESCRIPTION = (
        "Encodes any mesh to a shape latent, to paint it by Sample Texture or to change it by Refine Shape. The "
        "published model's encoder is 0.7 GB more, downloaded at the first use."
    )
    FUNCTION = "encode"
    RETURN_TYPES = (SHAPE,)
    RETURN_NAMES = ("shape",)
    OUTPUT_TOOLTIPS = ("The shape latent, for Sample Texture, Refine Shape and Decode Mesh.",)
    SEARCH_ALIASES = ("vae encode", "mesh to latent", "texture a mesh", "retexture", "shape encoder", "inversion")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        resolution = (
            "Voxels a side. The model's own: 1024 for the published one, 512 for the built-in mini, its only one. "
            "Detail below a voxel is lost. Tokens, and with them time and memory, grow about 4x from 512 to 1024."
        )
        fit = (
            "Centre the mesh and scale it to the unit cube, as the model expects. Off: it lies there already, as one "
            "from Decode Mesh does. Texture Mesh needs the same choice."
        )
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "mesh": (ANY_MESH, {"tooltip": "Any mesh: open, of many parts, with or without materials."}),
                "resolution": (ENCODED, {"default": TYPE_FROM_MODEL, "tooltip": resolution}),
                "fit": ("BOOLEAN", {"default": True, "tooltip": fit, "advanced": True}),
            },
            "optional": dict([number_override("resolution")]),
        }

    def encode(
        self,
        pipeline: Pipeline,
        mesh: Mesh | TexturedMesh,
        resolution: str,
        fit: bool,
        resolution_override: int | None = None,
    ) -> tuple[ShapeLatent]:
        capabilities = expect(pipeline, PIPELINE).capabilities
        choice = chosen("resolution", ENCODED, resolution, resolution_override)
        side = capabilities.own_resolution if choice == TYPE_FROM_MODEL else int(choice)
        capabilities.check_encoded(side)
        shape = encode_mesh(pipeline, textured(mesh), side, fit=fit, progress=host.progress())
        host.show(lambda: picture_of(shape))
        return (host.at_rest(shape),)


class RefineShape:
    CATEGORY = GENERATE_GROUP
    DESCRIPTION = "Adds noise to a shape and samples it again from there, as the picture says: new detail where it is."
    FUNCTION = "refine"
    RETURN_TYPES = (SHAPE,)
    RETURN_NAMES = ("shape",)
    OUTPUT_TOOLTIPS = ("The refined shape latent, for Sample Texture and Decode Mesh.",)
    SEARCH_ALIASES = ("mesh to mesh", "shape to shape", "add detail", "enhance mesh", "img2img", "denoise", "sdedit")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = (
            "How much is made anew: the time at which the flow starts. 0: the shape as it is. 0.3: edges and small "
            "forms. 1: everything but where the surface is, to a voxel of the latent, 1/32 or 1/64 of the cube."
        )
        value = {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.05, "round": False, "tooltip": strength}
        return stage_inputs(
            7.5,
            values={"shape": (SHAPE, {"tooltip": "From Encode Mesh, Sample Shape or Shape Cascade."})},
            widgets={"strength": ("FLOAT", value)},
        )

    def refine(
        self,
        pipeline: Pipeline,
        condition: ImageCondition,
        shape: ShapeLatent,
        seed: int,
        steps: int,
        guidance: float,
        strength: float,
        sampler: SamplerOverrides | None = None,
    ) -> tuple[ShapeLatent]:
        refined = expect(pipeline, PIPELINE).refine_shape(
            expect(condition, CONDITION),
            expect(shape, SHAPE),
            seed=seed,
            strength=strength,
            sampler=configured(pipeline.config.shape_slat_sampler, steps, guidance, sampler),
            progress=host.progress(),
        )
        host.show(lambda: picture_of(refined))
        return (host.at_rest(refined),)


class LoadVoxels:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Reads an O-Voxel from .vxz, .npz or .ply."
    FUNCTION = "load"
    RETURN_TYPES = (O_VOXEL,)
    RETURN_NAMES = ("o_voxel",)
    OUTPUT_TOOLTIPS = ("Surface and, if the file has them, materials on voxels.",)
    SEARCH_ALIASES = ("import voxels", "open voxels", "voxel", "vxz")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        path = "A file of ComfyUI's input folder, or its subfolder 3d: .vxz, .npz, .ply; or a saved one, NAME [output]."
        resolution = "Voxels a side of the grid, which files do not store. 0: the smallest power of two that fits."
        return {
            "required": {
                "file": (host.input_files(VOXEL_SUFFIXES), {"tooltip": path}),
                "resolution": (
                    "INT",
                    {"default": 0, "min": 0, "max": 2048, "step": 16, "tooltip": resolution, "advanced": True},
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file: Any = None, input_types: Mapping[str, Any] | None = None) -> bool | str:
        return loadable("file", file, VOXEL_SUFFIXES, input_types or {}, {"file": "STRING,COMBO", "resolution": "INT"})

    @classmethod
    def IS_CHANGED(cls, file: Any = None, **others: Any) -> str:
        return host.changed(file)

    def load(self, file: str, resolution: int) -> tuple[OVoxel]:
        grid = Grid.cube(resolution) if resolution else None
        path = host.input_path(file)
        with host.opened(path, file):
            return (from_records(read_voxels(path, progress=host.progress()), grid),)


class SaveVoxels:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Saves an O-Voxel in ComfyUI's output folder, in formats that the original's tools read."
    FUNCTION = "save"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("The saved file's name, relative to the output folder.",)
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("export voxels", "voxel", "vxz")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "o_voxel": (O_VOXEL, {"tooltip": "From Mesh to O-Voxel."}),
                "filename_prefix": filename_prefix("3d/voxels"),
                "format": (["vxz", "npz", "ply"], {"default": "vxz", "tooltip": "vxz: by far the smallest."}),
            }
        }

    def save(self, o_voxel: OVoxel, filename_prefix: str, format: str) -> dict[str, Any]:
        records = to_records(host.at_rest(expect(o_voxel, O_VOXEL)))
        path, subfolder = host.output_path(filename_prefix, format)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_voxels(path, records, progress=host.progress())
        return {"ui": {}, "result": ((f"{subfolder}/" if subfolder else "") + path.name,)}
