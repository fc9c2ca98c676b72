"""A picture cropped about its object, where only the camera's direction and field of view are known.

How near the camera stood, and to what it pointed, follow from the crop: the object just fills it. So points of the
object say where all others are in the picture. Letters: N and M points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ...o_voxel.core.checks import check_tensor
from .project import Corners, corners, sampled

CLEARANCE = 0.05  # least distance of the camera to the object, in sides of the unit cube
BALL_POINTS = 256


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How flows read a picture where their tokens are in it, see `projection.framing`: mean colours of side^2 parts of
    cells^2 cells, beside the patch's token. pitch_deg, fov_deg: the camera of a picture of which nothing is said."""

    cells: int
    side: int
    pitch_deg: float
    fov_deg: float


# What flows are trained with here, and what the checkpoint's pipeline.json then says.
CROP = CropConfig(cells=64, side=4, pitch_deg=20.0, fov_deg=30.0)


@dataclass(frozen=True)
class OrbitView:
    """yaw_deg: around the vertical, 0 in front (-y), 90 at +x.  pitch_deg: elevation above the horizon.  fov_deg: field
    of view of the crop."""

    yaw_deg: float
    pitch_deg: float
    fov_deg: float

    @property
    def angles(self) -> tuple[float, float, float]:
        """Yaw, pitch and field of view."""
        return self.yaw_deg, self.pitch_deg, self.fov_deg


@dataclass(frozen=True, eq=False)
class CropViews:
    """The crops of B objects with V views each. colors: [B, V, cells^2, 3 side^2] fp32, see `colors`.  views: how each
    one was taken, by object and view."""

    colors: Tensor
    views: tuple[tuple[OrbitView, ...], ...]

    def __post_init__(self) -> None:
        items, views, _, _ = check_tensor(self.colors, "colors", (None,) * 4, torch.float32).shape
        if len(self.views) != items or any(len(own) != views for own in self.views):
            raise ValueError(f"views: expected {views} of each of {items} objects, got {[len(v) for v in self.views]}")


@dataclass(frozen=True, eq=False)
class Frames:
    """How B crops were taken: the cameras of `frames`, in their own axes (right, up, towards the camera).

    axes: [B, 3, 3], rows.  middle: [B, 2], where the line of sight goes through.  eye: [B], how far along it the camera
    is.  center: [B, 2] and side: [B] of the square that was cut out, in slopes. All fp32."""

    axes: Tensor
    middle: Tensor
    eye: Tensor
    center: Tensor
    side: Tensor

    def places(self, points: Tensor, item: Tensor) -> Tensor:
        """Returns where points [N, 3] of the objects item [N] int64 are in their crops: [N, 2] fp32, x to the right and
        y down, from 0 to 1 inside."""
        own = (points.float()[:, None] * self.axes[item]).sum(2)
        place = (self._seen(own, item) - self.center[item]) / self.side[item][:, None]
        return torch.stack([0.5 + place[:, 0], 0.5 - place[:, 1]], dim=1)

    def _seen(self, own: Tensor, item: Tensor) -> Tensor:
        """Slopes [N, 2] at which the cameras see points in their own axes."""
        return (own[:, :2] - self.middle[item]) / (self.eye[item] - own[:, 2]).clamp_min(CLEARANCE)[:, None]


