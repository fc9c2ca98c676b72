"""Who is on the device: a small protocol, and its plain implementations outside ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import nn


class Residency(Protocol):
    """Puts a network on the compute device while it is used."""

    @property
    def device(self) -> torch.device:
        """Where networks compute."""

    def use(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """`with residency.use(model) as model:` runs it on the device."""

    def release(self) -> None:
        """Let go of every network."""


class KeepLoaded:
    """Networks stay on the device once used: fastest, and every network used adds up."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    @contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        yield model.to(self.device)

    def release(self) -> None:
        """Nothing to let go of: networks belong to their pipeline."""


class OneAtATime:
    """A network is on the device only while it is used: the peak is the largest one."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    @contextmanager
    def use(self, model: nn.Module) -> Iterator[nn.Module]:
        try:
            yield model.to(self.device)
        finally:
            model.to("cpu")

    def release(self) -> None:
        """Nothing to let go of: networks belong to their pipeline."""


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
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return None
