"""Progress bars, warnings and help texts shared by the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

# Help text of the arguments that name a checkpoint.
CHECKPOINT = "a folder, GGUF files (one, or a name with *), a hub repository, or mini: the built-in one"


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
        bars[stage].set_postfix({key: f"{metrics[key]:.4g}" for key in ("step", "loss", "seconds") if key in metrics})
        if fraction >= 1:
            bars[stage].close()

    return report
