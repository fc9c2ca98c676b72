"""Quantised products through torch's cuBLAS calls."""

from __future__ import annotations

import torch
from torch import Tensor

from ....o_voxel.core.device import cached_per_device
from .formats import FORMATS, Quantized

# cuBLAS needs at least this many rows for int8, and a multiple of this many channels for both formats.
INT_ROWS, ALIGNMENT = 17, 16


def scaled_mm(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """fp8 product of [T, K] and [N, K] with one scale per row of either, [T, N]. cuBLAS writes bfloat16; other dtypes
    are cast from it."""
    bias = None if bias is None else bias.to(torch.bfloat16)
    out = torch._scaled_mm(
        x.values,
        weight.values.T,
        scale_a=x.scale[:, None],
        scale_b=weight.scale[None],
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return out.to(dtype)


def int_mm(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """int8 product of [T, K] and [N, K] in int32, [T, N], and a second pass over it for scales and bias."""
    rows = len(x.values)
    values = x.values
    if rows < INT_ROWS:
        values = torch.cat([values, values.new_zeros(INT_ROWS - rows, values.shape[1])])
    total = torch._int_mm(values, weight.values.T)[:rows]
    out = total * x.scale[:, None] * weight.scale
    return (out if bias is None else out + bias.float()).to(dtype)


def scaled_mm_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns None if torch multiplies fp8 with row scales, else the reason."""
    if device.type != "cuda" or dtype != torch.float8_e4m3fn:
        return f"takes float8_e4m3fn on a GPU, not {dtype} on {device}"
    return _launch(device, "fp8")


def int_mm_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    """Returns None if torch multiplies int8, else the reason."""
    if device.type != "cuda" or dtype != torch.int8:
        return f"takes int8 on a GPU, not {dtype} on {device}"
    return _launch(device, "int8")


@cached_per_device
def _launch(device: torch.device, name: str) -> str | None:
    form = FORMATS[name]
    ones = Quantized(torch.ones(32, 32, device=device).to(form.dtype), torch.ones(32, device=device))
    product = scaled_mm if name == "fp8" else int_mm
    try:
        out = product(ones, ones, None, torch.bfloat16)
    except RuntimeError as error:
        return f"a test launch failed: {error}"
    return None if bool((out == 32).all()) else "a test launch gave a wrong result"
