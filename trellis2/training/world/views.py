"""Random cameras and lights, and pictures of an object framed by them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import atan, degrees, radians, tan

import torch
from PIL import Image
from torch import Tensor

from ....o_voxel.material import TexturedMesh
from ....o_voxel.render import Camera, Scene, SoftBox, StudioLight, Style, textured_scene
from ....o_voxel.render.draw import draw
from ....o_voxel.render.turntable import to_bytes
from .dice import Dice
from .materials import near

FILLED = 0.94  # of the picture's side: the longer side of the projected object
# Glass layers along a ray through a vessel: outer and inner, front and back. The renderer draws the first of them.
WALLS = 4
CLEARANCE = 0.05  # least distance of the camera to the object, world units


@dataclass(frozen=True)
class View:
    """A camera and its light."""

    camera: Camera
    light: StudioLight


def random_view(dice: Dice, around: float = 0.0) -> View:
    """A camera with pitch -12 to 57 degrees and field of view 12 to 60 degrees, and a random light. around: the
    probability of a yaw from 0 to 360 degrees; otherwise it is 0."""
    pitch = dice.between(-12, 12) + dice.between(0, 45)
    fov = 60 * 0.2 ** dice.between(0, 1)
    light = _random_light(dice)
    yaw = dice.between(0, 360) if dice.between(0, 1) < around else 0.0
    return View(Camera(yaw, pitch, fov_deg=fov), light)


def _random_light(dice: Dice) -> StudioLight:
    """Key, fill and rim light of random side, size and power, and a random ambient level."""

    def box(azimuth: float, elevation: tuple[float, float], power: tuple[float, float]) -> SoftBox:
        size = dice.between(0.25, 0.8)
        color = near((0.95, 0.95, 0.95), dice, 0.05)
        # Power is inverse to size, so that size changes reflections but not exposure.
        strength = dice.between(*power) * 0.3 / (size * 0.6)
        return SoftBox(azimuth, dice.between(*elevation), size, size * dice.between(0.6, 1.6), color, strength)

    side = dice.pick((-1, 1))
    key = box(side * dice.between(5, 80), (20, 75), (2.2, 4.0))
    fill = box(-side * dice.between(30, 110), (-10, 40), (0.3, 1.8))
    rim = box(dice.between(120, 240), (10, 70), (0.5, 4.0))
    room = dice.between(0.6, 1.5)
    sky, horizon, ground = (tuple(room * c for c in near((level,) * 3, dice, 0.03)) for level in (0.45, 0.22, 0.24))
    return StudioLight(key, fill, rim, sky, horizon, ground, dice.between(0.85, 1.15))


def framed(camera: Camera, scene: Scene) -> Camera:
    """The camera translated, at the same angles, so that the object exactly fills FILLED of a square picture.

    In camera axes, d towards the camera, (x, y, d) is in the picture of a camera at (ex, ey, e) if |x - ex|
    and |y - ey| are at most slope (e - d). The maxima of slope d + x and slope d - x give ex and the least e; so for y.
    """
    view, slope = camera.view(scene.bounds, (1, 1)), tan(radians(camera.fov_deg) / 2) * FILLED
    x, y, depth = view.rotate_to_eye(scene.vertices.T)
    towards = -slope * depth
    right, left, up, down = torch.stack([towards + x, towards - x, towards + y, towards - y]).amax(1).tolist()
    eye = max((right + left) / (2 * slope), (up + down) / (2 * slope), -float(depth.min()) + CLEARANCE)
    at = ((right - left) / 2, (up - down) / 2, eye)
    position = [
        sum(a * axis[k] for a, axis in zip(at, (view.right, view.up, view.back), strict=True)) for k in range(3)
    ]
    distance = eye - sum(c * b for c, b in zip(scene.bounds.center, view.back, strict=True))
    target = tuple(p - distance * b for p, b in zip(position, view.back, strict=True))
    return replace(camera, target=target, distance=distance)


def framed_fov(fov_deg: float) -> float:
    """Field of view in degrees of the part of a picture that its object fills."""
    return 2 * degrees(atan(FILLED * tan(radians(fov_deg) / 2)))


def draw_views(mesh: TexturedMesh, views: list[View], size: int) -> list[Tensor]:
    """A picture [size, size, 4] uint8 for each view, on the mesh's device: sRGB with straight alpha."""
    scene, style = textured_scene(mesh, ground=False), Style(background=None, ground=False, quick=True)
    walls = WALLS if bool(scene.surface_materials.translucent.any()) else 1
    pictures = []
    for view in views:
        drawn = draw(scene, framed(view.camera, scene), (size, size), view.light, style)
        alpha = 1 - (1 - drawn.alpha) ** walls
        pictures.append(to_bytes(torch.cat([drawn.color, alpha[..., None]], -1)))
    return pictures


def to_image(picture: Tensor) -> Image.Image:
    """A PIL RGBA image from a picture [H, W, 4] uint8."""
    return Image.fromarray(picture.cpu().numpy())
