"""The doctor and make-tiny commands: a report on this machine, and a tiny checkpoint for trials."""

from __future__ import annotations

import argparse
from pathlib import Path

from .checks import check_device
from .shared import progress_bars


def add_commands(commands: argparse._SubParsersAction) -> None:
    """doctor, make-tiny"""
    doctor = commands.add_parser(
        "doctor", help="a report on this machine for bug reports: versions, backends, weights, licences"
    )
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("--device", help="the device to report on (default: the best available)")
    doctor.add_argument(
        "--self-test", action="store_true", help="also make an object and try an op of each kind, about 20 seconds"
    )
    doctor.add_argument(
        "--model", action="append", default=[], metavar="MODEL", help="also look for this checkpoint; repeat it"
    )

    tiny = commands.add_parser("make-tiny", help="write a tiny random checkpoint in the published layout")
    tiny.set_defaults(command=_make_tiny)
    tiny.add_argument("folder", type=Path, metavar="DIR")
    tiny.add_argument("--seed", type=int, default=0)


def _doctor(arguments: argparse.Namespace) -> int:
    import torch

    from ..doctor.report import report
    from ..doctor.weights import Source, known_sources
    from ..runtime.residency import default_device

    check_device(arguments.device)
    device = torch.device(arguments.device or default_device())
    sources = [*known_sources(), *(Source(name, name) for name in arguments.model)]
    places = {"downloads": _hub_cache(), "this folder": Path.cwd()}
    bar = progress_bars()
    text, checks = report(
        device, places, sources, test=arguments.self_test, progress=lambda fraction: bar("doctor", fraction)
    )
    print(text, end="")
    return 1 if any(check.problem for check in checks) else 0


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _make_tiny(arguments: argparse.Namespace) -> int:
    from ..checkpoint.tiny import make_tiny

    print(f"wrote {make_tiny(arguments.folder, arguments.seed)}")
    return 0
