"""Where the tensors of a network are: listing, replacing and restoring them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .cuda_graphs import clear_graphs, weights_of


@contextmanager
def weights_kept(model: nn.Module) -> Iterator[None]:
    """Context manager that leaves the network's tensors on the CPU: it restores the original CPU tensors, without a
    copy back, and frees CUDA graphs. Inside, weights may be moved or replaced but not written to: writes on another
    device are lost."""
    before = {
        (id(module), name): (module._parameters.get(name), tensor)
        for module, name, tensor in tensors_of(model)
        if tensor.device.type == "cpu"
    }
    try:
        yield
    finally:
        clear_graphs(model)
        for module, name, tensor in list(tensors_of(model)):
            parameter, kept = before.get((id(module), name), (None, None))
            same = kept is not None and module._parameters.get(name) is parameter
            place(module, name, kept if same else tensor.cpu())


def is_on(model: nn.Module, device: torch.device) -> bool:
    """Returns whether all parameters and buffers are on the device."""
    resolved = torch.empty(0, device=device).device  # "cuda" with its index
    return all(tensor.device == resolved for tensor in weights_of(model))


def tensors_of(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yields (module, name, data) of every parameter and buffer, module by module."""
    for module in model.modules():
        for name, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        ):
            yield module, name, tensor.detach()


def place(module: nn.Module, name: str, data: Tensor) -> None:
    """Replaces the data of a module's parameter or buffer; a parameter remains the same object."""
    if name in module._parameters:
        module._parameters[name].data = data
    else:
        module._buffers[name] = data
