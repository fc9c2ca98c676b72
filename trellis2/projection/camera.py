"""The cameras that Pixal3D's pictures are taken with: field of view, distance, and where each one stands.

A camera looks along its own -z, with +y up, at the unit cube in the z-up frame; a matrix [4, 4] takes its coordinates
to that frame. The canonical one stands at (0, -d, 0), the object's front. Of several views the first one is canonical,
and the others keep their places relative to it, as in training (TencentARC/Pixal3D). Letters: V views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from ..image.views import ViewDirection

# Horizontal fields of view, degrees, where nothing is said: of one picture, of views.
FOV_DEG, VIEWS_FOV_DEG = 49.13, 20.0
LEAST_FOV, MOST_FOV = 1.0, 170.0
# The object's longer side, times this, is the side of a picture.
MARGIN = 1.1
# Distance of a matrix from a rotation that is rounding of a file.
SKEW = 1e-3


@dataclass(frozen=True)
class Pose:
    """A measured camera, as NeRF's transforms.json has it. to_world: four rows of four numbers, z up.  fov_deg:
    horizontal."""

    to_world: tuple[tuple[float, ...], ...]
    fov_deg: float

    def __post_init__(self) -> None:
        check_fov(self.fov_deg)
        matrix = torch.tensor(self.to_world, dtype=torch.float64)
        if matrix.shape != (4, 4) or not matrix.isfinite().all() or matrix[3].tolist() != [0, 0, 0, 1]:
            raise ValueError(f"camera: expected four rows of four numbers, the last 0 0 0 1, got {self.to_world}")
        turn = matrix[:3, :3]
        if (turn @ turn.T - torch.eye(3)).abs().max() > SKEW or torch.det(turn) < 0 or not matrix[:3, 3].any():
            raise ValueError(f"camera: expected a rotation and a place off the centre, got {self.to_world}")


@dataclass(frozen=True)
class ViewRig:
    """How the pictures of an object were taken; a checkpoint without projection ignores it.

    fov_deg: horizontal field of view of the picture that is encoded, degrees; None: FOV_DEG of one picture,
    VIEWS_FOV_DEG of several.  directions: where each of several views was taken from, all at one distance; such views
    are cropped alike to the largest silhouette.  poses: measured cameras instead, whose pictures are not cropped.

    Raises ValueError for a field of view out of range, or for directions and poses together.
    """

    fov_deg: float | None = None
    directions: tuple[ViewDirection, ...] | None = None
    poses: tuple[Pose, ...] | None = None

    def __post_init__(self) -> None:
        if self.fov_deg is not None:
            check_fov(self.fov_deg)
        if self.poses is not None and (self.directions is not None or self.fov_deg is not None):
            raise ValueError("cameras: expected poses, which have fields of view, or directions, got both")

    def check(self, views: int) -> None:
        """Raises ValueError unless there is a camera for each of `views` pictures of an object."""
        known = self.poses if self.poses is not None else self.directions
        if (known is not None or views > 1) and len(known or ()) != views:
            raise ValueError(
                f"views: expected the side that each of {views} pictures was taken from, got {len(known or ())}, since "
                "this checkpoint projects them; connect the Views node to images (generate: --view NAME=FILE)"
            )

    def cameras(self, views: int, zoom: float = 1.0) -> tuple[Tensor, Tensor]:
        """Returns (matrices [V, 4, 4], horizontal fields of view [V] in radians), fp32.

        zoom: share of the pictures' width that was kept when they were cropped about their centre; of one picture,
        and of poses, 1. Raises ValueError as `check`.
        """
        self.check(views)
        if self.poses is not None:
            fov = torch.tensor([math.radians(pose.fov_deg) for pose in self.poses], dtype=torch.float32)
            return relative_to_first(torch.tensor([pose.to_world for pose in self.poses])), fov
        wide = math.radians(self.fov_deg or (FOV_DEG if views == 1 else VIEWS_FOV_DEG))
        angle = 2 * math.atan(zoom * math.tan(wide / 2))
        angles = torch.full((views,), angle, dtype=torch.float32)
        if views == 1:
            return canonical(distance_of(angle))[None], angles
        around = [orbit(direction, MARGIN * distance_of(angle)) for direction in self.directions]
        return relative_to_first(torch.stack(around)), angles


def check_fov(degrees: float) -> None:
    """Raises ValueError for a field of view outside of LEAST_FOV to MOST_FOV degrees."""
    if not LEAST_FOV <= degrees <= MOST_FOV:
        raise ValueError(
            f"fov: expected {LEAST_FOV:g} to {MOST_FOV:g} degrees, got {degrees:g}; degrees, not radians, or leave it "
            "out (in ComfyUI: 0) for the usual one"
        )


@overload
def focal_pixels(fov: float, size: int) -> float: ...


@overload
def focal_pixels(fov: Tensor, size: int) -> Tensor: ...


def focal_pixels(fov: float | Tensor, size: int) -> float | Tensor:
    """Returns the focal length in pixels of a picture `size` pixels a side. fov: radians, horizontal."""
    half = torch.tan(fov / 2) if isinstance(fov, Tensor) else math.tan(fov / 2)
    return size / (2 * half)


def distance_of(fov: float, scale: float = 1.0, size: int = 1, extend: float = 0.0) -> float:
    """Returns the distance at which the cube's side 1 / scale, through its centre, just fills the picture's width.

    size, extend: of a picture `size` pixels a side, `extend` pixels are left beyond it on each side.
    """
    return focal_pixels(fov, size) * (0.5 / scale) / (size / 2 + extend)


def canonical(distance: float) -> Tensor:
    """Returns the matrix [4, 4] fp32 of the camera at (0, -distance, 0)."""
    return orbit(ViewDirection(0.0), distance)


def orbit(direction: ViewDirection, distance: float) -> Tensor:
    """Returns the matrix [4, 4] fp32 of a camera at `distance` that looks at the centre, upright."""
    azimuth = math.radians(direction.azimuth_deg)
    right = torch.tensor([math.cos(azimuth), math.sin(azimuth), 0.0], dtype=torch.float64)
    back = torch.tensor(direction.vector, dtype=torch.float64)
    up = torch.linalg.cross(back, right)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = torch.stack([right, up, back, back * distance], dim=1)
    # Sines of whole turns leave 1e-16 where zeros belong.
    return matrix.round(decimals=12).float()


def relative_to_first(to_world: Tensor | Sequence[Tensor]) -> Tensor:
    """Returns cameras [V, 4, 4] fp32 moved together so that the first is canonical, at its own distance."""
    to_world = torch.as_tensor(to_world, dtype=torch.float32)
    first = canonical(float(to_world[0, :3, 3].norm()))
    return first @ torch.linalg.inv(to_world[0]) @ to_world
