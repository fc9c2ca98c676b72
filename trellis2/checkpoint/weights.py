"""Loads weights into a network strictly: no key unused or missing, every shape as declared. Reads safetensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ...o_voxel.core.atomic_io import atomic_path
from ..models import Backends
from ..models.quantized import QuantizedLinear, quantizable
from ..ops.quantized_linear import FORMATS, Format, Quantized, quantize_rows
from .config import PipelineConfig
from .int8_file import MARK, SCALE, WEIGHT, split_int8_layers
from .stored import CheckpointError, FileTensor, Stored, check_format, read_header

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Quantization:
    """How the large layers of a flow network are stored. form: the number format.  device: that quantises."""

    form: Format
    device: torch.device


class CheckpointLayout(Protocol):
    """Interface of a file layout: finds and loads the network of a role."""

    config: PipelineConfig

    def files(self, role: str) -> list[Path]:
        """Returns the files of a role's network, downloading absent ones. Raises MissingFileError."""

    def missing(self) -> list[str]:
        """Returns the names of all files that are not there yet."""

    def load(
        self, role: str, dtype: str | None, backends: Backends | None, quantization: Quantization | None = None
    ) -> nn.Module:
        """Loads a role's network on the CPU, in eval mode. dtype: of its torso; None: as published.

        quantization: of weights that are converted on loading, see `load_weights`."""


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file whose keys start with `prefix`, by their keys without it.

    Tensors are memory-mapped, not copied. Raises CheckpointError for a damaged or truncated file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 a file handle, not a mapping
            return {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); download it again") from error


def read_stored(path: Path, prefix: str = "") -> dict[str, FileTensor]:
    """Returns what `read_tensors` does, as tensors that `load_weights` converts one at a time, through the file.

    Raises CheckpointError, before a tensor is read, for a damaged file and for a format that is not read.
    """
    check_format(path)
    tensors, (header, start) = read_tensors(path, prefix), read_header(path)
    return {
        key: FileTensor(tensor, path, start + header[prefix + key]["data_offsets"][0])
        for key, tensor in tensors.items()
    }


def load_weights(
    model: M,
    tensors: Mapping[str, Tensor | Stored],
    where: str,
    *,
    keep_int8: bool = False,
    quantization: Quantization | None = None,
) -> M:
    """Sets the weights of `model`, built on the meta device, in the dtypes that it declares. Returns `model`.

    Buffers determined by the configuration (the model's `derived_buffers`) may be absent. Tensors of the right dtype
    are not copied, and others are read one at a time. Int8 layers of the file (see `split_int8_layers`) are dequantised
    or, with keep_int8, compute in int8 where the model allows it.
    quantization: of the weights of a flow network's large layers that have to be converted; `quantize_model` does the
    others.

    Raises CheckpointError naming `where` and the first five keys that are missing, unexpected or of another shape.
    """
    tensors = _with_int8_layers(model, tensors, where, keep_int8)
    expected = model.state_dict()
    derived = getattr(model, "derived_buffers", dict)()
    _refuse(where, "missing", [k for k in expected if k not in tensors and k not in derived])
    _refuse(where, "unexpected", [k for k in tensors if k not in expected])
    shapes = {k: (list(t.shape), list(expected[k].shape)) for k, t in tensors.items()}
    _refuse(where, "misshapen", [f"{k} {got}, expected {want}" for k, (got, want) in shapes.items() if got != want])
    if quantization is not None:
        tensors = _quantized(model, tensors, quantization)
        expected = model.state_dict()
    complete = {**derived, **tensors}
    state = {key: _in_dtype(complete[key], expected[key].dtype) for key in expected}
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def save_weights(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file whole or not at all; several processes may write the same path. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as hidden:
        try:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, hidden, metadata)
        except SafetensorError as error:
            # It wraps the system's errors, with their number in the text.
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), str(error)) if number else error from error


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the metadata given to `save_weights`. Raises CheckpointError for a damaged or truncated file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Fills `model` with Gaussian weights that keep activations near unit variance, and gains near one. For tests."""
    for name, parameter in model.named_parameters():
        flat = parameter.numel() // max(len(parameter), 1)
        noise = torch.randn(parameter.shape, generator=generator)
        is_gain = (parameter.ndim == 1 and name.endswith("weight")) or name.endswith(("gamma", "lambda1"))
        spread = 0.02 if parameter.ndim == 1 or is_gain else flat**-0.5
        parameter.data = (noise * spread + float(is_gain)).to(parameter.dtype)


def _in_dtype(tensor: Tensor | Stored, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if isinstance(tensor, Tensor) else tensor.read(dtype)


def _quantized(
    model: nn.Module, tensors: Mapping[str, Tensor | Stored], quantization: Quantization
) -> dict[str, Tensor | Stored]:
    """Returns tensors under the keys of `model`, after replacing its large layers with weights to be converted."""
    form, device, replaced = quantization.form, quantization.device, dict(tensors)
    for name in quantizable(model):
        layer, stored = model.get_submodule(name), tensors[name + WEIGHT]
        if not isinstance(layer, nn.Linear) or isinstance(stored, Tensor):
            continue
        mapped = stored.mapped if isinstance(stored, FileTensor) else None
        if mapped is not None and mapped.dtype == form.dtype and not form.integer:
            weight = Quantized(mapped, torch.ones(len(mapped)))
        elif mapped is not None and mapped.dtype == layer.weight.dtype:
            continue
        else:
            weight = quantize_rows(stored.read(torch.float32).to(device), form)
            weight = Quantized(weight.values.cpu(), weight.scale.cpu())
        model.set_submodule(name, QuantizedLinear(weight, layer.bias, form, backend=model.backends.linear))
        replaced |= {name + WEIGHT: weight.values, name + SCALE: weight.scale}
    return replaced


def _with_int8_layers(
    model: nn.Module, tensors: Mapping[str, Tensor | Stored], where: str, keep_int8: bool
) -> Mapping[str, Tensor | Stored]:
    """Returns tensors under the keys of `model`, after replacing the layers of `model` that compute in int8."""
    if not any(key.endswith(MARK) for key in tensors):
        return tensors
    try:
        mapped = {key: tensor.mapped if isinstance(tensor, FileTensor) else tensor for key, tensor in tensors.items()}
        others, layers = split_int8_layers(mapped)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error
    plain: dict[str, Tensor | Stored] = {key: tensors[key] for key in others}
    eligible = set(quantizable(model)) if keep_int8 else set()
    for name, layer in layers.items():
        if name in eligible and not layer.dequantize_first:
            bias = model.get_submodule(name).bias
            model.set_submodule(
                name, QuantizedLinear(layer.weight, bias, FORMATS["int8"], layer.hadamard_group, model.backends.linear)
            )
            plain |= {name + WEIGHT: layer.weight.values, name + SCALE: layer.weight.scale}
        else:
            plain[name + WEIGHT] = layer
    return plain


def _refuse(where: str, what: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        raise CheckpointError(f"{where}: {what} keys {keys[:5]}{more}")
