"""Where the object is: the sparse structure."""

from __future__ import annotations

from typing import Any

from ..trellis2.pipeline import Pipeline
from ..trellis2.values import ImageCondition, SparseStructure
from . import host
from .sockets import CONDITION, PIPELINE, STRUCTURE, SamplerSettings, expect
from .widgets import CATEGORY, SEED, configured, guidance, settings, steps


class SampleStructure:
    CATEGORY = CATEGORY
    DESCRIPTION = "Samples which voxels of a coarse grid the object occupies."
    FUNCTION = "sample"
    RETURN_TYPES = (STRUCTURE,)
    RETURN_NAMES = ("structure",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        grid = "Voxels a side. 32: for 512 surfaces and every cascade (published). 64: for 1024 without a cascade."
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "condition": (CONDITION, {"tooltip": "From Image Condition."}),
                "seed": SEED,
                "steps": steps(),
                "guidance": guidance(7.5),
                "grid": (["32", "64"], {"default": "32", "tooltip": grid}),
            },
            "optional": {"sampler": settings()},
        }

    def sample(
        self,
        pipeline: Pipeline,
        condition: ImageCondition,
        seed: int,
        steps: int,
        guidance: float,
        grid: str,
        sampler: SamplerSettings | None = None,
    ) -> tuple[SparseStructure]:
        expect(pipeline, PIPELINE)
        structure = pipeline.sample_structure(
            expect(condition, CONDITION),
            seed=seed,
            resolution=int(grid),
            sampler=configured(pipeline.config.sparse_structure_sampler, steps, guidance, sampler),
            progress=host.progress(),
        )
        return (structure,)
