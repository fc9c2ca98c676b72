"""Reads int8 linear layers from files in ComfyUI's layout, and computes the Hadamard rotation of their channels.

A layer `name` is stored as name.weight [N, K] int8, name.weight_scale [N, 1], [N] or scalar float32, and
name.comfy_quant, the bytes of a JSON object: {"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}.
With "convrot" the weight's channels were rotated before quantisation, and the layer's input needs the same rotation
(facts: ComfyUI's comfy/ops.py and comfy-kitchen's tensor/int8.py, read 2026-11).

The rotation multiplies groups of channels by a regular Hadamard matrix H. As H is orthogonal and symmetric, (x H)(w
H)^T equals x w^T, and outliers of single channels are spread over their group, which lowers the quantisation error
(ConvRot, arXiv 2512.03673).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...o_voxel.core.device import normal_tensors
from ..ops.quantized_linear import Quantized

MARK, SCALE, WEIGHT = ".comfy_quant", ".weight_scale", ".weight"
FORMAT = "int8_tensorwise"
DEFAULT_GROUP = 256
# Keys without effect on the computation; any other unknown key raises.
IGNORED_KEYS = {"per_row", "orig_dtype", "orig_shape", "params"}
# Hadamard matrix of order 4 with one -1 in every row: no row is constant, so a group's mean is spread as well.
HADAMARD_4 = ((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))


@cache
@normal_tensors
def hadamard_matrix(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Returns [size, size], orthogonal and symmetric, exact in any float dtype: the Kronecker power of HADAMARD_4 / 2.

    Raises ValueError unless size is a power of 4.
    """
    if size < 4 or size & (size - 1) or size.bit_length() % 2 == 0:
        raise ValueError(f"rotation: expected a group of 4, 16, 64, 256 … channels, got {size}")
    factor = torch.tensor(HADAMARD_4, dtype=torch.float32, device=device) / 2
    matrix = factor
    while len(matrix) < size:
        matrix = torch.kron(matrix, factor)
    return matrix.to(dtype)


def hadamard_transform(x: Tensor, group: int) -> Tensor:
    """Multiplies every `group` consecutive channels of x [..., K] by a Hadamard matrix, in x's dtype. Self-inverse.

    Raises ValueError unless K is a multiple of group and group a power of 4.
    """
    if x.shape[-1] % group:
        raise ValueError(f"rotation: expected a multiple of {group} channels, got {x.shape[-1]}")
    rotated = x.unflatten(-1, (-1, group)) @ hadamard_matrix(group, x.device, x.dtype)
    return rotated.flatten(-2)


@dataclass(frozen=True, eq=False)
class Int8FileLinear:
    """An int8 linear layer as stored in a file.

    weight: [N, K] int8 with scale [N] fp32.  hadamard_group: channels of a rotated group, 0 without rotation.
    dequantize_first: multiply by the dequantised weight, the file's "full_precision_matrix_mult".
    """

    weight: Quantized
    hadamard_group: int
    dequantize_first: bool

    @property
    def shape(self) -> torch.Size:
        """The weight's shape."""
        return self.weight.values.shape

    def read(self, dtype: torch.dtype) -> Tensor:
        """Returns `dequantize` in `dtype`."""
        return self.dequantize().to(dtype)

    def dequantize(self) -> Tensor:
        """Returns the weight [N, K] float32 before rotation, up to the rounding of its quantisation."""
        weight = self.weight.dequantize()
        return hadamard_transform(weight, self.hadamard_group) if self.hadamard_group else weight


def split_int8_layers(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Int8FileLinear]]:
    """Splits tensors into (tensors of no int8 layer, int8 layers by name). Raises ValueError naming a layer in another
    format."""
    names = [key.removesuffix(MARK) for key in tensors if key.endswith(MARK)]
    layers = {name: _read_layer(name, tensors) for name in names}
    used = {name + suffix for name in names for suffix in (MARK, SCALE, WEIGHT)}
    return {key: value for key, value in tensors.items() if key not in used}, layers


def _read_layer(name: str, tensors: Mapping[str, Tensor]) -> Int8FileLinear:
    options = _read_options(name, tensors[name + MARK])
    weight, scale = tensors.get(name + WEIGHT), tensors.get(name + SCALE)
    if weight is None or weight.dtype != torch.int8 or weight.ndim != 2 or scale is None:
        raise ValueError(f"{name}: expected an int8 matrix and its weight_scale with {MARK[1:]}")
    if scale.numel() not in (1, len(weight)):
        raise ValueError(f"{name}: expected 1 or {len(weight)} numbers in weight_scale, got {list(scale.shape)}")
    group = int(options.get("convrot_groupsize", DEFAULT_GROUP)) if options.get("convrot") else 0
    if group and weight.shape[1] % group:
        raise ValueError(f"{name}: expected a multiple of {group} input channels, got {weight.shape[1]}")
    scale = scale.float().flatten().expand(len(weight)).contiguous()
    return Int8FileLinear(Quantized(weight, scale), group, bool(options.get("full_precision_matrix_mult")))


def _read_options(name: str, mark: Tensor) -> dict[str, Any]:
    """Parses a layer's comfy_quant [bytes] uint8 as JSON, flattened: some writers nest the options under "params"."""
    try:
        options = json.loads(bytes(mark.tolist()))
        nested = options.get("params")
        options = (nested if isinstance(nested, dict) else {}) | options
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{name}{MARK}: expected the bytes of a JSON object ({error})") from error
    unknown = set(options) - {"format", "convrot", "convrot_groupsize", "full_precision_matrix_mult"} - IGNORED_KEYS
    if options.get("format") != FORMAT or unknown:
        raise ValueError(f"{name}: expected weights quantised as {FORMAT!r}, got {options}; use the bf16 file")
    return options
