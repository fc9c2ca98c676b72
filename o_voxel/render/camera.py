"""Orbit camera, z up: view and projection transforms."""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, cos, degrees, hypot, inf, pi, radians, sin, tan

import torch
from torch import Tensor

from ..core.grid import Vector3
from .vectors import column, dot, unit

FIT_MARGIN = 1.06  # margin of the automatic camera distance
NEAREST = 1e-3  # fraction of the distance: near plane of a camera inside the subject
RIM_POINTS = 64


@dataclass(frozen=True)
class Bounds:
    """Vertical bounding cylinder of the subject, world units; it covers the subject at any yaw."""

    center: Vector3
    cylinder_radius: float
    half_height: float

    @property
    def radius(self) -> float:
        """Radius of the cylinder's bounding sphere."""
        return hypot(self.cylinder_radius, self.half_height)

    @classmethod
    def around(cls, points: Tensor) -> Bounds:
        """Returns the cylinder around `points` [N, 3], centred on their bounding box; the unit cube's if N = 0."""
        if not len(points):
            return cls((0.0, 0.0, 0.0), 0.5**0.5, 0.5)
        low, high = points.amin(dim=0), points.amax(dim=0)
        center = (low + high) / 2
        cylinder_radius = (points[:, :2] - center[:2]).norm(dim=1).amax()
        return cls(tuple(center.tolist()), max(float(cylinder_radius), 1e-6), max(float(high[2] - low[2]) / 2, 1e-6))


@dataclass(frozen=True)
class View:
    """Camera frame and projection. Vectors are plain floats, independent of the device.

    position: eye, world.  right, up, back: world directions of the image axes; back points from the scene to the eye.
    scale: NDC per tangent (perspective) or per world unit (orthographic), horizontal and vertical.
    near, far: distances along the line of sight, world units.
    """

    position: Vector3
    right: Vector3
    up: Vector3
    back: Vector3
    scale: tuple[float, float]
    near: float
    far: float
    orthographic: bool

    def to_eye(self, points: Tensor) -> Tensor:
        """Transforms world points [3, N] to eye space [3, N]: right, up, and distance along the line of sight."""
        return self.rotate_to_eye(points - column(self.position, points))

    def rotate_to_eye(self, directions: Tensor) -> Tensor:
        """Rotates world directions [3, N] to eye space [3, N]."""
        axes = (self.right, self.up, tuple(-b for b in self.back))
        # No matmul: TF32 on a GPU would perturb the vertices.
        return torch.stack([dot(column(axis, directions), directions) for axis in axes])

    def to_clip(self, points: Tensor) -> Tensor:
        """Transforms world points [V, 3] to OpenGL clip space [V, 4], for `rasterize`."""
        x, y, distance = self.to_eye(points.T)
        span = self.far - self.near
        if self.orthographic:
            z, w = (2 * distance - (self.far + self.near)) / span, torch.ones_like(x)
        else:
            z, w = (distance * (self.far + self.near) - 2 * self.far * self.near) / span, distance
        return torch.stack((x * self.scale[0], y * self.scale[1], z, w), dim=1)

    def towards_eye(self, points: Tensor) -> Tensor:
        """Returns unit directions [3, N] from world points [3, N] to the eye."""
        if self.orthographic:
            return column(self.back, points).expand_as(points)
        return unit(column(self.position, points) - points)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """Returns the OpenGL view and projection matrices, each [4, 4] float64, for column vectors (view along -z)."""
        view = torch.eye(4, dtype=torch.float64)
        view[:3, :3] = torch.tensor([self.right, self.up, self.back], dtype=torch.float64)
        view[:3, 3] = -view[:3, :3] @ torch.tensor(self.position, dtype=torch.float64)
        projection = torch.diag(torch.tensor([*self.scale, 0.0, 0.0], dtype=torch.float64))
        span, total = self.far - self.near, self.far + self.near
        if self.orthographic:
            projection[2:, 2:] = view.new_tensor([[-2 / span, -total / span], [0, 1]])
        else:
            projection[2:, 2:] = view.new_tensor([[-total / span, -2 * self.far * self.near / span], [-1, 0]])
        return view, projection


