"""The shape latent, and its refinement to a higher resolution."""

from __future__ import annotations

from typing import Any

from ..trellis2.pipeline import Pipeline
from ..trellis2.values import ImageCondition, ShapeLatent, SparseStructure
from . import host
from .sockets import CONDITION, PIPELINE, SHAPE, STRUCTURE, SamplerSettings, expect
from .widgets import CATEGORY, OWN_TYPE, SEED, TOKENS, configured, guidance, settings, steps

RESOLUTIONS = [OWN_TYPE, "1024", "1536", "2048"]


class SampleShape:
    CATEGORY = CATEGORY
    DESCRIPTION = "Samples the shape on the structure's voxels: 512 from a 32 grid, 1024 from a 64 grid."
    FUNCTION = "sample"
    RETURN_TYPES = (SHAPE,)
    RETURN_NAMES = ("shape",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "condition": (CONDITION, {"tooltip": "From Image Condition."}),
                "structure": (STRUCTURE, {"tooltip": "From Sample Structure."}),
                "seed": SEED,
                "steps": steps(),
                "guidance": guidance(7.5),
            },
            "optional": {"sampler": settings()},
        }

    def sample(
        self,
        pipeline: Pipeline,
        condition: ImageCondition,
        structure: SparseStructure,
        seed: int,
        steps: int,
        guidance: float,
        sampler: SamplerSettings | None = None,
    ) -> tuple[ShapeLatent]:
        expect(pipeline, PIPELINE)
        shape = pipeline.sample_shape(
            expect(condition, CONDITION),
            expect(structure, STRUCTURE),
            seed=seed,
            sampler=configured(pipeline.config.shape_slat_sampler, steps, guidance, sampler),
            progress=host.progress(),
        )
        return (shape,)


class CascadeShape:
    CATEGORY = CATEGORY
    DESCRIPTION = "Samples the shape again on the finer voxels that the coarse shape predicts."
    FUNCTION = "sample"
    RETURN_TYPES = (SHAPE,)
    RETURN_NAMES = ("shape",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        resolution = (
            "Voxels a side of the final surface. The model's own: 1024 of the published one; of the built-in mini, "
            "which knows 512 only, the shape as it came in. Tokens, and with them time and memory, grow about 2x from "
            "1024 to 1536 and 4x to 2048."
        )
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "condition": (CONDITION, {"tooltip": "From Image Condition, with 1024 tokens."}),
                "shape": (SHAPE, {"tooltip": "From Sample Shape."}),
                "seed": SEED,
                "steps": steps(),
                "guidance": guidance(7.5),
                "resolution": (RESOLUTIONS, {"default": OWN_TYPE, "tooltip": resolution}),
                "max_tokens": TOKENS,
            },
            "optional": {"sampler": settings()},
        }

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
        sampler: SamplerSettings | None = None,
    ) -> tuple[ShapeLatent]:
        own = expect(pipeline, PIPELINE).pipeline_type(None).cascade
        target = own if resolution == OWN_TYPE else int(resolution)
        if target is None:
            return (expect(shape, SHAPE),)
        finer = pipeline.cascade_shape(
            expect(condition, CONDITION),
            expect(shape, SHAPE),
            seed=seed,
            resolution=target,
            max_tokens=max_tokens,
            sampler=configured(pipeline.config.shape_slat_sampler, steps, guidance, sampler),
            progress=host.progress(),
        )
        return (finer,)
