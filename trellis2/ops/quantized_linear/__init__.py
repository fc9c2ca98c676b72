"""8-bit linear layers (W8A8): rows quantised at every call, int8 or fp8 products, scales and bias applied to the sums.

A weight row (output channel) has one fixed scale; an activation row (token) has one, from its largest magnitude at
every call. Letters: T tokens, K input channels, N output channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....o_voxel.core.backend import Backend, always, resolve_backend, triton_probe
from ....o_voxel.core.checks import FLOATS, check_tensor
from . import reference, torch_products
from .formats import FORMATS, Format, Quantized

ACTIVATIONS = (None, "gelu")


def _triton_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype == torch.float8_e4m3fn and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        return "fp8 needs an Ada, Hopper or newer card"
    return triton_probe(device, dtype)


QUANTIZE_BACKENDS = (Backend("triton", _triton_probe), Backend("reference", always))
BACKENDS = (
    Backend("scaled_mm", torch_products.scaled_mm_probe),
    Backend("triton", _triton_probe),
    Backend("int_mm", torch_products.int_mm_probe),
    Backend("reference", always),
)


def quantize_rows(x: Tensor, form: Format, activation: str | None = None, *, backend: str = "auto") -> Quantized:
    """Quantises rows of act(x) [R, K] to 8 bits. The scale of a row is its largest magnitude over the format's limit.

    activation: "gelu" (the tanh approximation, in fp32) or None. int8 rounds halves up, fp8 to even.
    """
    check_tensor(x, "x", (None, None), FLOATS)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {ACTIVATIONS}, got {activation!r}")
    if resolve_backend(backend, QUANTIZE_BACKENDS, x.device, form.dtype) == "triton":
        from . import kernel

        return kernel.quantize_rows(x, form, activation)
    return reference.quantize_rows(x, form, activation)


def quantized_linear(
    x: Quantized,  # [T, K]
    weight: Quantized,  # [N, K]
    bias: Tensor | None,  # [N] in dtype
    dtype: torch.dtype,
    *,
    backend: str = "auto",
) -> Tensor:  # [T, N] in dtype
    """Returns x @ weight.T + bias, [T, N], of the dequantised matrices, rounded once. int8 sums exactly; fp8 on
    Hopper's tensor cores keeps about 14 bits of a sum, and more elsewhere."""
    t, k = x.shape
    n = check_tensor(weight.values, "weight", (None, k), x.values.dtype).shape[0]
    if bias is not None:
        check_tensor(bias, "bias", (n,), dtype)
    choice = resolve_backend(backend, BACKENDS, x.values.device, x.values.dtype)
    if t == 0:
        return torch.empty(0, n, dtype=dtype, device=x.values.device)
    if choice == "triton":
        from . import kernel

        return kernel.linear(x, weight, bias, dtype)
    implementation = {
        "scaled_mm": torch_products.scaled_mm,
        "int_mm": torch_products.int_mm,
        "reference": reference.linear,
    }
    return implementation[choice](x, weight, bias, dtype)


__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "FORMATS",
    "QUANTIZE_BACKENDS",
    "Format",
    "Quantized",
    "quantize_rows",
    "quantized_linear",
]