@dataclass(frozen=True)
class Camera:
    """An orbit camera in a z-up world. At yaw 0 it is on the -y side and looks along +y, at the front of the model.

    yaw_deg: around the vertical, counter-clockwise seen from above; 90 looks from +x.  pitch_deg: elevation above the
    horizon, -90 to 90.  distance: world units from the target to the eye, or None to fit the subject at any yaw.
    fov_deg: field of view of the shorter image side.  target: world point at the image centre, or None for the
    subject's centre.  orthographic: parallel projection, as wide as the perspective image is at the target.
    roll_deg: of the camera about its line of sight, counter-clockwise seen from behind it.
    """

    yaw_deg: float = 30.0
    pitch_deg: float = 20.0
    distance: float | None = None
    fov_deg: float = 30.0
    target: Vector3 | None = None
    orthographic: bool = False
    roll_deg: float = 0.0

    def __post_init__(self) -> None:
        if not -90 <= self.pitch_deg <= 90:
            raise ValueError(f"Camera.pitch_deg: expected -90 to 90, got {self.pitch_deg}")
        if not 0 < self.fov_deg < 180:
            raise ValueError(f"Camera.fov_deg: expected between 0 and 180, got {self.fov_deg}")
        if self.distance is not None and not self.distance > 0:
            raise ValueError(f"Camera.distance: expected a positive distance or None, got {self.distance}")

    @classmethod
    def from_y_up(cls, offset: Vector3, fov_deg: float = 30.0, orthographic: bool = False) -> Camera:
        """Returns the camera in the direction `offset` from its target to the eye, in a right-handed y-up frame.

        The frame is glTF's: y up, the model's front at +z. Only the direction counts: the subject is centred and fits.
        Raises ValueError for a zero or non-finite offset.
        """
        x, y, z = offset
        level = hypot(x, z)
        if not 0 < hypot(level, y) < inf:
            raise ValueError(f"camera: expected its position apart from its target, got an offset of {offset}")
        return cls(degrees(atan2(x, z)), degrees(atan2(y, level)), fov_deg=fov_deg, orthographic=orthographic)

    def view(self, subject: Bounds, size: tuple[int, int]) -> View:
        """Returns the view of `subject` for `size` (H, W) pixels; the near and far planes enclose the subject."""
        yaw, pitch, half = radians(self.yaw_deg), radians(self.pitch_deg), radians(self.fov_deg) / 2
        back = (sin(yaw) * cos(pitch), -cos(yaw) * cos(pitch), sin(pitch))
        right = (cos(yaw), sin(yaw), 0.0)
        up = (-sin(yaw) * sin(pitch), cos(yaw) * sin(pitch), cos(pitch))
        if self.roll_deg:
            c, s = cos(radians(self.roll_deg)), sin(radians(self.roll_deg))
            turned = [(c * r + s * u, c * u - s * r) for r, u in zip(right, up, strict=True)]
            right, up = (tuple(axis) for axis in zip(*turned, strict=True))
        tangents = tuple(tan(half) * n / min(size) for n in reversed(size))
        distance = self._fit(subject, tangents) if self.distance is None else self.distance
        target = subject.center if self.target is None else self.target
        position = tuple(t + b * distance for t, b in zip(target, back, strict=True))
        depth = sum((p - c) * b for p, c, b in zip(position, subject.center, back, strict=True))
        reach = subject.radius * 1.001
        near = depth - reach if self.orthographic else max(depth - reach, distance * NEAREST)
        scale = tuple(1 / (t * distance if self.orthographic else t) for t in tangents)
        return View(position, right, up, back, scale, near, max(depth + reach, near + reach), self.orthographic)

    def _fit(self, subject: Bounds, tangents: tuple[float, float]) -> float:
        """Returns the smallest distance at which the cylinder's rims are in the image, with FIT_MARGIN."""
        pitch, distance = radians(self.pitch_deg), 0.0
        for step in range(RIM_POINTS):
            x, y = (subject.cylinder_radius * f(2 * pi * step / RIM_POINTS) for f in (cos, sin))
            for z in (-subject.half_height, subject.half_height):
                nearer = 0.0 if self.orthographic else z * sin(pitch) - y * cos(pitch)
                upward = z * cos(pitch) + y * sin(pitch)
                needed = max(abs(x) / tangents[0], abs(upward) / tangents[1])
                distance = max(distance, nearer + needed * FIT_MARGIN)
        return distance
