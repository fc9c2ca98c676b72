"""The sRGB transfer curve (IEC 61966-2-1), and numbers in [0, 1] as bytes."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Rounding = Literal["half up", "half even", "down"]


def to_linear(srgb: Tensor) -> Tensor:
    """sRGB in [0, 1], any shape, to linear."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """Linear in [0, 1], any shape, to sRGB."""
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def linear_to_srgb(values: np.ndarray) -> np.ndarray:
    """Linear values >= 0, any shape, to sRGB in float64, as files of numbers hold it; above 1 the curve continues."""
    values = np.asarray(values, np.float64)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * np.maximum(values, 0.0031308) ** (1 / 2.4) - 0.055)


def to_bytes(values: Tensor, rounding: Rounding = "half up") -> Tensor:
    """uint8 of `values`, float, any shape: 255 times the value, cut to 0..255; NaN gives 0.

    rounding: "half up", to the nearest, is the rule; "half even", to the nearest too, and "down" are those of file
    formats that had them first. The first two differ only where a product ends in exactly .5.
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
