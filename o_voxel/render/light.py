"""Analytic studio lighting: three soft boxes in a gradient environment, with GGX-prefiltered reflections."""

from __future__ import annotations

from dataclasses import dataclass
from math import asin, cos, pi, radians, sin

import torch
from torch import Tensor

from ..core.grid import Vector3
from .vectors import column, dot

SHARPEST_EDGE = 0.035  # blur of a soft box's edge in a perfect mirror, as a tangent
BLUR_PER_ALPHA = 1.0  # spread of a reflection per GGX alpha, as a tangent
TERMINATOR = 0.25  # a wide light reaches slightly past the surface's horizon


@dataclass(frozen=True)
class SoftBox:
    """A rectangular light at infinity.

    azimuth_deg: from the camera, positive to the right of the image.  elevation_deg: above the horizon.
    half_width, half_height: tangents of the half angles.  color: linear RGB.  intensity: radiance, 1 is paper white.
    """

    azimuth_deg: float
    elevation_deg: float
    half_width: float
    half_height: float
    color: Vector3
    intensity: float

    @property
    def solid_angle(self) -> float:
        """Solid angle, steradians."""
        a, b = self.half_width, self.half_height
        return 4 * asin(a * b / ((1 + a * a) * (1 + b * b)) ** 0.5)

    def axes(self, yaw_deg: float) -> tuple[Vector3, Vector3, Vector3]:
        """Returns world directions to the light, along its width and along its height, for a camera at `yaw_deg`."""
        turn, rise = radians(yaw_deg + self.azimuth_deg), radians(self.elevation_deg)
        towards = (sin(turn) * cos(rise), -cos(turn) * cos(rise), sin(rise))
        return towards, (cos(turn), sin(turn), 0.0), (-sin(turn) * sin(rise), cos(turn) * sin(rise), cos(rise))


@dataclass(frozen=True)
class StudioLight:
    """Studio lights that follow the camera's yaw, so that all turntable views are lit alike.

    key, fill, rim: soft boxes.  sky, horizon, ground: linear RGB radiance of the environment above, level and below.
    exposure: global factor.
    """

    key: SoftBox = SoftBox(-42, 42, 0.50, 0.62, (1.0, 0.96, 0.90), 3.2)
    fill: SoftBox = SoftBox(62, 16, 0.36, 0.95, (0.88, 0.94, 1.0), 1.2)
    rim: SoftBox = SoftBox(160, 38, 0.80, 0.26, (0.97, 0.98, 1.0), 3.4)
    sky: Vector3 = (0.42, 0.43, 0.45)
    horizon: Vector3 = (0.20, 0.20, 0.205)
    ground: Vector3 = (0.25, 0.245, 0.24)
    exposure: float = 1.0

    @property
    def boxes(self) -> tuple[SoftBox, SoftBox, SoftBox]:
        """The three lights."""
        return self.key, self.fill, self.rim


def _environment(light: StudioLight, height: Tensor, softness: Tensor | float) -> Tensor:
    """Environment radiance [3, N] without soft boxes, in directions of z `height` [N], blurred by `softness`."""
    level = height * (height * height + softness * softness).rsqrt()
    sky, horizon, ground = (column(color, height) for color in (light.sky, light.horizon, light.ground))
    above, below = level.clamp(min=0) ** 2, level.clamp(max=0) ** 2
    return horizon + above * (sky - horizon) + below * (ground - horizon)


def _edge_pair(tangent: Tensor, half: float, scale: Tensor) -> Tensor:
    """Box of half-width `half`, blurred by a logistic of deviation pi / (scale sqrt 3), at `tangent`; all [N]."""
    return torch.sigmoid((tangent + half) * scale) - torch.sigmoid((tangent - half) * scale)


def radiance(light: StudioLight, yaw_deg: float, direction: Tensor, roughness: Tensor) -> Tensor:
    """Computes prefiltered radiance [3, N], linear RGB, for unit world `direction` [3, N] and GGX `roughness` [N].

    Environment and lights are blurred by the width of the GGX lobe; convolving a box in the light's tangent plane
    conserves its energy. roughness is in 0 to 1; the roughest lobes, wider than a tangent plane, blend to irradiance.
    """
    alpha = roughness * roughness
    result = _environment(light, direction[2], 0.12 + alpha)
    scale = pi / 3**0.5 / (SHARPEST_EDGE + BLUR_PER_ALPHA * alpha)
    for box in light.boxes:
        facing, across, along = (dot(column(axis, direction), direction) for axis in box.axes(yaw_deg))
        front = 1 / facing.clamp(min=1e-3)
        cover = _edge_pair(across * front, box.half_width, scale) * _edge_pair(along * front, box.half_height, scale)
        cover = cover * (facing * (10 * box.intensity)).clamp(0, box.intensity)
        result = result + cover * column(box.color, direction)
    return torch.lerp(result * light.exposure, irradiance(light, yaw_deg, direction), alpha * alpha)


def irradiance(light: StudioLight, yaw_deg: float, normal: Tensor) -> Tensor:
    """Computes irradiance / pi [3, N], linear RGB, for unit world normals [3, N]: the radiance of white paper."""
    result = _environment(light, normal[2], 1.0)
    for box in light.boxes:
        facing = dot(column(box.axes(yaw_deg)[0], normal), normal)
        square = facing * facing + TERMINATOR**2
        cosine = (facing + square * square.rsqrt()) / 2 - TERMINATOR**2 / 4
        result = result + cosine.clamp(min=0) * column(box.color, normal) * (box.intensity * box.solid_angle / pi)
    return result * light.exposure
