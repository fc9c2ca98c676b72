"""Nodes of the sampling stages: structure, shape, cascade, texture and decoding; and one with all of them."""

from __future__ import annotations

from typing import Any

from ..o_voxel.values import Mesh, VoxelField
from ..trellis2.image.views import VIEW_TEMPERATURE
from ..trellis2.pipeline import PIPELINE_TYPES, Pipeline
from ..trellis2.stage_pictures import picture_of
from ..trellis2.values import VIEW_MODES, ImageCondition, ShapeLatent, SparseStructure, TextureLatent
from . import host
from .image import FIELD_OF_VIEW, OBJECTS, VIEW_SHARPNESS, VIEWS, guiding_pictures
from .sockets import (
    CONDITION,
    IMAGES,
    MESH,
    PIPELINE,
    SHAPE,
    STRUCTURE,
    TEXTURE,
    VOXELS,
    PreparedImages,
    SamplerOverrides,
    expect,
)
from .widgets import (
    FROM_MODEL,
    GENERATE_GROUP,
    SEED,
    STEP_CACHE,
    TOKENS,
    TYPE_FROM_MODEL,
    chosen,
    configured,
    guidance,
    override,
    stage_inputs,
    steps,
)

GRIDS = ["32", "64"]
RESOLUTIONS = [TYPE_FROM_MODEL, "1024", "1536", "2048"]
STAGES = ("condition", "structure", "shape", "cascade", "texture", "decode")


class SampleStructure:
    CATEGORY = GENERATE_GROUP
    DESCRIPTION = "Samples the voxels of a coarse grid that the object occupies."
    FUNCTION = "sample"
    RETURN_TYPES = (STRUCTURE,)
    RETURN_NAMES = ("structure",)
    OUTPUT_TOOLTIPS = ("The occupied voxels of the coarse grid, for Sample Shape.",)
    SEARCH_ALIASES = ("sparse structure", "occupancy", "coarse voxels", "first stage", "sampler")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        grid = "Voxels a side. 32: for 512 surfaces and all cascades (published). 64: for 1024 without a cascade."
        widgets = {"grid": (GRIDS, {"default": "32", "tooltip": grid})}
        return stage_inputs(7.5, widgets=widgets, overrides=["grid"])

    def sample(
        self,
        pipeline: Pipeline,
        condition: ImageCondition,
        seed: int,
        steps: int,
        guidance: float,
        grid: str,
        sampler: SamplerOverrides | None = None,
        grid_override: int | None = None,
    ) -> tuple[SparseStructure]:
        expect(pipeline, PIPELINE)
        structure = pipeline.sample_structure(
            expect(condition, CONDITION),
            seed=seed,
            resolution=int(chosen("grid", GRIDS, grid, grid_override)),
            sampler=configured(pipeline.config.sparse_structure_sampler, steps, guidance, sampler),
            progress=host.progress(),
        )
        host.show(lambda: picture_of(structure))
        return (host.at_rest(structure),)


class SampleShape:
    CATEGORY = GENERATE_GROUP
    DESCRIPTION = "Samples the shape on the structure's voxels: 512 from a 32 grid, 1024 from a 64 grid."
    FUNCTION = "sample"
    RETURN_TYPES = (SHAPE,)
    RETURN_NAMES = ("shape",)
    OUTPUT_TOOLTIPS = ("The shape latent, for Shape Cascade, Sample Texture and Decode Mesh.",)
    SEARCH_ALIASES = ("geometry", "shape latent", "second stage", "sampler")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return stage_inputs(7.5, values={"structure": (STRUCTURE, {"tooltip": "From Sample Structure."})})

    def sample(
        self,
        pipeline: Pipeline,
        condition: ImageCondition,
        structure: SparseStructure,
        seed: int,
        steps: int,
        guidance: float,
        sampler: SamplerOverrides | None = None,
    ) -> tuple[ShapeLatent]:
        expect(pipeline, PIPELINE)
        shape = pipeline.sample_shape(
            expect(condition, CONDITION),
            expect(structure, STRUCTURE),
            seed=seed,
            sampler=configured(pipeline.config.shape_slat_sampler, steps, guidance, sampler),
            progress=host.progress(),
        )
        host.show(lambda: picture_of(shape))
        return (host.at_rest(shape),)


