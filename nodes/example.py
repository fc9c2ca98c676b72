"""The pack's own pictures, so that a workflow runs before the user has brought one."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..trellis2.image import to_comfy
from . import host
from .widgets import CATEGORY

PICTURES = host.ROOT / "assets" / "images"


class ExampleImage:
    """Outputs what Load Image would for the same file."""

    CATEGORY = CATEGORY
    DESCRIPTION = "One of the pack's example pictures. Replace it with Load Image to use your own."
    FUNCTION = "load"
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "mask")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = sorted(path.stem for path in PICTURES.glob("*.png"))
        return {
            "required": {
                "picture": (names, {"default": "teapot", "tooltip": "A picture with a transparent background."})
            }
        }

    def load(self, picture: str) -> tuple[Tensor, Tensor]:
        with Image.open(PICTURES / f"{picture}.png") as file:
            image = file.convert("RGBA")
        alpha = torch.frombuffer(bytearray(image.getchannel("A").tobytes()), dtype=torch.uint8)
        return to_comfy([image.convert("RGB")]), 1 - alpha.reshape(1, image.height, image.width) / 255
