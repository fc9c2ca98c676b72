"""Small algebra on many vectors. They are [3, N] here, a row an axis: torch is several times faster along the last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [...] of a and b [3, ...]."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Tensor, b: Tensor) -> Tensor:
    """Cross products [3, ...] of a and b [3, ...]."""
    return torch.stack((a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]))


def unit(a: Tensor) -> Tensor:
    """a [3, ...] at length 1; 0 stays 0. Lengths may be from 1e-18 to 1e18."""
    return a * dot(a, a).clamp(min=1e-37).rsqrt()


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """A constant vector [3, 1] on the device and of the dtype of `like`."""
    return like.new_tensor(values)[:, None]


def spans(count: int, device: torch.device) -> Iterator[slice]:
    """`count` items in pieces that fit a processor's cache, or larger ones for a GPU, where launches cost more."""
    step = 1 << 15 if device.type == "cpu" else 1 << 21
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
