"""The pictures of an object as Pixal3D's encoder and upsampler take them, with the cameras that took them.

One picture is cropped about the object with a margin. Views keep their framing, which is the camera's; those of a rig
are all cropped alike about their centres, so that the largest silhouette leaves the margin. Letters: V views, S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...o_voxel.core.checks import check_tensor
from ..image.prepare import OBJECT_ALPHA, check_rgb, prepare_image, resized, unit_array
from .camera import MARGIN, ViewRig


@dataclass(frozen=True)
class Upsampling:
    """Pixels a side of the feature map that a stage reads beside the patches: the published settings."""

    shape_512: int = 512
    shape_1024: int = 512
    texture_512: int = 512
    texture_1024: int = 1024


@dataclass(frozen=True, eq=False)
class ViewProjection:
    """What projecting needs beside image tokens, of B objects with V views each.

    pictures_512, pictures_1024: [B, V, 3, S, S] fp32, RGB from 0 to 1 on black; the second one is None if only the 512
    models run.  cameras: [B, V, 4, 4] fp32, see `camera`.  fov: [B, V] fp32 radians, horizontal.
    """

    pictures_512: Tensor
    pictures_1024: Tensor | None
    cameras: Tensor
    fov: Tensor
    upsampling: Upsampling = Upsampling()

    def __post_init__(self) -> None:
        items, views = check_tensor(self.fov, "fov", (None, None), torch.float32).shape
        check_tensor(self.cameras, "cameras", (items, views, 4, 4), torch.float32)
        for name in ("pictures_512", "pictures_1024"):
            if getattr(self, name) is not None:
                check_tensor(getattr(self, name), name, (items, views, 3, None, None), torch.float32)

    def pictures(self, image_size: int) -> Tensor:
        """Returns [B, V, 3, S, S], those of 512, or of 1024 for any other size. Raises ValueError if there are none."""
        found = self.pictures_512 if image_size == 512 else self.pictures_1024
        if found is None:
            raise ValueError("condition: expected pictures at 1024, got them at 512 only; set tokens to 1024")
        return found


def view_pictures(
    images: Sequence[Image.Image], rig: ViewRig, sizes: Sequence[int]
) -> tuple[dict[int, Tensor], Tensor, Tensor]:
    """Returns ({S: pictures [V, 3, S, S] fp32 from 0 to 1}, cameras [V, 4, 4], fields of view [V]) of an object's
    views.

    images: RGBA cut-outs, of any shape, which are framed here; or RGB on black, square and framed already.
    Raises ValueError for other modes, nothing opaque, or views without a camera.
    """
    rig.check(len(images))
    zoom = 1.0
    if len(images) == 1 and rig.poses is None:
        image = prepare_image(images[0], margin=MARGIN) if images[0].mode == "RGBA" else images[0]
        check_rgb(image, "image")
        framed = [image]
    else:
        framed = [_square(image) if image.mode == "RGBA" else image for image in images]
        if rig.poses is None and all(image.mode == "RGBA" for image in framed):
            zoom = MARGIN * max(map(_reach, framed))
            framed = [_zoomed(image, zoom) for image in framed]
    pictures = {size: torch.stack([_premultiplied(image, size) for image in framed]) for size in sizes}
    return pictures, *rig.cameras(len(images), zoom)


def _premultiplied(image: Image.Image, size: int) -> Tensor:
    """Returns [3, size, size] fp32. Colours are multiplied by alpha after the resize, and not rounded to bytes."""
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(f"image: expected RGBA, or RGB as from prepare_image, got mode {image.mode}")
    values = torch.from_numpy(unit_array(resized(image, size))).permute(2, 0, 1)
    return (values[:3] * values[3:] if len(values) == 4 else values).contiguous()


def _square(image: Image.Image) -> Image.Image:
    """The picture in the middle of a square that is transparent around it: its centre is where the camera looks."""
    side = max(image.size)
    if min(image.size) == side:
        return image
    square = Image.new("RGBA", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _reach(image: Image.Image) -> float:
    """How far the object reaches from the middle of a square picture: 1 where it touches the border."""
    inside = np.asarray(image)[:, :, 3] > OBJECT_ALPHA
    places = np.concatenate([np.flatnonzero(inside.any(axis=axis)) for axis in (0, 1)])
    if places.size == 0:
        raise ValueError(f"image: no pixel has alpha above {OBJECT_ALPHA} of 255: everything is transparent")
    middle = image.width / 2
    return max(middle - places.min(), places.max() + 1 - middle) / middle


def _zoomed(image: Image.Image, zoom: float) -> Image.Image:
    """The square of `zoom` times the side about the middle; transparent where that lies outside of the picture."""
    middle, half = image.width / 2, image.width * zoom / 2
    low, high = round(middle - half), round(middle + half)
    return image.crop((low, low, high, high))