class CascadeShape:
    CATEGORY = GENERATE_GROUP
    DESCRIPTION = "Samples the shape again, on the finer voxels predicted from the coarse shape."
    FUNCTION = "sample"
    RETURN_TYPES = (SHAPE,)
    RETURN_NAMES = ("shape",)
    OUTPUT_TOOLTIPS = ("The finer shape latent, for Sample Texture and Decode Mesh.",)
    SEARCH_ALIASES = ("high resolution", "upscale shape", "more detail", "upsample shape", "1536", "2048")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        resolution = (
            "Voxels a side of the final surface. The model's own: 1024 for the published one; the built-in mini, which "
            "supports 512 only, returns the input shape. Tokens, and with them time and memory, grow about 2x from "
            "1024 to 1536 and 4x to 2048."
        )
        return stage_inputs(
            7.5,
            condition="From Image Condition, with 1024 tokens.",
            values={"shape": (SHAPE, {"tooltip": "From Sample Shape."})},
            widgets={
                "resolution": (RESOLUTIONS, {"default": TYPE_FROM_MODEL, "tooltip": resolution}),
                "max_tokens": TOKENS,
            },
            overrides=["resolution"],
        )

    def sample(
        self,
        pipeline: Pipeline,
        condition: ImageCondition,
        shape: ShapeLatent,
        seed: int,
        steps: int,
        guidance: float,
        resolution: str,
        max_tokens: int,
        sampler: SamplerOverrides | None = None,
        resolution_override: int | None = None,
    ) -> tuple[ShapeLatent]:
        default = expect(pipeline, PIPELINE).pipeline_type(None).cascade
        resolution = chosen("resolution", RESOLUTIONS, resolution, resolution_override)
        target = default if resolution == TYPE_FROM_MODEL else int(resolution)
        if target is None:
            return (host.at_rest(expect(shape, SHAPE)),)
        finer = pipeline.cascade_shape(
            expect(condition, CONDITION),
            expect(shape, SHAPE),
            seed=seed,
            resolution=target,
            max_tokens=max_tokens,
            sampler=configured(pipeline.config.shape_slat_sampler, steps, guidance, sampler),
            progress=host.progress(),
        )
        host.show(lambda: picture_of(finer))
        return (host.at_rest(finer),)


class SampleTexture:
    CATEGORY = GENERATE_GROUP
    DESCRIPTION = "Samples colour, metallic, roughness and opacity for a shape."
    FUNCTION = "sample"
    RETURN_TYPES = (TEXTURE,)
    RETURN_NAMES = ("texture",)
    OUTPUT_TOOLTIPS = ("The material latent, for Decode Mesh.",)
    SEARCH_ALIASES = ("texture", "material", "pbr", "colour", "color", "retexture", "texture latent")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return stage_inputs(1.0, values={"shape": (SHAPE, {"tooltip": "From Sample Shape or Shape Cascade."})})

    def sample(
        self,
        pipeline: Pipeline,
        condition: ImageCondition,
        shape: ShapeLatent,
        seed: int,
        steps: int,
        guidance: float,
        sampler: SamplerOverrides | None = None,
    ) -> tuple[TextureLatent]:
        expect(pipeline, PIPELINE)
        texture = pipeline.sample_texture(
            expect(condition, CONDITION),
            expect(shape, SHAPE),
            seed=seed,
            sampler=configured(pipeline.config.tex_slat_sampler, steps, guidance, sampler),
            progress=host.progress(),
        )
        return (host.at_rest(texture),)


class DecodeMesh:
    """A batch is returned as lists, which ComfyUI passes to the following nodes one object at a time."""

    CATEGORY = GENERATE_GROUP
    DESCRIPTION = "Decodes the shape to a surface and the texture to PBR materials on its voxels."
    FUNCTION = "decode"
    RETURN_TYPES = (MESH, VOXELS)
    RETURN_NAMES = ("mesh", "voxels")
    OUTPUT_TOOLTIPS = (
        "The raw surface, z up; a list, an item an object.",
        "Materials on the surface's voxels; a list, an item an object. None without a texture.",
    )
    OUTPUT_IS_LIST = (True, True)
    SEARCH_ALIASES = ("vae decode", "latent to mesh", "decode latent", "extract mesh", "flexible dual grid")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "shape": (SHAPE, {"tooltip": "From Sample Shape or Shape Cascade."}),
            },
            "optional": {
                "texture": (TEXTURE, {"tooltip": "From Sample Texture, for the same shape. Without it: no materials."})
            },
        }

    def decode(
        self, pipeline: Pipeline, shape: ShapeLatent, texture: TextureLatent | None = None
    ) -> tuple[list[Mesh], list[VoxelField | None]]:
        latent = None if texture is None else expect(texture, TEXTURE)
        assets = expect(pipeline, PIPELINE).decode(expect(shape, SHAPE), latent, progress=host.progress())
        return [host.at_rest(asset.mesh) for asset in assets], [host.at_rest(asset.field) for asset in assets]


