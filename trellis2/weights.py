"""Strict reading of safetensors into a network: every key used, none missing, every shape right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

Rename = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
QUANTISED_SUFFIX = ".comfy_quant"


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


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """`model`, built on the meta device, with its weights set, each in the dtype the model declares.

    Tables that follow from the configuration (`derived_buffers` of the model) may be absent. Tensors already of the
    right dtype are taken as they are, without a second copy. Raises CheckpointError naming the first five keys.
    """
    expected = model.state_dict()
    derived = getattr(model, "derived_buffers", dict)()
    if any(key.endswith(QUANTISED_SUFFIX) for key in tensors):
        raise CheckpointError(f"{where}: its weights are quantised, which is not supported yet; use the bf16 file")
    _refuse(where, "missing", [k for k in expected if k not in tensors and k not in derived])
    _refuse(where, "unexpected", [k for k in tensors if k not in expected])
    shapes = {k: (list(t.shape), list(expected[k].shape)) for k, t in tensors.items()}
    _refuse(where, "misshapen", [f"{k} {got}, expected {want}" for k, (got, want) in shapes.items() if got != want])
    whole = {**derived, **tensors}
    model.load_state_dict({key: whole[key].to(expected[key].dtype) for key in expected}, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, partial)
    partial.replace(path)


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Random weights that keep activations near unit size, for tests of form: gaussian, norms near one."""
    for name, parameter in model.named_parameters():
        flat = parameter.numel() // max(len(parameter), 1)
        noise = torch.randn(parameter.shape, generator=generator)
        is_gain = (parameter.ndim == 1 and name.endswith("weight")) or name.endswith(("gamma", "lambda1"))
        spread = 0.02 if parameter.ndim == 1 or is_gain else flat**-0.5
        parameter.data = (noise * spread + float(is_gain)).to(parameter.dtype)


def _refuse(where: str, what: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        raise CheckpointError(f"{where}: {what} keys {keys[:5]}{more}")
