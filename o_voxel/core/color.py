"""sRGB transfer function (IEC 61966-2-1) and float to 8-bit quantisation."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Rounding = Literal["half up", "half even", "down"]


def to_linear(srgb: Tensor) -> Tensor:
    """Decodes sRGB [...] float in [0, 1] to linear [...]."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Encodes linear [...] float, clamped to [0, 1], as sRGB [...]."""
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


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