class ImageTo3D:
    """Makes the same calls as the separate nodes, with the checkpoint's settings."""

    CATEGORY = GENERATE_GROUP
    DESCRIPTION = "Images to meshes with materials in one node. The separate nodes recompute only the changed stages."
    FUNCTION = "generate"
    RETURN_TYPES = (MESH, VOXELS)
    RETURN_NAMES = ("mesh", "voxels")
    OUTPUT_TOOLTIPS = (
        "The raw surface, z up; a list, an item an object.",
        "Materials on the surface's voxels; a list, an item an object.",
    )
    OUTPUT_IS_LIST = (True, True)
    SEARCH_ALIASES = ("image to 3d", "picture to 3d", "photo to 3d", "image to mesh", "picture to mesh", "trellis")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        kind = (
            "Voxels a side of the surface. The model's own: 1024_cascade for the published one, 512 for the built-in "
            "mini, its only type. A cascade samples at 512 first, then finer: sharper, and the published default; "
            "plain 1024 samples once from a 64 grid. On an H200 about 4 s at 1024, 10 s at 1536 and 50 s at 2048."
        )
        batch = "Meaning of a batch: one object per image, or one object seen from several sides."
        mode = (
            "How several views guide the sampling. average: all at every step; cycle: one after the other; blend: all, "
            "each voxel by the views that see it; images must come from Views."
        )
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "images": (IMAGES, {"tooltip": "From Prepare Image."}),
                "pipeline_type": ([TYPE_FROM_MODEL, *PIPELINE_TYPES], {"default": TYPE_FROM_MODEL, "tooltip": kind}),
                "seed": SEED,
                "steps": steps(),
                "max_tokens": TOKENS,
                "batch_is": ([OBJECTS, VIEWS], {"default": OBJECTS, "tooltip": batch}),
                "view_mode": (list(VIEW_MODES), {"default": "average", "tooltip": mode}),
            },
            "optional": {
                "step_cache": STEP_CACHE,
                "guidance_structure": guidance(7.5),
                "guidance_shape": guidance(7.5),
                "guidance_texture": guidance(1.0),
                "view_temperature": VIEW_SHARPNESS,
                "fov": FIELD_OF_VIEW,
            },
        }

    def generate(
        self,
        pipeline: Pipeline,
        images: PreparedImages,
        pipeline_type: str,
        seed: int,
        steps: int,
        max_tokens: int,
        batch_is: str,
        view_mode: str,
        step_cache: bool = False,
        guidance_structure: float = FROM_MODEL,
        guidance_shape: float = FROM_MODEL,
        guidance_texture: float = FROM_MODEL,
        view_temperature: float = VIEW_TEMPERATURE,
        fov: float = 0.0,
    ) -> tuple[list[Mesh], list[VoxelField | None]]:
        def show(stage: str, result: SparseStructure | ShapeLatent) -> None:
            host.show(lambda: picture_of(result), (STAGES.index(stage) + 1) / len(STAGES))

        images = expect(images, IMAGES)
        expect(pipeline, PIPELINE)
        objects, mode = guiding_pictures(pipeline, images, batch_is, view_mode, view_temperature, fov)
        strengths = map(override, (guidance_structure, guidance_shape, guidance_texture))
        assets = (
            pipeline.guided(*strengths)
            .watched(show)
            .run(
                objects,
                pipeline_type=None if pipeline_type == TYPE_FROM_MODEL else pipeline_type,
                seed=seed,
                steps=steps,
                max_tokens=max_tokens,
                view_mode=mode,
                step_cache=step_cache,
                progress=host.staged_progress(STAGES),
            )
        )
        return [host.at_rest(asset.mesh) for asset in assets], [host.at_rest(asset.field) for asset in assets]
