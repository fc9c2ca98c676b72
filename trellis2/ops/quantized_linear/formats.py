"""8-bit number formats, and matrices in them with one scale per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Format:
    """limit: the largest magnitude.  integer: True if values are whole numbers."""

    name: str
    dtype: torch.dtype
    limit: int
    integer: bool


FORMATS: Mapping[str, Format] = {
    "int8": Format("int8", torch.int8, 127, integer=True),
    "fp8": Format("fp8", torch.float8_e4m3fn, 448, integer=False),
}


@dataclass(frozen=True, eq=False)
class Quantized:
    """values: [R, K] int8 or float8_e4m3fn.  scale: [R] float32; row r is values[r] * scale[r]."""

    values: Tensor
    scale: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    def dequantize(self) -> Tensor:
        """Returns [R, K] float32."""
        return self.values.float() * self.scale[:, None]
