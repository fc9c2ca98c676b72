"""Nodes from images to conditions: examples, crop and matte, image tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..o_voxel.core.progress import Progress, in_background, scaled
from ..trellis2.image import ALPHA, AUTO, BACKGROUNDS, BackgroundError, cut_out, from_comfy, prepare_image, to_comfy
from ..trellis2.image.comfy import PLACEHOLDER_SIDE
from ..trellis2.image.views import VIEW_TEMPERATURE, ViewBlend
from ..trellis2.pipeline import Pipeline
from ..trellis2.projection.camera import FOV_DEG, MOST_FOV, VIEWS_FOV_DEG, ViewRig
from ..trellis2.sampling.cropped import sided_mode
from ..trellis2.values import VIEW_MODES, ImageCondition
from . import host
from .sockets import CONDITION, IMAGES, PIPELINE, PreparedImages, expect
from .widgets import IMAGE_GROUP, chosen, number_override

PICTURES = host.ROOT / "assets" / "images"
BACKGROUND, OBJECT = "background (Load Image)", "object (Remove Background)"
TOKENS = ["1024", "512"]
OBJECTS, VIEWS = "separate objects", "views of one object"
PREVIEW_SIZE = 512
CUT_SECONDS = 2.0  # to cut out a picture of 1024 pixels a side on two cores; rembg takes longer
VIEWS_SUFFIX = " views"
VIEW_SHARPNESS = (
    "FLOAT",
    {
        "default": VIEW_TEMPERATURE,
        "min": 0.01,
        "max": 10.0,
        "step": 0.05,
        "advanced": True,
        "tooltip": "Of view_mode blend, no unit. Low: a voxel follows the view that sees it best. High: as average.",
    },
)
FIELD_OF_VIEW = (
    "FLOAT",
    {
        "default": 0.0,
        "min": 0.0,
        "max": MOST_FOV,
        "step": 0.01,
        "tooltip": "For Pixal3D models only, ignored by others: horizontal field of view of the camera, in degrees, or "
        f"a wire from MoGe Geometry to FOV (horizontal, degrees). 0: {FOV_DEG:g} for one picture, {VIEWS_FOV_DEG:g} "
        "for views. Generated and product pictures often have 12 to 20; a wrong one stretches the depth.",
    },
)
HINT = (
    "Connect a MASK to mask (Load Image's for a PNG with transparency, or that of core's Remove Background with "
    "mask_marks set to object), or set background to rembg"
)


class ExampleImage:
    """Has the outputs of Load Image for the same file; a strip of square views becomes a batch."""

    CATEGORY = IMAGE_GROUP
    DESCRIPTION = (
        "Loads one of the pack's example images: cut out, a photo, or four views of one object. Replace it with Load "
        "Image to use your own."
    )
    FUNCTION = "load"
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "mask")
    OUTPUT_TOOLTIPS = ("The picture, RGB.", "Its background, white, as Load Image gives it.")
    SEARCH_ALIASES = ("sample image", "test image", "demo image", "load image")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        about = "photo: on a plain background, without transparency. views: a batch of four sides. Else transparent."
        return {"required": {"picture": (sorted(example_pictures()), {"default": "teapot", "tooltip": about})}}

    def load(self, picture: str) -> tuple[Tensor, Tensor]:
        with Image.open(example_pictures()[picture]) as file:
            opaque = "A" not in file.getbands()
            whole = file.convert("RGBA")
        side = whole.height
        views = max(1, whole.width // side) if picture.endswith(VIEWS_SUFFIX) else 1
        images = [whole.crop((side * k, 0, side * (k + 1), side)) for k in range(views)] if views > 1 else [whole]
        if opaque:  # as Load Image does for a file without alpha
            mask = torch.zeros(len(images), PLACEHOLDER_SIDE, PLACEHOLDER_SIDE)
        else:
            mask = torch.stack([1 - torch.from_numpy(np.array(image.getchannel("A"))) / 255 for image in images])
        return to_comfy([image.convert("RGB") for image in images]), mask


def example_pictures() -> dict[str, Path]:
    """Returns the files of the example pictures by name."""
    found = (path for path in PICTURES.iterdir() if path.suffix in (".png", ".jpg", ".webp"))
    return {path.stem.replace("_", " "): path for path in found}


class PrepareImage:
    CATEGORY = IMAGE_GROUP
    DESCRIPTION = (
        "Cuts the object out, by its alpha or mask or from a plain background, and crops it to a square on black, "
        "byte-identical to the reference's preprocessing. The preview shows what was cut."
    )
    FUNCTION = "prepare"
    RETURN_TYPES = (IMAGES, "IMAGE")
    RETURN_NAMES = ("images", "preview")
    OUTPUT_TOOLTIPS = (
        "Cropped pictures on black, for Image Condition or Image to 3D.",
        "What was cut out, 512 pixels a side, to look at.",
    )
    SEARCH_ALIASES = ("remove background", "background", "photo", "matte", "cut out", "mask", "rembg", "crop image")

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
            "optional": {
                "mask": (
                    "MASK",
                    {
                        "tooltip": "The matte: Load Image's MASK, or a remover's; one for each image, of its size. "
                        "Load Image's mask of a file without transparency is ignored."
                    },
                ),
                "background": (
                    list(BACKGROUNDS),
                    {
                        "default": AUTO,
                        "tooltip": "auto: alpha or mask if there is transparency; else a plain background, gradient or "
                        "soft shadow is removed (a few seconds); else rembg, if installed. plain background, rembg: "
                        "alpha and mask are ignored. rembg downloads its model (170 MB) at the first use.",
                    },
                ),
            },
        }

    def prepare(
        self, image: Tensor, mask_marks: str, mask: Tensor | None = None, background: str = AUTO
    ) -> dict[str, Any]:
        cuts, lines = cut_pictures(image, mask_marks, mask, background, host.progress())
        images = [prepare_image(cut) for cut in cuts]
        host.show_text(lines)
        prepared = PreparedImages(tuple(images), cuts=tuple(cuts))
        return {"ui": {"text": lines}, "result": (prepared, to_comfy(images, PREVIEW_SIZE))}


def cut_pictures(
    image: Tensor, mask_marks: str, mask: Tensor | None, background: str, progress: Progress
) -> tuple[list[Image.Image], list[str]]:
    """The pictures of an IMAGE batch as RGBA, cut out as *Prepare Image* does, with its lines on each of them."""
    mask = _matching(mask, image, background)
    alpha = 1 - mask if mask is not None and mask_marks == BACKGROUND else mask
    if background == AUTO and alpha is not None and bool((alpha >= 1).all()):
        alpha = None  # of a file whose alpha channel is opaque: no matte
    return cut_all(from_comfy(image, alpha), background, "image", progress)


def cut_all(
    pictures: list[Image.Image], background: str, name: str, progress: Progress
) -> tuple[list[Image.Image], list[str]]:
    """The RGBA pictures cut out, and what was cut. name: of the input, before the number of a picture."""
    images, lines, share = [], [], 1 / max(len(pictures), 1)
    for index, picture in enumerate(pictures):
        place = f"{name} {index + 1}: " if len(pictures) > 1 else "" if name == "image" else f"{name}: "
        try:
            report = scaled(progress, index * share, share)
            cut = in_background(lambda _, picture=picture: cut_out(picture, background), report, CUT_SECONDS)
        except BackgroundError as error:
            raise BackgroundError(f"{place}{error}. {HINT}") from error
        images.append(cut.image)
        lines.append(f"{place}{cut.used}")
        if cut.warning:
            lines.append(f"{place}not sure: {cut.warning}; look at the preview. {HINT}")
    return images, lines


def _matching(mask: Tensor | None, image: Tensor, background: str) -> Tensor | None:
    """The mask if it belongs to the images. Load Image's placeholder for a file without alpha does not, unless alpha
    alone is asked for, where it raises."""
    if mask is None or background == ALPHA:
        return mask
    if background != AUTO:
        return None
    masks = mask[None] if mask.ndim == 2 else mask
    placeholder = tuple(masks.shape[1:]) == (PLACEHOLDER_SIDE, PLACEHOLDER_SIDE) and not bool(masks.any())
    if placeholder:
        return None
    if masks.shape[1:] != image.shape[1:3]:
        (height, width), (rows, columns) = image.shape[1:3], masks.shape[1:]
        raise ValueError(
            f"mask: expected the size of image, {width}x{height}, got {columns}x{rows}; or disconnect mask"
        )
    if len(masks) != len(image):
        raise ValueError(
            f"mask: expected {len(image)} masks for {len(image)} images, got {len(masks)}: each picture has its own "
            "outline. Batch the masks as the images are; or disconnect mask; or, for one mask over all images, set "
            f"background to {ALPHA}"
        )
    return masks


def view_settings(images: PreparedImages, batch_is: str, mode: str, temperature: float) -> tuple[Any, str | ViewBlend]:
    """Returns (objects, view mode). Pictures with directions are views of one object, whatever batch_is says.

    Raises ValueError for the mode blend without directions.
    """
    pictures, directions = images.images, images.directions
    several = batch_is == VIEWS or directions is not None
    objects = [pictures] if several else [(picture,) for picture in pictures]
    if mode != "blend":
        return objects, mode
    if directions is None:
        raise ValueError(
            "view_mode blend: expected the side that each picture shows, got pictures without; connect Views "
            "(TRELLIS.2) to images, or choose average"
        )
    return objects, ViewBlend(directions, temperature)


def guiding_pictures(
    pipeline: Pipeline, images: PreparedImages, batch_is: str, mode: str, temperature: float, fov: float
) -> tuple[Any, str | ViewBlend | ViewRig]:
    """Returns (objects, view mode) as `view_settings`; for a checkpoint that projects, the pictures before their crop,
    and the cameras as the mode. fov: degrees, 0 for the usual one. Raises ValueError for a mode that it does not have.
    """
    if not pipeline.config.projects:
        objects, mode = view_settings(images, batch_is, mode, temperature)
        if pipeline.config.crop is None or isinstance(mode, ViewBlend):
            return objects, mode
        return objects, sided_mode(mode, images.directions, fov or None)
    pictures, several = images.cuts or images.images, batch_is == VIEWS or images.directions is not None
    objects = [pictures] if several else [(picture,) for picture in pictures]
    # The pipeline says why it cannot blend.
    return objects, ViewRig(fov or None, images.directions) if mode == "average" else mode


class ConditionOnImage:
    CATEGORY = IMAGE_GROUP
    DESCRIPTION = "Encodes images as DINOv3 tokens, the condition of every stage."
    FUNCTION = "condition"
    RETURN_TYPES = (CONDITION,)
    RETURN_NAMES = ("condition",)
    OUTPUT_TOOLTIPS = ("Image tokens, the condition of every stage.",)
    SEARCH_ALIASES = ("dinov3", "image encoder", "encode image", "clip vision", "multi view", "several views")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        batch = "Meaning of a batch: one object per image, or one object seen from several sides."
        mode = (
            "How several views guide the sampling. average: every step uses all views, at the cost of each. cycle: "
            "steps alternate between views, at the cost of one. blend: as average, but each voxel follows the views "
            "that see it; images must come from Views. No effect with one view."
        )
        tokens = "1024: for every resolution. 512: faster, for 512 surfaces only."
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "images": (IMAGES, {"tooltip": "From Prepare Image."}),
                "batch_is": ([OBJECTS, VIEWS], {"default": OBJECTS, "tooltip": batch}),
                "view_mode": (list(VIEW_MODES), {"default": "average", "tooltip": mode}),
                "tokens": (TOKENS, {"default": "1024", "tooltip": tokens, "advanced": True}),
            },
            "optional": {**dict([number_override("tokens")]), "view_temperature": VIEW_SHARPNESS, "fov": FIELD_OF_VIEW},
        }

    def condition(
        self,
        pipeline: Pipeline,
        images: PreparedImages,
        batch_is: str,
        view_mode: str,
        tokens: str,
        tokens_override: int | None = None,
        view_temperature: float = VIEW_TEMPERATURE,
        fov: float = 0.0,
    ) -> tuple[ImageCondition]:
        run, images = expect(pipeline, PIPELINE).condition, expect(images, IMAGES)
        objects, mode = guiding_pictures(pipeline, images, batch_is, view_mode, view_temperature, fov)
        size = int(chosen("tokens", TOKENS, tokens, tokens_override))
        encoded = run(objects, resolution=size, view_mode=mode, progress=host.progress())
        return (host.at_rest(encoded),)
