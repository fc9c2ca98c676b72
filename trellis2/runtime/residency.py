"""Placement of networks on the device: a protocol, and two implementations for use outside ComfyUI. `streaming` has one
for less memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import nn

from .pinned import PinnedBuffer, upload
from .placement import is_on, weights_kept


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
        self._buffer = PinnedBuffer()

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        # Moving a network, even to where it is, frees its CUDA graphs.
        yield model if is_on(model, self.device) else upload(model, self.device, self._buffer)

    def release(self) -> None:
        """Frees the page-locked buffer of uploads; networks belong to their pipeline."""
        self._buffer.release()


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
