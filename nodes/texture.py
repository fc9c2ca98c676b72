"""The texture latent: materials on the shape's voxels."""

from __future__ import annotations

from typing import Any

from ..trellis2.pipeline import Pipeline
from ..trellis2.values import ImageCondition, ShapeLatent, TextureLatent
from . import host
from .sockets import CONDITION, PIPELINE, SHAPE, TEXTURE, SamplerSettings, expect
from .widgets import CATEGORY, SEED, configured, guidance, settings, steps


class SampleTexture:
    CATEGORY = CATEGORY
    DESCRIPTION = "Samples colour, metallic, roughness and opacity for a shape."
    FUNCTION = "sample"
    RETURN_TYPES = (TEXTURE,)
    RETURN_NAMES = ("texture",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "condition": (CONDITION, {"tooltip": "From Image Condition."}),
                "shape": (SHAPE, {"tooltip": "From Sample Shape or Shape Cascade."}),
                "seed": SEED,
                "steps": steps(),
                "guidance": guidance(1.0),
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
        sampler: SamplerSettings | None = None,
    ) -> tuple[TextureLatent]:
        expect(pipeline, PIPELINE)
        texture = pipeline.sample_texture(
            expect(condition, CONDITION),
            expect(shape, SHAPE),
            seed=seed,
            sampler=configured(pipeline.config.tex_slat_sampler, steps, guidance, sampler),
            progress=host.progress(),
        )
        return (texture,)
