"""Strict reading of safetensors into a network: every key used, none missing, every shape right."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models.quantized import QuantizedLinear, quantizable
from ..ops.quantized_linear import FORMATS
from .int8_file import SCALE, WEIGHT, unpack

Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class CheckpointError(ValueError):
    """A weight file that is damaged, or does not fit the network."""


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file under `prefix`, which is taken off. They map the file: nothing is copied.

    Raises CheckpointError when the file is not whole.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 a file handle, not a mapping
            return {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); download it again") from error


def load_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], where: str, *, keep_packed: bool = False
) -> nn.Module:
    """`model`, built on the meta device, with its weights set, each in the dtype the model declares.

    Tables that follow from the configuration (`derived_buffers` of the model) may be absent. Tensors already of the
    right dtype are taken as they are, without a second copy. Layers that the file holds in 8 bits (`packed`) become
    the model's own format again or, with keep_packed, compute in 8 bits where the model may.

    Raises CheckpointError naming the first five keys.
    """
    tensors = _unpacked(model, tensors, where, keep_packed)
    expected = model.state_dict()
    derived = getattr(model, "derived_buffers", dict)()
    _refuse(where, "missing", [k for k in expected if k not in tensors and k not in derived])
    _refuse(where, "unexpected", [k for k in tensors if k not in expected])
    shapes = {k: (list(t.shape), list(expected[k].shape)) for k, t in tensors.items()}
    _refuse(where, "misshapen", [f"{k} {got}, expected {want}" for k, (got, want) in shapes.items() if got != want])
    whole = {**derived, **tensors}
    model.load_state_dict({key: whole[key].to(expected[key].dtype) for key in expected}, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def save_weights(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, also where several processes write the same one."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial, metadata)
    partial.replace(path)


def read_metadata(path: Path) -> dict[str, str]:
    """What was given to `save_weights` as metadata. Raises CheckpointError when the file is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Random weights that keep activations near unit size, for tests of form: gaussian, norms near one."""
    for name, parameter in model.named_parameters():
        flat = parameter.numel() // max(len(parameter), 1)
        noise = torch.randn(parameter.shape, generator=generator)
        is_gain = (parameter.ndim == 1 and name.endswith("weight")) or name.endswith(("gamma", "lambda1"))
        spread = 0.02 if parameter.ndim == 1 or is_gain else flat**-0.5
        parameter.data = (noise * spread + float(is_gain)).to(parameter.dtype)


def _unpacked(model: nn.Module, tensors: Mapping[str, Tensor], where: str, keep_packed: bool) -> Mapping[str, Tensor]:
    """The tensors as `model` takes them, whose layers are replaced where they are to compute in 8 bits."""
    try:
        plain, packed = unpack(tensors)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error
    if not packed:
        return tensors
    eligible = set(quantizable(model)) if keep_packed else set()
    for name, layer in packed.items():
        if name in eligible and not layer.exact:
            bias = model.get_submodule(name).bias
            model.set_submodule(
                name, QuantizedLinear(layer.weight, bias, FORMATS["int8"], layer.rotation, model.backends.linear)
            )
            plain |= {name + WEIGHT: layer.weight.values, name + SCALE: layer.weight.scale}
        else:
            plain[name + WEIGHT] = layer.dequantize()
    return plain


def _refuse(where: str, what: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        raise CheckpointError(f"{where}: {what} keys {keys[:5]}{more}")
