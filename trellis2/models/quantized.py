"""8-bit replacements (W8A8) of the flow models' large linear layers; activations are quantised at every call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...o_voxel.core.backend import explain, resolve_backend
from ..checkpoint.config import FlowConfig
from ..checkpoint.int8_file import hadamard_transform
from ..ops.quantized_linear import BACKENDS, FORMATS, Format, Quantized, quantize_rows, quantized_linear

# The quantised layers: products that dominate a block's time. Norms, embedders, modulation, first and last layers never
# are.
LAYERS = (
    "self_attn.to_qkv",
    "self_attn.to_out",
    "cross_attn.to_q",
    "cross_attn.to_kv",
    "cross_attn.to_out",
    "mlp.mlp.0",
    "mlp.mlp.2",
)
# Those of a flow with projected features, in place of cross_attn's.
PROJECTED_LAYERS = (
    "cross_attn.cross_attn_block.to_q",
    "cross_attn.cross_attn_block.to_kv",
    "cross_attn.cross_attn_block.to_out",
    "cross_attn.proj_linear",
)


class QuantizedLinear(nn.Module):
    """A linear layer whose weight is int8 or fp8. The published int8 files have the same three tensors.

    weight: [N, K], rotated if `rotation`.  weight_scale: [N] fp32.  bias: [N] in the output's dtype.
    rotation: channels of a group of the weight's Hadamard rotation, 0 for none; inputs get the same rotation.
    """

    def __init__(self, weight: Quantized, bias: Tensor, form: Format, rotation: int = 0, backend: str = "auto") -> None:
        super().__init__()
        self.register_buffer("weight", weight.values)
        self.register_buffer("weight_scale", weight.scale)
        self.register_buffer("bias", bias)
        self.form, self.rotation, self.backend = form, rotation, backend

    def forward(self, x: Tensor | Quantized, activation: str | None = None) -> Tensor:
        """Returns [T, N]. x: [T, K], to which `activation` is applied; or already quantised, by a norm that uses
        `input_form`."""
        if not isinstance(x, Quantized):
            if self.rotation:
                x, activation = hadamard_transform(_activated(x, activation), self.rotation), None
            x = quantize_rows(x, self.form, activation)
        return quantized_linear(
            x, Quantized(self.weight, self.weight_scale), self.bias, self.bias.dtype, backend=self.backend
        )


def input_form(layer: nn.Module) -> Format | None:
    """Returns the format in which `layer` takes a quantised input, so that a norm can write it; None: unquantised."""
    return layer.form if isinstance(layer, QuantizedLinear) and not layer.rotation else None


def quantizable(model: nn.Module) -> list[str]:
    """Returns the names of a flow model's layers to quantise; empty for another network."""
    is_flow = isinstance(getattr(model, "config", None), FlowConfig)
    return [name for name, _ in model.named_modules() if name.endswith(LAYERS + PROJECTED_LAYERS)] if is_flow else []


def quantize_model(model: nn.Module, name: str, device: torch.device) -> nn.Module:
    """Replaces the large linear layers of a flow model by layers in the format `name`, quantised on `device` and stored
    where they were.

    Layers that are quantised already stay. Raises ValueError if the device has no fast product of the format.
    """
    form = check_format(name, device)
    for path in quantizable(model):
        layer = model.get_submodule(path)
        if isinstance(layer, nn.Linear):
            weight = quantize_rows(layer.weight.detach().to(device), form)
            storage = layer.weight.device
            weight = Quantized(weight.values.to(storage), weight.scale.to(storage))
            model.set_submodule(path, QuantizedLinear(weight, layer.bias.detach(), form, backend=model.backends.linear))
    return model


def check_format(name: str, device: torch.device) -> Format:
    """Returns the format of that name. Raises ValueError for an unknown one, or where a GPU would be slower with it."""
    if name not in FORMATS:
        raise ValueError(f"quantization: expected 'none' or one of {list(FORMATS)}, got {name!r}")
    form = FORMATS[name]
    if device.type != "cpu" and resolve_backend("auto", BACKENDS, device, form.dtype) == "reference":
        reasons = explain(BACKENDS, device, form.dtype)
        raise ValueError(f"quantization {name!r} does not work on {device}; choose 'none'. The reasons: {reasons}")
    return form


def _activated(x: Tensor, activation: str | None) -> Tensor:
    """Applies the activation to x [T, K]."""
    return x if activation is None else nn.functional.gelu(x, approximate="tanh")
