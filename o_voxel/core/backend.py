"""Backend selection: the implementation of an op is an argument, resolved here only.

An op lists its backends, fastest first. A backend's probe returns None if it works for a device and dtype, else the
reason; the probe of a kernel launches it. "auto" takes the first automatic backend that works. A named backend that
does not work raises instead of falling back, because another backend would silently return different numbers.
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
    """An implementation of an op. probe(device, dtype) returns None when it is usable, else the reason.

    automatic: "auto" may take it.  when: for what "auto" takes it, "" for everything.  licence: of a library that is
    not a part of this package; the library is never installed by it.
    """

    name: str
    probe: Probe
    automatic: bool = True
    when: str = ""
    licence: str = ""


def always(device: torch.device, dtype: torch.dtype) -> str | None:
    """Probe of an implementation that runs wherever torch does."""
    return None


def resolve_backend(
    requested: str, choices: Sequence[Backend], device: torch.device, dtype: torch.dtype = torch.float32
) -> str:
    """Returns the name of the implementation to use.

    Raises ValueError for an unknown name, or, with the reason, for a named backend that does not work here.
    """
    names = [choice.name for choice in choices]
    if requested != "auto" and requested not in names:
        raise ValueError(f"backend: expected 'auto' or one of {names}, got {requested!r}")
    reasons = {}
    for choice in choices:
        if requested == choice.name or (requested == "auto" and choice.automatic):
            reasons[choice.name] = choice.probe(device, dtype)
            if reasons[choice.name] is None:
                return choice.name
    raise ValueError(f"backend {requested!r} does not work on {device} with {dtype}: {reasons}")


def explain(choices: Sequence[Backend], device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """Returns each backend's state: "chosen" (used by "auto", with what for), "works", "works, taken by name only", or
    the reason why it does not work."""
    states: dict[str, str] = {}
    for choice in choices:
        state = choice.probe(device, dtype)
        if state is None and not choice.automatic:
            state = "works, taken by name only"
        elif state is None:
            state = "works" if "chosen" in states.values() else f"chosen {choice.when}".strip()
        states[choice.name] = state
    return states


def numba_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    """Probe of a numba implementation: needs a CPU device and an installed numba."""
    if device.type != "cpu":
        return f"runs on the CPU, not on {device}"
    return None if find_spec("numba") else "numba is not installed"


def triton_probe(device: torch.device, dtype: torch.dtype) -> str | None:
    """Probe of a Triton kernel: compiles and launches a small one, once per device."""
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
