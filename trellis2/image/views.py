"""Where the views of an object are taken from: azimuth and elevation, their names, unit vectors in model space.

Model space is z up, and the object's front is at -y, which a GLB turns to glTF's +z. Azimuth counts counter-clockwise
seen from above, as `Camera.yaw_deg` and ComfyUI's multi-view nodes do: at 0 the camera is at -y and sees the front, at
90 it is at +x and sees the object's own left side, at 180 the back, at 270 the right side. Elevation is the height
above the horizon. Published checkpoints put an object's own front at -y, whatever side a picture shows. The built-in
mini takes a single picture for the front, and several without sides for even turns from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, isfinite, radians, sin

import torch
from torch import Tensor


@dataclass(frozen=True)
class ViewDirection:
    """Where a camera stands, seen from the object. azimuth_deg: 0 front, 90 left, 180 back, 270 right; any number.
    elevation_deg: -90 to 90.

    Raises ValueError for an angle that is not finite, or an elevation out of range.
    """

    azimuth_deg: float
    elevation_deg: float = 0.0

    def __post_init__(self) -> None:
        if not isfinite(self.azimuth_deg):
            raise ValueError(f"azimuth: expected degrees, got {self.azimuth_deg}")
        if not -90 <= self.elevation_deg <= 90:
            raise ValueError(f"elevation: expected -90 to 90 degrees, got {self.elevation_deg}")

    @property
    def vector(self) -> tuple[float, float, float]:
        """The unit vector from the object to the camera, in model space."""
        azimuth, elevation = radians(self.azimuth_deg), radians(self.elevation_deg)
        return sin(azimuth) * cos(elevation), -cos(azimuth) * cos(elevation), sin(elevation)


NAMED_VIEWS = {
    "front": ViewDirection(0.0),
    "back": ViewDirection(180.0),
    "left": ViewDirection(90.0),
    "right": ViewDirection(270.0),
    "top": ViewDirection(0.0, 90.0),
    "bottom": ViewDirection(0.0, -90.0),
}


# Softmax temperature of a blend, over scores from 0 (unseen) to 1 (faces the camera).
VIEW_TEMPERATURE = 0.2


@dataclass(frozen=True)
class ViewBlend:
    """The view mode "blend": every voxel follows the views that see it. directions: of the V views.  temperature: above
    0; lower gives a voxel more to the view that sees it best, higher nears the average."""

    directions: tuple[ViewDirection, ...]
    temperature: float = VIEW_TEMPERATURE

    def vectors(self) -> Tensor:
        """Returns unit vectors [V, 3] fp32 from the object to each camera, in model space."""
        return torch.tensor([direction.vector for direction in self.directions], dtype=torch.float32).reshape(-1, 3)


def parse_direction(text: str) -> ViewDirection:
    """Returns the direction of "back", "azimuth=90,elevation=10", or two numbers "90 10" (the elevation may be left
    out). Raises ValueError for other text."""
    text = text.strip()
    if text in NAMED_VIEWS:
        return NAMED_VIEWS[text]
    words = text.replace(",", " ").replace("=", " = ").split()
    if "=" in words:
        names, values = words[0::3], words[2::3]
        known = words[1::3] == ["="] * len(values) and len(names) == len(values) == len(set(names))
        found = dict(zip(names, values, strict=False))
        if not known or "azimuth" not in found or not set(found) <= {"azimuth", "elevation"}:
            raise _unknown(text)
        values = [found["azimuth"], found.get("elevation", "0")]
    else:
        values = words
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        raise _unknown(text) from None
    if len(numbers) not in (1, 2):
        raise _unknown(text)
    return ViewDirection(*numbers)


def _unknown(text: str) -> ValueError:
    names = ", ".join(NAMED_VIEWS)
    return ValueError(f"view: expected {names}, or azimuth=90,elevation=10 in degrees, got {text!r}")
