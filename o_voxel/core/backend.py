"""Which implementation of an op runs: an argument, resolved here and nowhere else.

An op lists its choices, fastest first. A choice's probe says None when it works for a device and dtype, else the
reason why not; a probe of a kernel launches it for real. "auto" takes the first that works; a named choice that does
not work raises, because another backend would silently give other numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from .device import cached_per_device

log = logging.getLogger(__name__)

Probe = Callable[[torch.device, torch.dtype], str | None]


@dataclass(frozen=True)
class Backend:
    """One implementation of an op. probe(device, dtype): None when usable, else the reason."""

    name: str
    probe: Probe


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