def frames(around: Tensor, owner: Tensor, views: Tensor) -> Frames:
    """The square crops that the points around [M, 3] of the objects owner [M] int64 just fill, seen from views [B, 3],
    yaw, pitch and field of view in degrees, which may be on the CPU: not every device has float64.

    A camera is as near as the crop's longer side allows, and its line of sight goes through the middle of what it sees;
    the shorter side is centred too, as `prepare_image` does.
    """
    yaw, pitch, half = (views.double() * (math.pi / 180)).unbind(1)
    slope, zero = (half / 2).tan().to(around.device, torch.float32), torch.zeros_like(yaw)
    axes = torch.stack(
        [
            torch.stack([yaw.cos(), yaw.sin(), zero], 1),
            torch.stack([-yaw.sin() * pitch.sin(), yaw.cos() * pitch.sin(), pitch.cos()], 1),
            torch.stack([yaw.sin() * pitch.cos(), -yaw.cos() * pitch.cos(), pitch.sin()], 1),
        ],
        1,
    ).to(around.device, torch.float32)

    def largest(values: Tensor) -> Tensor:
        start = values.new_full((len(views), values.shape[1]), -torch.inf)
        return start.scatter_reduce(0, owner[:, None].expand_as(values), values, "amax")

    near = (around.float()[:, None] * axes[owner]).sum(2)
    # (x, y, d), d towards the camera, is seen by one at (0, 0, e) if |x|, |y| <= slope (e - d): so e is known.
    towards = (slope[owner] * near[:, 2])[:, None]
    right, left, up, down, nearest = largest(
        torch.cat(
            [towards + near[:, :1], towards - near[:, :1], towards + near[:, 1:2], towards - near[:, 1:2], near[:, 2:]],
            1,
        )
    ).unbind(1)
    middle = torch.stack([right - left, up - down], 1) / 2
    eye = torch.maximum(torch.maximum(right + left, up + down) / (2 * slope), nearest + CLEARANCE)
    found = Frames(axes, middle, eye, torch.zeros_like(middle), torch.ones_like(eye))
    box = found._seen(near, owner)
    high, low = largest(torch.cat([box, -box], 1)).split(2, 1)
    return replace(found, center=(high - low) / 2, side=(high + low).amax(1).clamp_min(1e-6))


def framed(around: Tensor, view: OrbitView) -> Frames:
    """`frames` of one crop, around the points [M, 3]."""
    owner = torch.zeros(len(around), dtype=torch.int64, device=around.device)
    return frames(around, owner, torch.tensor([view.angles], dtype=torch.float64))


def cropped(points: Tensor, around: Tensor, view: OrbitView) -> Tensor:
    """Where points [N, 3] are in the square crop that the points around [M, 3] just fill: [N, 2], see `Frames.places`.
    World, z up."""
    return framed(around, view).places(points, torch.zeros(len(points), dtype=torch.int64, device=points.device))


def ball() -> Tensor:
    """Points [M, 3] fp32 of the sphere that touches the cube's sides: stands for an object that is not known yet.

    A spiral of equal steps in height (Saff and Kuijlaars 1997)."""
    steps = (torch.arange(BALL_POINTS) + 0.5) / BALL_POINTS
    height, turn = 2 * steps - 1, math.pi * (3 - math.sqrt(5)) * torch.arange(BALL_POINTS)
    ring = (1 - height.square()).sqrt()
    return torch.stack([ring * turn.cos(), ring * turn.sin(), height], dim=1) / 2


def support(points: Tensor) -> Tensor:
    """The points [BALL_POINTS, 3] of points [N, 3] that lie farthest in the directions of `ball`: a crop around them is
    about the crop around all."""
    return points[(points @ ball().to(points).T).argmax(0)]


def colors(pixels: Tensor, cells: int, side: int) -> Tensor:
    """Returns the colours of B pictures [B, 3, S, S] in cells: [B, cells^2, 3 side^2], the means of side x side parts
    of each."""
    means = F.adaptive_avg_pool2d(pixels, cells * side)
    return F.pixel_unshuffle(means, side).flatten(2).transpose(1, 2)


def features(places: Tensor, item: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """Returns the features [N, C] at places [N, 2] in the pictures item [N] int64, side by side of all maps.

    maps: [B, side^2, C_i] each. Between a map's cells they are interpolated, beyond its edges those at the edge.
    """
    found = []
    for values in maps:
        count, side = values.shape[1], math.isqrt(values.shape[1])
        at = corners(places - 0.5, 1, side)
        found.append(sampled(values.flatten(0, 1), Corners(at.pixels + item[:, None] * count, at.weights)))
    return torch.cat(found, dim=1)
