"""The built-in studio: three soft boxes in a graded room, in closed form, so that metals have something to mirror."""

from __future__ import annotations

from dataclasses import dataclass
from math import asin, cos, pi, radians, sin

import torch
from torch import Tensor

from ..grid import Vector3

SHARPEST_EDGE = 0.035  # blur of a soft box's rim in a perfect mirror, as a tangent
BLUR_PER_ALPHA = 1.3  # how far GGX's alpha spreads a reflection, as a tangent
TERMINATOR = 0.25  # a wide light reaches a little past the horizon of the surface


@dataclass(frozen=True)
class SoftBox:
    """A rectangular light, far away.

    azimuth_deg: from the camera, positive to the picture's right.  elevation_deg: above the horizon.
    half_width, half_height: tangents of its half angles.  color: linear RGB.  intensity: radiance, 1 is paper white.
    """

    azimuth_deg: float
    elevation_deg: float
    half_width: float
    half_height: float
    color: Vector3
    intensity: float

    @property
    def solid_angle(self) -> float:
        """In steradians."""
        a, b = self.half_width, self.half_height
        return 4 * asin(a * b / ((1 + a * a) * (1 + b * b)) ** 0.5)

    def axes(self, yaw_deg: float) -> tuple[Vector3, Vector3, Vector3]:
        """World directions towards the light, along its width and along its height, for a camera at `yaw_deg`."""
        turn, rise = radians(yaw_deg + self.azimuth_deg), radians(self.elevation_deg)
        towards = (sin(turn) * cos(rise), -cos(turn) * cos(rise), sin(rise))
        return towards, (cos(turn), sin(turn), 0.0), (-sin(turn) * sin(rise), cos(turn) * sin(rise), cos(rise))


@dataclass(frozen=True)
class StudioLight:
    """A studio that turns with the camera's yaw, so that every side of a turntable is lit alike.

    key, fill, rim: the lights.  sky, horizon, ground: linear RGB radiance of the room at the top, middle and bottom.
    exposure: factor on everything.
    """

    key: SoftBox = SoftBox(-42, 42, 0.50, 0.62, (1.0, 0.955, 0.89), 5.2)
    fill: SoftBox = SoftBox(62, 18, 0.42, 0.95, (0.86, 0.93, 1.0), 1.7)
    rim: SoftBox = SoftBox(158, 34, 0.75, 0.40, (0.97, 0.98, 1.0), 5.0)
    sky: Vector3 = (0.50, 0.52, 0.55)
    horizon: Vector3 = (0.34, 0.34, 0.35)
    ground: Vector3 = (0.13, 0.125, 0.12)
    exposure: float = 1.0


def _room(light: StudioLight, height: Tensor, softness: Tensor | float) -> Tensor:
    """Radiance [N, 3] of the room without its lights towards directions of z `height` [N], blurred by `softness`."""
    level = height / (height * height + softness * softness).sqrt()
    sky, horizon, ground = (height.new_tensor(c) for c in (light.sky, light.horizon, light.ground))
    return horizon + level.clamp(min=0)[:, None] * (sky - horizon) + (-level).clamp(min=0)[:, None] * (ground - horizon)


def _edge_pair(tangent: Tensor, half: float, blur: Tensor) -> Tensor:
    """A box of half-width `half` convolved with a Gaussian of deviation `blur`, at `tangent`; all [N]."""
    scale = 1 / (blur * 2**0.5)
    return (torch.erf((tangent + half) * scale) - torch.erf((tangent - half) * scale)) / 2


def radiance(light: StudioLight, yaw_deg: float, direction: Tensor, roughness: Tensor) -> Tensor:
    """What a reflection sees [N, 3] linear RGB: unit world directions [N, 3], GGX roughness [N] in 0 to 1.

    The room and its lights are blurred as wide as a GGX lobe is: a box convolved with a Gaussian in the light's
    tangent plane keeps its energy.
    """
    alpha = roughness * roughness
    result = _room(light, direction[:, 2], 0.12 + alpha)
    blur = SHARPEST_EDGE + BLUR_PER_ALPHA * alpha
    for box in (light.key, light.fill, light.rim):
        facing, across, along = ((direction * direction.new_tensor(axis)).sum(dim=1) for axis in box.axes(yaw_deg))
        front = facing.clamp(min=1e-3)
        cover = _edge_pair(across / front, box.half_width, blur) * _edge_pair(along / front, box.half_height, blur)
        cover = cover * (facing / 0.1).clamp(0, 1)
        result = result + cover[:, None] * direction.new_tensor(box.color) * box.intensity
    return result * light.exposure


def irradiance(light: StudioLight, yaw_deg: float, normal: Tensor) -> Tensor:
    """Light on a surface over pi [N, 3] linear RGB, for unit world normals [N, 3]: white paper's colour."""
    result = _room(light, normal[:, 2], 1.0)
    for box in (light.key, light.fill, light.rim):
        facing = (normal * normal.new_tensor(box.axes(yaw_deg)[0])).sum(dim=1)
        cosine = (facing + (facing * facing + TERMINATOR**2).sqrt()) / 2 - TERMINATOR**2 / 4
        power = box.intensity * box.solid_angle / pi
        result = result + cosine.clamp(min=0)[:, None] * normal.new_tensor(box.color) * power
    return result * light.exposure
