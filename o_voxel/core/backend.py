"""Which implementation of an op runs: an argument, resolved here and nowhere else.

An op lists its choices, fastest first. A choice's probe says None when it works for a device and dtype, else the
reason why not; a probe of a kernel launches it for real. "auto" takes the first that works; a named choice that does
not work raises, because another backend would silently give other numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache, wraps
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Probe = Callable[[torch.device, torch.dtype], str | None]
P, R = ParamSpec("P"), TypeVar("R")


@dataclass(frozen=True)
class Backend:
    """One implementation of an op. probe(device, dtype): None when usable, else the reason."""

    name: str
    probe: Probe


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


def always(device: torch.device, dtype: torch.dtype) -> str | None:
    """The probe of an implementation that runs wherever torch does."""
    return None


def resolve_backend(
    requested: str, choices: Sequence[Backend], device: torch.device, dtype: torch.dtype = torch.float32
) -> str:
    """The name of the implementation to use.

    Raises ValueError for an unknown name, or a named choice that does not work here, with the reason.
    """
    names = [choice.name for choice in choices]
    if requested != "auto" and requested not in names:
        raise ValueError(f"backend: expected 'auto' or one of {names}, got {requested!r}")
    reasons = {}
    for choice in choices:
        if requested in ("auto", choice.name):
            reasons[choice.name] = choice.probe(device, dtype)
            if reasons[choice.name] is None:
                return choice.name
    raise ValueError(f"backend {requested!r} does not work on {device} with {dtype}: {reasons}")


def explain(choices: Sequence[Backend], device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """Each choice's state in one word or one reason; the one that "auto" takes reads "chosen"."""
    states: dict[str, str] = {}
    for choice in choices:
        reason = choice.probe(device, dtype)
        taken = "chosen" in states.values()
        states[choice.name] = reason or ("works" if taken else "chosen")
    return states


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


def numba_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    """The probe of a numba implementation."""
    if device.type != "cpu":
        return f"runs on the CPU, not on {device}"
    return None if find_spec("numba") else "numba is not installed"


def triton_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    """The probe of a Triton kernel: compiles and launches a small one, once a device."""
    if device.type != "cuda":
        return f"runs on a GPU, not on {device}"
    return _launch_triton(device)


@cached_per_device
def _launch_triton(device: torch.device) -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed"
    try:
        from .kernel import probe

        probe(device)
    except Exception as error:  # noqa: BLE001 a compiler, driver or header problem of any kind means no Triton
        log.warning("Triton does not work on %s, falling back to plain torch: %s", device, error)
        return f"a test kernel failed: {type(error).__name__}: {str(error)[:200]}"
    return None
