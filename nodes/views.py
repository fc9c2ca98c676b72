"""Nodes of several views of one object: which side each picture shows, and whether they fit together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..o_voxel.core.progress import Progress, scaled
from ..trellis2.image import AUTO, from_comfy, prepare_image, to_comfy
from ..trellis2.image.check_views import DEFAULT_FOV, check_views, matte_of
from ..trellis2.image.views import NAMED_VIEWS, parse_direction
from . import host
from .image import PREVIEW_SIZE, cut_all
from .sockets import ANY_IMAGES, IMAGES, PreparedImages, expect
from .widgets import IMAGE_GROUP


class Views:
    """Directions as `ViewDirection`: azimuth 90 is the object's own left side."""

    CATEGORY = IMAGE_GROUP
    DESCRIPTION = (
        "Says from which side each picture of one object was taken. With view_mode blend, Image Condition and Image to "
        "3D then let every voxel follow the views that see it."
    )
    FUNCTION = "collect"
    RETURN_TYPES = (IMAGES, "IMAGE")
    RETURN_NAMES = ("images", "preview")
    OUTPUT_TOOLTIPS = (
        "The prepared views with their directions, of one object, for Image Condition or Image to 3D.",
        "What was cut out, 512 pixels a side, in the order of the sockets.",
    )
    SEARCH_ALIASES = ("multi view", "multiview", "front back left right", "several views", "azimuth", "turnaround")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        seen = {
            "front": "the front; the mesh's front is at -y, a GLB's at +z",
            "back": "the back, azimuth 180",
            "left": "the object's own left side, azimuth 90: its front points to the picture's left",
            "right": "the object's own right side, azimuth 270: its front points to the picture's right",
            "top": "above, elevation 90, its front towards the picture's lower edge",
            "bottom": "below, elevation -90",
        }
        how = "Prepared, or a picture that is prepared here by its alpha, else from a plain background."
        sides = {side: (ANY_IMAGES, {"tooltip": f"One picture from {about}. {how}"}) for side, about in seen.items()}
        angles = (
            "Azimuth and elevation in degrees of every picture of more, separated by semicolons: 45 20; 135 20. "
            "Azimuth 0 is the front, 90 the object's left, 180 the back, 270 its right."
        )
        elevation = "Height of the cameras of front, back, left and right above the horizon, in degrees."
        return {
            "required": {},
            "optional": {
                **sides,
                "more": (ANY_IMAGES, {"tooltip": f"Further pictures, a batch, from more_angles. {how}"}),
                "more_angles": ("STRING", {"default": "", "tooltip": angles}),
                "elevation": ("FLOAT", {"default": 0.0, "min": -89.0, "max": 89.0, "step": 1.0, "tooltip": elevation}),
            },
        }

    def collect(self, more: Any = None, more_angles: str = "", elevation: float = 0.0, **sides: Any) -> dict[str, Any]:
        images, cuts, directions, lines = [], [], [], []
        given = {name: value for name, value in {**sides, "more": more}.items() if value is not None}
        report, share = host.progress(), 1 / max(len(given), 1)
        reports = {name: scaled(report, index * share, share) for index, name in enumerate(given)}
        for side, named in NAMED_VIEWS.items():
            if side not in given:
                continue
            found, texts = _any_prepared(given[side], side, reports[side])
            if len(found.images) != 1:
                raise ValueError(f"{side}: expected one picture, got {len(found.images)}; connect a batch to more")
            level = named if named.elevation_deg else replace(named, elevation_deg=elevation)
            images, directions, lines = [*images, *found.images], [*directions, level], [*lines, *texts]
            cuts += found.cuts or [None]
        angles = [parse_direction(part) for part in more_angles.replace("\n", ";").split(";") if part.strip()]
        found, texts = (PreparedImages(()), []) if more is None else _any_prepared(more, "more", reports["more"])
        count = len(found.images)
        if count != len(angles):
            raise ValueError(f"more_angles: expected {count} directions, one a picture of more, got {len(angles)}")
        images, directions, lines = [*images, *found.images], [*directions, *angles], [*lines, *texts]
        cuts += found.cuts or [None] * count
        if not images:
            raise ValueError("Views: expected at least one picture, got none; connect front or more")
        host.show_text(lines)
        views = PreparedImages(tuple(images), tuple(directions), None if None in cuts else tuple(cuts))
        return {"ui": {"text": lines}, "result": (views, to_comfy(images, PREVIEW_SIZE))}


def _any_prepared(value: Any, name: str, progress: Progress) -> tuple[PreparedImages, list[str]]:
    """The pictures of an ANY_IMAGES socket, prepared if they are not yet, and what was cut."""
    if isinstance(value, Tensor):
        cuts, lines = cut_all(from_comfy(value), AUTO, name, progress)
        return PreparedImages(tuple(map(prepare_image, cuts)), cuts=tuple(cuts)), lines
    return expect(value, IMAGES), []


class CheckViews:
    CATEGORY = IMAGE_GROUP
    DESCRIPTION = (
        "Checks that the outlines of named views fit one object: says how much of each the others explain, which views "
        "are swapped, and which is mirrored or from another side."
    )
    FUNCTION = "check"
    RETURN_TYPES = (IMAGES, "STRING", "IMAGE")
    RETURN_NAMES = ("images", "report", "picture")
    OUTPUT_TOOLTIPS = (
        "The views as they came in; nothing is corrected.",
        "The share of each outline that the other views explain, what is wrong, and what outlines cannot tell.",
        "The outlines in the order of the views: light what the other views explain, orange what they do not.",
    )
    SEARCH_ALIASES = (
        "swapped views",
        "multi view check",
        "visual hull",
        "rig check",
        "silhouette",
        "left right swapped",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        fov = (
            "Field of view of the pictures before they were cropped, in degrees, roughly. Drawn turnarounds: 5. It is "
            "by perspective that front and back differ."
        )
        return {
            "required": {
                "images": (IMAGES, {"tooltip": "Two views or more, from Views. About 3 seconds for four."}),
                "fov": ("FLOAT", {"default": DEFAULT_FOV, "min": 1.0, "max": 90.0, "step": 1.0, "tooltip": fov}),
            }
        }

    def check(self, images: PreparedImages, fov: float) -> dict[str, Any]:
        views = expect(images, IMAGES)
        if views.directions is None:
            raise ValueError("images: expected views with their sides, got pictures without; connect Views (TRELLIS.2)")
        mattes = [matte_of(image) for image in views.images]
        found = check_views(mattes, views.directions, fov, progress=host.progress())
        lines = found.lines()
        host.show_text(lines)
        return {"ui": {"text": lines}, "result": (views, "\n".join(lines), found.pictures.float() / 255)}
