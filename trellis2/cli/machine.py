"""The doctor, precompile and make-tiny commands: a report on this machine, its kernels compiled ahead, and a tiny
checkpoint for trials."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from .checks import check_device
from .shared import progress_bars

NICE = 10  # of 19: after whatever else wants the cores


def add_commands(commands: argparse._SubParsersAction) -> None:
    """doctor, precompile, make-tiny"""
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

    ahead = commands.add_parser(
        "precompile", help="compile the kernels of this machine before the first use, once; seconds if nothing is left"
    )
    ahead.set_defaults(command=_precompile)
    ahead.add_argument("--device", help="the device to compile for (default: the best available)")
    ahead.add_argument(
        "--comfyui",
        action="store_true",
        help="for ComfyUI, which loads the pack under another name than this command",
    )
    ahead.add_argument(
        "--workers", type=int, help="processes beside each other (default: one for two cores, at most 4)"
    )
    ahead.add_argument("--quietly", action="store_true", help="at a low priority, for a run in the background")

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


def _precompile(arguments: argparse.Namespace) -> int:
    import torch

    from ..precompile import PrecompileError, precompile
    from ..precompile.run import PACKAGE, host_package
    from ..runtime.residency import default_device

    check_device(arguments.device)
    if arguments.quietly and hasattr(os, "nice"):
        os.nice(NICE)
    device, bar, begun = torch.device(arguments.device or default_device()), progress_bars(), time.monotonic()
    try:
        outcomes = precompile(
            device,
            package=host_package() if arguments.comfyui else PACKAGE,
            workers=arguments.workers,
            progress=lambda fraction: bar("compile", fraction),
        )
    except PrecompileError as error:
        print(f"trellis2: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("trellis2: interrupted; what was compiled is kept", file=sys.stderr)
        return 130
    for outcome in outcomes:
        said = outcome.problem or (f"{outcome.kernels} compiled" if outcome.kernels else "nothing was left to compile")
        print(f"{outcome.part:<12} {outcome.seconds:6.1f} s  {said}")
    kernels, failed = sum(outcome.kernels for outcome in outcomes), sum(bool(outcome.problem) for outcome in outcomes)
    print(
        f"{kernels} kernels compiled for {device}" if kernels else f"nothing was left to compile for {device}",
        f"in {time.monotonic() - begun:.1f} s" + (f"; {failed} of {len(outcomes)} parts failed" if failed else ""),
    )
    return 1 if failed else 0


def _make_tiny(arguments: argparse.Namespace) -> int:
    from ..checkpoint.tiny import make_tiny

    print(f"wrote {make_tiny(arguments.folder, arguments.seed)}")
    return 0
