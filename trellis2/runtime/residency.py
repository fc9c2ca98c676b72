"""Placement of networks on the device: a protocol, and two implementations for use outside ComfyUI. `streaming` has one
for less memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from .cuda_graphs import clear_graphs, weights_of


class Residency(Protocol):
    """Places a network on the compute device while it is used."""

    @property
    def device(self) -> torch.device:
        """The compute device."""

    def use(self, model: nn.Module, workspace: int = 0) -> AbstractContextManager[nn.Module]:
        """Context manager that places the network on the device. workspace: estimated bytes of device memory that its
        work needs besides the weights."""

    def release(self) -> None:
        """Releases all networks."""


class KeepLoaded:
    """Keeps networks, with their CUDA graphs (see `cuda_graphs`), on the device after use: fastest, but the memory of
    all networks adds up."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        # Moving a network, even to where it is, frees its CUDA graphs.
        yield model if is_on(model, self.device) else model.to(self.device)

    def release(self) -> None:
        """Does nothing: networks belong to their pipeline."""


class OneAtATime:
    """Keeps a network on the device only while it is used: the peak is the largest network."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        with weights_kept(model):
            yield model.to(self.device)

    def release(self) -> None:
        """Does nothing: networks belong to their pipeline."""


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


def default_device() -> torch.device:
    """Returns the accelerator that torch finds, else the CPU."""
    for name, backend in (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.mps)):
        if backend.is_available():
            return torch.device(name)
    return torch.device("cpu")


def default_dtype(device: torch.device) -> str | None:
    """Returns the default dtype of the torsos: None (as published), unless the device lacks fast arithmetic for it."""
    if device.type == "cpu":
        return "float32"
    if device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) < (8, 0):
        return "float16"
    return None
