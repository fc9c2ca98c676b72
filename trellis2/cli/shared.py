"""Progress bars, warnings and help texts shared by the commands."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..models import Backends

# Help text of the arguments that name a checkpoint.
CHECKPOINT = "a folder, GGUF files (one, or a name with *), a hub repository, or mini: the built-in one"
# As in ops.attention, which is imported when a command runs.
ATTENTION = ("auto", "cudnn", "sdpa", "reference", "flash-attn-4", "flash-attn-3", "flash-attn-2", "xformers", "sage")


def add_attention(command: ArgumentParser) -> None:
    """Adds --attention."""
    command.add_argument(
        "--attention",
        choices=ATTENTION,
        default="auto",
        help="what computes attention: the fastest exact one that works here (default), torch's (cudnn, sdpa), or a "
        "library that you installed; sage is 8-bit, with slightly different results; see doctor",
    )


def chosen_backends(arguments: Namespace) -> Backends:
    """Returns the backends of --attention. Raises ValueError where the one named does not work on --device."""
    import torch

    from ..capabilities import attention_problem
    from ..models import Backends
    from ..runtime.residency import default_device

    problem = attention_problem(torch.device(arguments.device or default_device()), "auto", arguments.attention)
    if problem is not None:
        raise ValueError(f"--{problem}")
    return Backends(attention=arguments.attention)


def warn(path: Path) -> Callable[[str], None]:
    """Returns a function that prints a line about the file `path` on standard error."""
    return lambda line: print(f"{path}: {line}", file=sys.stderr)


def progress_bars() -> Callable[[str, float], None]:
    """Returns report(stage, fraction), which draws a progress bar per stage on standard error."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def report(stage: str, fraction: float) -> None:
        if stage not in bars:
            form = "{desc} {percentage:3.0f}% |{bar}| {elapsed}"
            # disable=None: no bar where standard error is no terminal, because it moves by control characters.
            bars[stage] = tqdm(total=100, desc=f"{stage:<10}", bar_format=form, disable=None)
        bars[stage].update(round(100 * fraction) - bars[stage].n)
        if fraction >= 1:
            bars[stage].close()

    return report


def metric_bars() -> Callable[[str, float, Mapping[str, float]], None]:
    """Returns report(stage, fraction, metrics), which draws a progress bar per stage, with its last loss, on standard
    error."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def report(stage: str, fraction: float, metrics: Mapping[str, float]) -> None:
        if stage not in bars:
            form = "{desc}{percentage:5.1f}% |{bar}| {postfix}"
            bars[stage] = tqdm(total=1.0, desc=f"{stage:<16}", bar_format=form, disable=None)
        bars[stage].update(fraction - bars[stage].n)
        bars[stage].set_postfix(
            {key: f"{metrics[key]:.4g}" for key in ("step", "loss", "seconds", "waiting", "objects") if key in metrics}
        )
        if fraction >= 1:
            bars[stage].close()

    return report
