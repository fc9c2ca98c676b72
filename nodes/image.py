"""Nodes from images to conditions: examples, crop and matte, image tokens."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..trellis2.image import from_comfy, prepare_image, to_comfy
from ..trellis2.pipeline import Pipeline
from ..trellis2.values import VIEW_MODES, ImageCondition
from . import host
from .sockets import CONDITION, IMAGES, PIPELINE, PreparedImages, expect
from .widgets import CATEGORY, chosen, number_override

PICTURES = host.ROOT / "assets" / "images"
BACKGROUND, OBJECT = "background (Load Image)", "object (Remove Background)"
TOKENS = ["1024", "512"]
OBJECTS, VIEWS = "separate objects", "views of one object"
PREVIEW_SIZE = 512


class ExampleImage:
    """Has the outputs of Load Image for the same file."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Loads one of the pack's example images. Replace it with Load Image to use your own."
    FUNCTION = "load"
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "mask")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = sorted(path.stem for path in PICTURES.glob("*.png"))
        return {
            "required": {
                "picture": (names, {"default": "teapot", "tooltip": "An image with a transparent background."})
            }
        }

    def load(self, picture: str) -> tuple[Tensor, Tensor]:
        with Image.open(PICTURES / f"{picture}.png") as file:
            image = file.convert("RGBA")
        alpha = torch.frombuffer(bytearray(image.getchannel("A").tobytes()), dtype=torch.uint8)
        return to_comfy([image.convert("RGB")]), 1 - alpha.reshape(1, image.height, image.width) / 255


class PrepareImage:
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Mattes the object and crops it to a square on black, byte-identical to the reference's preprocessing."
    )
    FUNCTION = "prepare"
    RETURN_TYPES = (IMAGES, "IMAGE")
    RETURN_NAMES = ("images", "preview")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "One image, or a batch. An alpha channel is the matte."}),
                "mask_marks": (
                    [BACKGROUND, OBJECT],
                    {
                        "default": BACKGROUND,
                        "tooltip": "Meaning of white in the mask: the background (Load Image) or the object "
                        "(Remove Background and most segmentation nodes).",
                    },
                ),
            },
            "optional": {"mask": ("MASK", {"tooltip": "The matte. Required for an image without an alpha channel."})},
        }

    def prepare(self, image: Tensor, mask_marks: str, mask: Tensor | None = None) -> tuple[PreparedImages, Tensor]:
        alpha = 1 - mask if mask is not None and mask_marks == BACKGROUND else mask
        images = tuple(prepare_image(picture) for picture in from_comfy(image, alpha))
        return PreparedImages(images), to_comfy(images, PREVIEW_SIZE)


class ConditionOnImage:
    CATEGORY = CATEGORY
    DESCRIPTION = "Encodes images as DINOv3 tokens, the condition of every stage."
    FUNCTION = "condition"
    RETURN_TYPES = (CONDITION,)
    RETURN_NAMES = ("condition",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        batch = "Meaning of a batch: one object per image, or one object seen from several sides."
        mode = (
            "How several views guide the sampling. average: every step uses all views, at the cost of each. cycle: "
            "steps alternate between views, at the cost of one. No effect with one view."
        )
        tokens = "1024: for every resolution. 512: faster, for 512 surfaces only."
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "images": (IMAGES, {"tooltip": "From Prepare Image."}),
                "batch_is": ([OBJECTS, VIEWS], {"default": OBJECTS, "tooltip": batch}),
                "view_mode": (list(VIEW_MODES), {"default": "average", "tooltip": mode}),
                "tokens": (TOKENS, {"default": "1024", "tooltip": tokens}),
            },
            "optional": dict([number_override("tokens")]),
        }

    def condition(
        self,
        pipeline: Pipeline,
        images: PreparedImages,
        batch_is: str,
        view_mode: str,
        tokens: str,
        tokens_override: int | None = None,
    ) -> tuple[ImageCondition]:
        pictures = expect(images, IMAGES).images
        objects = [pictures] if batch_is == VIEWS else [(picture,) for picture in pictures]
        size = int(chosen("tokens", TOKENS, tokens, tokens_override))
        run = expect(pipeline, PIPELINE).condition
        encoded = run(objects, resolution=size, view_mode=view_mode, progress=host.progress())
        return (host.at_rest(encoded),)
