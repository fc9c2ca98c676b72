"""Progress bars and help texts shared by the commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# Help text of the arguments that name a checkpoint.
CHECKPOINT = "a folder, a hub repository, or mini: the built-in one"


def progress_bars() -> Callable[[str, float], None]:
    """Returns report(stage, fraction), which draws a progress bar per stage on standard error."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def report(stage: str, fraction: float) -> None:
        if stage not in bars:
            bars[stage] = tqdm(total=100, desc=f"{stage:<10}", bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}")
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
            bars[stage] = tqdm(total=1.0, desc=f"{stage:<16}", bar_format="{desc}{percentage:5.1f}% |{bar}| {postfix}")
        bars[stage].update(fraction - bars[stage].n)
        bars[stage].set_postfix({key: f"{metrics[key]:.4g}" for key in ("step", "loss", "seconds") if key in metrics})
        if fraction >= 1:
            bars[stage].close()

    return report
