"""The report as Markdown, compact enough for a bug report, without names of users and their folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ...o_voxel.core.progress import Progress, scaled, silent
from .backends import OpState, op_states
from .facts import cards, disks, versions
from .licences import installed, of_weights
from .self_test import Check, self_test
from .weights import Source, found

# Homes of any user, on any system.
HOMES = re.compile(r"(/home/|/Users/|[A-Za-z]:[\\/]Users[\\/])[^/\\\s:|]+")
PROBE_SHARE = 0.3  # of the bar: trying the backends


def report(
    device: torch.device,
    places: Mapping[str, Path],
    sources: Sequence[Source],
    inside: Mapping[str, str] | None = None,
    *,
    test: bool = False,
    progress: Progress = silent,
) -> tuple[str, list[Check]]:
    """Returns the report on this machine as Markdown, and the checks of the self-test, which are failures where they
    have a problem.

    places: what is written where, such as weights and outputs.  sources: checkpoints to look for.  inside: the host's
    name and version.  test: run the self-test, some 20 seconds.  progress: may raise to cancel.
    """
    states = op_states(device)
    progress(PROBE_SHARE if test else 1.0)
    checks = self_test(device, scaled(progress, PROBE_SHARE, 1 - PROBE_SHARE)) if test else []
    parts = [
        "### TRELLIS.2 doctor",
        _table(("", ""), [*versions(inside or {}), *cards(device), *disks(places)]),
        *_ops(states),
        "**Weights**",
        _table(("checkpoint", "state", "licence"), [(*row, of_weights(row[0])) for row in found(sources)]),
        "**Optional parts installed**",
        _table(("part", "licence", "for"), installed()),
    ]
    if test:
        parts += ["**Self-test**", *_checks(checks)]
    return redacted("\n\n".join(parts) + "\n"), checks


def redacted(text: str) -> str:
    """Returns `text` with ~ in place of home folders, of this and of any other user."""
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(home + os.sep, f"~{os.sep}").replace(f"{home}\n", "~\n").replace(f"{home} ", "~ ")
    return HOMES.sub("~", text)


def _ops(states: Sequence[OpState]) -> list[str]:
    rows = [(state.op, state.chosen, "; ".join(f"{name}: {why}" for name, why in state.others)) for state in states]
    libraries = [(name, state.op, why, licence) for state in states for name, why, licence in state.libraries]
    return [
        "**Backends**",
        _table(("op", "runs on", "others"), rows),
        "**Libraries that you may install**",
        _table(("library", "op", "state", "licence"), libraries),
    ]


def _checks(checks: Sequence[Check]) -> list[str]:
    rows = [(check.name, check.problem or f"ok, {check.note}", f"{check.seconds:.1f} s") for check in checks]
    bad = sum(bool(check.problem) for check in checks)
    total = sum(check.seconds for check in checks)
    verdict = f"{bad} of {len(checks)} failed" if bad else f"all {len(checks)} good"
    return [_table(("what", "result", "time"), rows), f"{verdict}, {total:.0f} s"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "none"
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
