"""sRGB transfer function (IEC 61966-2-1), CIE L*a*b*, and float to 8-bit quantisation."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Rounding = Literal["half up", "half even", "down"]

# Linear sRGB to CIE XYZ (IEC 61966-2-1, D65), and the XYZ of white.
RGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE = (0.95047, 1.0, 1.08883)


def to_linear(srgb: Tensor) -> Tensor:
    """Decodes sRGB [...] float in [0, 1] to linear [...]."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Encodes linear [...] float, clamped to [0, 1], as sRGB [...]."""
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def to_lab(srgb: Tensor) -> Tensor:
    """sRGB [..., 3] float32 in [0, 1] to CIE L*a*b* (1976) under D65, of the same shape."""
    xyz = to_linear(srgb.clamp(0, 1)) @ srgb.new_tensor(RGB_TO_XYZ).T / srgb.new_tensor(WHITE)
    edge = 6 / 29
    f = torch.where(xyz > edge**3, xyz.clamp_min(edge**3) ** (1 / 3), xyz / (3 * edge**2) + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-1)


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    """Encodes linear values [...] >= 0 as sRGB [...] float64, for file data; the curve is extrapolated above 1."""
    values = np.asarray(values, np.float64)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * np.maximum(values, 0.0031308) ** (1 / 2.4) - 0.055)


def to_bytes(values: Tensor, rounding: Rounding = "half up") -> Tensor:
    """Quantises `values` [...] float in [0, 1] to uint8 [...]: 255 times the value, clamped; NaN gives 0.

    rounding: "half up" (nearest) is the default; "half even" (nearest) and "down" (truncation) are required by file
    formats. The first two differ only where 255 times the value ends in exactly .5.
    Raises ValueError for another rounding or an integer dtype.
    """
    if rounding not in get_args(Rounding):
        raise ValueError(f"rounding: expected one of {get_args(Rounding)}, got {rounding!r}")
    if not values.is_floating_point():
        raise ValueError(f"values: expected a float tensor, got {values.dtype}")
    scaled = values.nan_to_num(0.0).clamp(0, 1) * 255
    if rounding == "half even":
        scaled = scaled.round()
    return (scaled + 0.5 if rounding == "half up" else scaled).to(torch.uint8)
