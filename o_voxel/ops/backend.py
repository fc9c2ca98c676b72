"""Which implementation of an op runs: an argument, resolved here and nowhere else.

An op lists its choices, fastest first. A choice's probe says None when it works for a device and dtype, else the
reason why not; a probe of a kernel launches it for real. "auto" takes the first that works; a named choice that does
not work raises, because another backend would silently give other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Probe = Callable[[torch.device, torch.dtype], str | None]


@dataclass(frozen=True)
class Choice:
    """One implementation of an op. probe(device, dtype): None when usable, else the reason."""

    name: str
    probe: Probe


def always(device: torch.device, dtype: torch.dtype) -> str | None:
    """The probe of an implementation that runs wherever torch does."""
    return None


def resolve_backend(
    requested: str, choices: Sequence[Choice], device: torch.device, dtype: torch.dtype = torch.float32
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


def explain(choices: Sequence[Choice], device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """Each choice's state in one word or one reason; the one that "auto" takes reads "chosen"."""
    states: dict[str, str] = {}
    for choice in choices:
        reason = choice.probe(device, dtype)
        taken = "chosen" in states.values()
        states[choice.name] = reason or ("works" if taken else "chosen")
    return states
