"""Row-wise quantisation and the product of quantised matrices in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .formats import Format, Quantized

# Smallest magnitude of a row: a row of zeros keeps a nonzero scale.
SMALLEST = 1e-12


def quantize_rows(x: Tensor, form: Format, activation: str | None = None) -> Quantized:
    """See the package's `quantize_rows`: x [R, K]."""
    wide = x.float()
    if activation == "gelu":
        wide = F.gelu(wide, approximate="tanh")
    scale = wide.abs().amax(dim=1).clamp_min(SMALLEST) / form.limit if wide.numel() else wide.new_ones(len(wide))
    units = wide * (1 / scale[:, None])
    return Quantized((torch.floor(units + 0.5) if form.integer else units).to(form.dtype), scale)


def linear(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """See `quantized_linear`: [T, K] and [N, K] to [T, N], summed in fp32."""
    out = x.values.float() @ weight.values.float().T * x.scale[:, None] * weight.scale
    return (out if bias is None else out + bias.float()).to(dtype)
