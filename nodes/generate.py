"""Everything in one node."""

from __future__ import annotations

from typing import Any

from ..o_voxel.values import Mesh, VoxelField
from ..trellis2.pipeline import PIPELINE_TYPES, Pipeline
from ..trellis2.values import VIEW_MODES
from . import host
from .condition import OBJECTS, VIEWS
from .sockets import IMAGES, MESH, PIPELINE, VOXELS, PreparedImages, expect
from .widgets import CATEGORY, OWN_TYPE, SEED, STEP_CACHE, TOKENS, steps

STAGES = ("condition", "structure", "shape", "cascade", "texture", "decode")


class ImageTo3D:
    """The same calls as the separate nodes, with the checkpoint's settings."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Pictures to meshes with materials in one node. The separate nodes redo only what you change."
    FUNCTION = "generate"
    RETURN_TYPES = (MESH, VOXELS)
    RETURN_NAMES = ("mesh", "voxels")
    OUTPUT_IS_LIST = (True, True)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        kind = (
            "Voxels a side of the surface. The model's own: 1024_cascade of the published one, 512 of the built-in "
            "mini, which has no other. A cascade samples at 512 first, then finer: sharper and the published way; "
            "plain 1024 samples once from a 64 grid. On a data-centre card about 3 s, 8 s, 17 s and 60 s from 512 up."
        )
        batch = "Whether a batch of pictures is that many objects, or one object seen from several sides."
        mode = "How several views guide the sampling: average follows all at every step, cycle takes turns."
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "images": (IMAGES, {"tooltip": "From Prepare Image."}),
                "pipeline_type": ([OWN_TYPE, *PIPELINE_TYPES], {"default": OWN_TYPE, "tooltip": kind}),
                "seed": SEED,
                "steps": steps(),
                "max_tokens": TOKENS,
                "batch_is": ([OBJECTS, VIEWS], {"default": OBJECTS, "tooltip": batch}),
                "view_mode": (list(VIEW_MODES), {"default": "average", "tooltip": mode}),
            },
            "optional": {"step_cache": STEP_CACHE},
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
    ) -> tuple[list[Mesh], list[VoxelField | None]]:
        pictures = expect(images, IMAGES).images
        assets = expect(pipeline, PIPELINE).run(
            [pictures] if batch_is == VIEWS else [(picture,) for picture in pictures],
            pipeline_type=None if pipeline_type == OWN_TYPE else pipeline_type,
            seed=seed,
            steps=steps,
            max_tokens=max_tokens,
            view_mode=view_mode,
            step_cache=step_cache,
            progress=host.staged_progress(STAGES),
        )
        return [host.at_rest(asset.mesh) for asset in assets], [host.at_rest(asset.field) for asset in assets]
