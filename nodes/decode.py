"""Latents to surfaces with materials."""

from __future__ import annotations

from typing import Any

from ..o_voxel.values import Mesh, VoxelField
from ..trellis2.pipeline import Pipeline
from ..trellis2.values import ShapeLatent, TextureLatent
from . import host
from .sockets import MESH, PIPELINE, SHAPE, TEXTURE, VOXELS, expect
from .widgets import CATEGORY


class DecodeMesh:
    """A batch comes out as lists, which ComfyUI feeds to the following nodes one object at a time."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Decodes the shape to a surface and the texture to materials on its voxels."
    FUNCTION = "decode"
    RETURN_TYPES = (MESH, VOXELS)
    RETURN_NAMES = ("mesh", "voxels")
    OUTPUT_IS_LIST = (True, True)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "shape": (SHAPE, {"tooltip": "From Sample Shape or Shape Cascade."}),
            },
            "optional": {
                "texture": (TEXTURE, {"tooltip": "From Sample Texture, of this same shape. Without it: no materials."})
            },
        }

    def decode(
        self, pipeline: Pipeline, shape: ShapeLatent, texture: TextureLatent | None = None
    ) -> tuple[list[Mesh], list[VoxelField | None]]:
        known = None if texture is None else expect(texture, TEXTURE)
        assets = expect(pipeline, PIPELINE).decode(expect(shape, SHAPE), known, progress=host.progress())
        return [host.at_rest(asset.mesh) for asset in assets], [host.at_rest(asset.field) for asset in assets]
