"""Which implementation of each op runs on a device, and why not a faster one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ...o_voxel.core.backend import Backend, explain
from ...o_voxel.core.foreign import forget
from ..capabilities import torso_dtype


@dataclass(frozen=True)
class OpState:
    """Backends of one op. chosen: what "auto" takes, with what for.  others: (name, state).  libraries: of those that a
    user may install, (name, state, licence)."""

    op: str
    chosen: str
    others: tuple[tuple[str, str], ...]
    libraries: tuple[tuple[str, str, str], ...]


def op_states(device: torch.device) -> list[OpState]:
    """Returns the state of every op of both packages; libraries are tried anew, in a process of their own."""
    forget()
    return [_state(name, backends, device, dtype) for name, backends, dtype in _ops(device)]


def _ops(device: torch.device) -> Iterator[tuple[str, Sequence[Backend], torch.dtype]]:
    for package, dtype in (("o_voxel", torch.float32), ("trellis2", torso_dtype(device))):
        operations = importlib.import_module(f"....{package}.ops", __name__)
        for _, name, is_package in pkgutil.iter_modules(operations.__path__):
            if is_package:
                yield f"{package}.{name}", importlib.import_module(f"{operations.__name__}.{name}").BACKENDS, dtype


def _state(op: str, backends: Sequence[Backend], device: torch.device, dtype: torch.dtype) -> OpState:
    states = explain(backends, device, dtype)
    own = [choice for choice in backends if not choice.licence]
    chosen = [choice for choice in backends if states[choice.name].startswith("chosen")]
    names = [f"{choice.name} {states[choice.name].removeprefix('chosen')}".strip() for choice in chosen]
    return OpState(
        op,
        ", ".join(names) or "none",
        tuple((choice.name, states[choice.name]) for choice in own if choice not in chosen),
        tuple((choice.name, states[choice.name], choice.licence) for choice in backends if choice.licence),
    )
