"""Devices: values that move between them, launches and caches that follow them, tensors that outlive inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from functools import cache, wraps
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@runtime_checkable
class Movable(Protocol):
    """A tensor, or an immutable value of tensors that moves like one: `to` returns another, or itself if it is there.

    A module is none: it moves in place, and has neither `device` nor `nbytes`.
    """

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""

    @property
    def nbytes(self) -> int:
        """Bytes that `to` copies."""

    def to(self, device: torch.device | str) -> Movable:
        """The same value on `device`."""


def normal_tensors(build: Callable[P, T]) -> Callable[P, T]:
    """Decorator for what fills a cache: the tensors that `build` makes are normal ones, also in inference mode.

    A host such as ComfyUI calls us under torch.inference_mode. What is made there is an inference tensor for good, and
    autograd refuses to save one ("Inference tensors cannot be saved for backward"): a cached one would break a training
    later in the same process.
    """

    @wraps(build)
    def built(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_inference_mode_enabled():
            return build(*args, **kwargs)
        # Leaving inference mode turns gradients on.
        with torch.inference_mode(False), torch.no_grad():
            return build(*args, **kwargs)

    return built


def device_guard(launch: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a function that launches Triton kernels: it runs on the GPU of its first tensor.

    Triton launches on torch's current device, wherever the tensors are. The device is that of the first argument that
    is a tensor, a dataclass with one, or a torch.device. Costs about 1 µs a call.

    Raises TypeError where no argument has a device.
    """

    @wraps(launch)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        index = _gpu_of(args)
        if index is None:
            index = _gpu_of(kwargs.values())
        if index is None:
            raise TypeError(f"{launch.__qualname__}: expected an argument with a tensor, whose device it launches on")
        # Code from torch.compile has guards of its own.
        if index < 0 or torch.compiler.is_compiling() or index == torch.cuda.current_device():
            return launch(*args, **kwargs)
        with torch.cuda.device(index):
            return launch(*args, **kwargs)

    return guarded


def cached_per_device(probe: Callable[P, R]) -> Callable[P, R]:
    """`functools.cache` of a function whose first argument is a device. "cuda" is the current device, which changes."""
    cached = cache(probe)

    @wraps(probe)
    def on_indexed(device: torch.device, *rest: object) -> R:
        return cached(indexed(device), *rest)

    return on_indexed


def indexed(device: torch.device) -> torch.device:
    """The device with its number: "cuda" is the current one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _gpu_of(values: Iterable[object]) -> int | None:
    """The number of the GPU of the first tensor or device in `values`: -1 for the CPU, None where there is neither."""
    for value in values:
        if isinstance(value, Tensor):
            return value.get_device()
        if isinstance(value, torch.device):
            return indexed(value).index if value.type == "cuda" else -1
        found = _gpu_of(vars(value).values()) if is_dataclass(value) else None
        if found is not None:
            return found
    return None


def is_hopper(device: torch.device, *, or_newer: bool = False) -> bool:
    """Whether a device is an NVIDIA card of compute capability 9 or 10: Hopper, or Blackwell for data centres, which
    has the same shared memory.

    or_newer: capabilities above 10 count too, such as 12 of consumer Blackwell: they have the tensor memory
    accelerator, and less than half of the shared memory. False for AMD cards, whose numbers mean other things.
    """
    if device.type != "cuda" or torch.version.hip:
        return False
    major = torch.cuda.get_device_capability(device)[0]
    return major >= 9 if or_newer else major in (9, 10)
