"""Linear layers that a file holds in 8 bits, in ComfyUI's layout.

A layer `name` has name.weight [N, K] int8, name.weight_scale ([N, 1], [N] or one number) float32, and name.comfy_quant,
the bytes of a JSON object: {"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}. With "convrot"
the weight was rotated (`rotation`) before it was quantised, and its input is to be rotated likewise (facts: ComfyUI's
comfy/ops.py and comfy-kitchen's tensor/int8.py, read 2026-11).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.quantized_linear import Quantized
from .hadamard import rotate

MARK, SCALE, WEIGHT = ".comfy_quant", ".weight_scale", ".weight"
FORMAT = "int8_tensorwise"
DEFAULT_GROUP = 256
# Keys that say nothing about how to compute; any other unknown one might.
REMARKS = {"per_row", "orig_dtype", "orig_shape", "params"}


@dataclass(frozen=True, eq=False)
class PackedLinear:
    """weight: [N, K] int8 with a scale a row.  rotation: channels of a mixed group, 0 for none.
    exact: the file asks for products of dequantised weights."""

    weight: Quantized
    rotation: int
    exact: bool

    def dequantize(self) -> Tensor:
        """[N, K] float32, as it was before."""
        weight = self.weight.dequantize()
        return rotate(weight, self.rotation) if self.rotation else weight


def unpack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, PackedLinear]]:
    """(the other tensors, packed layers by name). Raises ValueError naming a layer that is packed otherwise."""
    names = [key.removesuffix(MARK) for key in tensors if key.endswith(MARK)]
    packed = {name: _packed(name, tensors) for name in names}
    used = {name + suffix for name in names for suffix in (MARK, SCALE, WEIGHT)}
    return {key: value for key, value in tensors.items() if key not in used}, packed


def _packed(name: str, tensors: Mapping[str, Tensor]) -> PackedLinear:
    said = _said(name, tensors[name + MARK])
    weight, scale = tensors.get(name + WEIGHT), tensors.get(name + SCALE)
    if weight is None or weight.dtype != torch.int8 or weight.ndim != 2 or scale is None:
        raise ValueError(f"{name}: expected an int8 matrix and its weight_scale beside {MARK[1:]}")
    if scale.numel() not in (1, len(weight)):
        raise ValueError(f"{name}: expected 1 or {len(weight)} numbers in weight_scale, got {list(scale.shape)}")
    rotation = int(said.get("convrot_groupsize", DEFAULT_GROUP)) if said.get("convrot") else 0
    if rotation and weight.shape[1] % rotation:
        raise ValueError(f"{name}: expected a multiple of {rotation} input channels, got {weight.shape[1]}")
    scale = scale.float().flatten().expand(len(weight)).contiguous()
    return PackedLinear(Quantized(weight, scale), rotation, bool(said.get("full_precision_matrix_mult")))


def _said(name: str, mark: Tensor) -> dict[str, Any]:
    """What the mark says, flat: some writers put the parameters one level down."""
    try:
        said = json.loads(bytes(mark.tolist()))
        nested = said.get("params")
        said = (nested if isinstance(nested, dict) else {}) | said
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{name}{MARK}: expected the bytes of a JSON object ({error})") from error
    unknown = set(said) - {"format", "convrot", "convrot_groupsize", "full_precision_matrix_mult"} - REMARKS
    if said.get("format") != FORMAT or unknown:
        raise ValueError(f"{name}: expected weights quantised as {FORMAT!r}, got {said}; use the bf16 file")
    return said
