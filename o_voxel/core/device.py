"""Device utilities: the Movable protocol, device guards for Triton launches, per-device caches, inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from functools import cache, wraps
from typing import ParamSpec, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@runtime_checkable
class Movable(Protocol):
    """A tensor, or an immutable value of tensors with the same interface: `to` returns a copy, or itself.

    nn.Module does not match: it moves in place, and has neither `device` nor `nbytes`.
    """

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""

    @property
    def nbytes(self) -> int:
        """Bytes that `to` copies."""

    def to(self, device: torch.device | str) -> Movable:
        """Returns the value on `device`."""


def normal_tensors(build: Callable[P, T]) -> Callable[P, T]:
    """Decorator for functions that build cached tensors: runs `build` outside inference mode, without gradients.

    A host such as ComfyUI calls this package under torch.inference_mode. Tensors made there stay inference tensors, and
    autograd refuses to save them ("Inference tensors cannot be saved for backward"): a cached one would break training
    later in the same process.
    """

    @wraps(build)
    def built(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_inference_mode_enabled():
            return build(*args, **kwargs)
        # Leaving inference mode enables gradients.
        with torch.inference_mode(False), torch.no_grad():
            return build(*args, **kwargs)

    return built


def device_guard(launch: Callable[P, R]) -> Callable[P, R]:
    """Decorator for functions that launch Triton kernels: makes the GPU of the first tensor argument current.

    Triton launches on torch's current device, wherever the tensors are. The device is taken from the first argument
    that is a tensor, a dataclass with one, or a torch.device. Costs about 1 µs per call.

    Raises TypeError if no argument has a device.
    """

    @wraps(launch)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        index = _gpu_of(args)
        if index is None:
            index = _gpu_of(kwargs.values())
        if index is None:
            raise TypeError(f"{launch.__qualname__}: expected an argument with a tensor or a device to launch on")
        # Code compiled by torch.compile has its own device guards.
        if index < 0 or torch.compiler.is_compiling() or index == torch.cuda.current_device():
            return launch(*args, **kwargs)
        with torch.cuda.device(index):
            return launch(*args, **kwargs)

    return guarded


def cached_per_device(probe: Callable[P, R]) -> Callable[P, R]:
    """`functools.cache` for functions whose first argument is a device; "cuda" is resolved to the current device."""
    cached = cache(probe)

    @wraps(probe)
    def on_indexed(device: torch.device, *rest: object) -> R:
        return cached(indexed(device), *rest)

    return cast(Callable[P, R], on_indexed)


def indexed(device: torch.device) -> torch.device:
    """Returns the device with an explicit index; "cuda" becomes the current device."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _gpu_of(values: Iterable[object]) -> int | None:
    """Returns the GPU index of the first tensor or device in `values`: -1 for the CPU, None without either."""
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
    """True for NVIDIA GPUs of compute capability 9 or 10: Hopper, and data-centre Blackwell, which has the same shared
    memory size.

    or_newer: also accept capabilities above 10, such as 12 (consumer Blackwell), which have the tensor memory
    accelerator but less than half of the shared memory. False for AMD GPUs, whose capability numbers differ.
    """
    if device.type != "cuda" or torch.version.hip:
        return False
    major = torch.cuda.get_device_capability(device)[0]
    return major >= 9 if or_newer else major in (9, 10)
