"""The node that puts a picture onto the texture of what it shows."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from ..o_voxel.bake.projection import MOST_APART, FitOptions, Picture, ProjectOptions, overlay, project_found
from ..o_voxel.bake.projection.light import ColorMatch
from ..o_voxel.core.progress import scaled
from ..o_voxel.material import TexturedMesh
from ..o_voxel.values import Mesh
from ..trellis2.image.cut_out import AUTO
from . import host
from .image import BACKGROUND, OBJECT, cut_pictures
from .sockets import ANY_MESH, TEXTURED_MESH, textured
from .widgets import ASSET_GROUP

FIND, GIVEN = "find", "as given below"
STRENGTH = "Share of the picture's colour where it is seen best; it fades with the angle. 0: nothing changes."
LARGEST = ["as the texture is", "2048", "4096", "8192"]


class ProjectPicture:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = (
        "Puts the picture's own detail, small text too, on the texture of what the picture shows. Finds the camera by "
        "outline and colours; changes nothing if the picture does not fit."
    )
    FUNCTION = "project"
    RETURN_TYPES = (TEXTURED_MESH, "IMAGE", "STRING")
    RETURN_NAMES = ("textured_mesh", "preview", "fit")
    OUTPUT_TOOLTIPS = (
        "The mesh with a new base colour; shape, texture coordinates and other maps are the very same.",
        "The pictures with the outline of the mesh as the found cameras see it, 512 pixels a side.",
        "Each camera in degrees, the overlap of the outlines, and whether it was used.",
    )
    SEARCH_ALIASES = ("project texture", "camera projection", "image to texture", "sharpen texture", "detail", "decal")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        def number(default: float, low: float, high: float, tooltip: str, step: float = 1.0) -> tuple[str, dict]:
            about = {"default": default, "min": low, "max": high, "step": step, "tooltip": tooltip, "advanced": True}
            return ("FLOAT", about)

        mesh = "With texture coordinates that do not overlap: from Game-Ready Asset, Bake Textures or Unwrap."
        image = (
            "The picture that the mesh was made from, as large as you have it; a batch: several views, each with its "
            "own camera. For views with known cameras chain this node."
        )
        camera = (
            "find: azimuth, elevation and position from the picture, about 5 seconds on a CPU. as given below: azimuth "
            "and elevation are yours, the position is found."
        )
        match = (
            "light: the picture's light, as far as it depends on the surface's direction, is taken out. exposure: only "
            "its brightness. local: large patches keep the texture's colour, detail is the picture's. none: as it is."
        )
        marks = "Meaning of white in the mask: the background (Load Image) or the object (most removers)."
        largest = "Texels a side up to which the texture is enlarged where the picture is finer. Costs memory and file."
        apart = (
            "Greatest mean distance between the outlines of mesh and mask, % of the picture's side; beyond it nothing "
            "is put. Raise it for a rough mesh of the right object."
        )
        return {
            "required": {
                "textured_mesh": (ANY_MESH, {"tooltip": mesh}),
                "image": ("IMAGE", {"tooltip": image}),
                "mask_marks": ([BACKGROUND, OBJECT], {"default": BACKGROUND, "tooltip": marks}),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": STRENGTH}),
                "color_match": (list(get_args(ColorMatch)), {"default": "light", "tooltip": match}),
                "max_texture": (LARGEST, {"default": "4096", "tooltip": largest}),
                "camera": ([FIND, GIVEN], {"default": FIND, "tooltip": camera}),
                "azimuth_deg": number(
                    0.0, -180.0, 180.0, "Degrees around the vertical; 0: the front, 90: its +x side."
                ),
                "elevation_deg": number(20.0, -90.0, 90.0, "Degrees above the horizon."),
                "fov_deg": number(0.0, 0.0, 120.0, "Field of view of the object's crop in degrees; 0: found, roughly."),
                "feather": number(1.2, 0.0, 20.0, "Blend at outlines and hidden parts, % of the picture's side.", 0.1),
                "min_overlap": number(
                    0.8, 0.0, 1.0, "Least overlap (IoU) of mesh and mask; below, nothing is put.", 0.01
                ),
            },
            "optional": {
                "mask": ("MASK", {"tooltip": "The matte, one for each image. None: alpha, else cut out."}),
                "max_apart": number(100 * MOST_APART, 0.0, 100.0, apart, 0.1),
            },
        }

    def project(
        self,
        textured_mesh: Mesh | TexturedMesh,
        image: Tensor,
        mask_marks: str,
        strength: float,
        color_match: str,
        max_texture: str,
        camera: str,
        azimuth_deg: float,
        elevation_deg: float,
        fov_deg: float,
        feather: float,
        min_overlap: float,
        mask: Tensor | None = None,
        max_apart: float = 100 * MOST_APART,
    ) -> dict[str, Any]:
        target = textured(textured_mesh)
        if target.uv is None:
            raise ValueError("textured_mesh: expected texture coordinates, got none; put Unwrap before this node")
        if camera == GIVEN and len(image) > 1:
            raise ValueError(f"image: expected one picture for a given camera, got {len(image)}; chain this node")
        report = host.progress()
        cuts, lines = cut_pictures(image, mask_marks, mask, AUTO, scaled(report, 0.0, 0.1))
        pictures = [Picture.cropped(torch.from_numpy(np.array(cut))) for cut in cuts]
        azimuth, elevation = (azimuth_deg, elevation_deg) if camera == GIVEN else (None, None)
        options = ProjectOptions(
            strength=strength,
            color_match=color_match,
            feather=feather / 100,
            max_texture=0 if max_texture == LARGEST[0] else int(max_texture),
        )
        fitting = FitOptions(azimuth, elevation, fov_deg or None, min_overlap, max_apart / 100)
        target = host.at_work(target)
        made, fits = project_found(
            target, pictures, fitting, options, on_warning=lines.append, progress=scaled(report, 0.1, 0.9)
        )
        lines = [fit.line() for fit in fits] + lines
        host.show_text(lines)
        drawn = [
            overlay(target.mesh, picture.to(target.mesh.vertices.device), fit.camera)
            for picture, fit in zip(pictures, fits, strict=True)
        ]
        preview = host.at_rest(torch.stack(drawn).float() / 255)
        made = textured(textured_mesh) if made is target else made
        return {"ui": {"text": lines}, "result": (host.at_rest(made), preview, "\n".join(lines))}
