"""Who is on the device: a small protocol, and its plain implementations outside ComfyUI. See `streaming` for less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from .cuda_graphs import clear_graphs, weights_of


class Residency(Protocol):
    """Puts a network on the compute device while it is used."""

    @property
    def device(self) -> torch.device:
        """Where networks compute."""

    def use(self, model: nn.Module, workspace: int = 0) -> AbstractContextManager[nn.Module]:
        """`with residency.use(model) as model:` runs it on the device. workspace: bytes of device memory that its work
        is likely to need besides the weights."""

    def release(self) -> None:
        """Let go of every network."""


class KeepLoaded:
    """Networks stay on the device once used, and their CUDA graphs with them (see `capture`): fastest, and the memory
    of all networks adds up."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        # Moving a network, even to where it is, frees its CUDA graphs.
        yield model if _is_on(model, self.device) else model.to(self.device)

    def release(self) -> None:
        """Nothing to let go of: networks belong to their pipeline."""


class OneAtATime:
    """A network is on the device only while it is used: the peak is the largest one."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        with weights_kept(model):
            yield model.to(self.device)

    def release(self) -> None:
        """Nothing to let go of: networks belong to their pipeline."""


@contextmanager
def weights_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards the network's tensors are on the CPU: the very ones that were there before, which cost no copy back.
    Its CUDA graphs are freed. Inside, weights may be moved or replaced but not written to: what is written on
    another device is lost."""
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


def _is_on(model: nn.Module, device: torch.device) -> bool:
    there = torch.empty(0, device=device).device  # "cuda" is one of several
    return all(tensor.device == there for tensor in weights_of(model))


def tensors_of(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """(module, name, data) of every parameter and buffer inside, each module by itself."""
    for module in model.modules():
        for name, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        ):
            yield module, name, tensor.detach()


def place(module: nn.Module, name: str, data: Tensor) -> None:
    """Give a module's parameter or buffer other data; a parameter remains the same object."""
    if name in module._parameters:
        module._parameters[name].data = data
    else:
        module._buffers[name] = data


def default_device() -> torch.device:
    """The accelerator torch finds, else the CPU."""
    for name, backend in (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.mps)):
        if backend.is_available():
            return torch.device(name)
    return torch.device("cpu")


def default_dtype(device: torch.device) -> str | None:
    """The torsos' number format where none is asked for: None (as published), unless the device is bad at it."""
    if device.type == "cpu":
        return "float32"
    if device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) < (8, 0):
        return "float16"
    return None
