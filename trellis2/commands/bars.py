"""Progress on standard error."""

from __future__ import annotations

from collections.abc import Callable


def progress_bars() -> Callable[[str, float], None]:
    """A progress bar a stage, on standard error."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def report(stage: str, fraction: float) -> None:
        if stage not in bars:
            bars[stage] = tqdm(total=100, desc=f"{stage:<10}", bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}")
        bars[stage].update(round(100 * fraction) - bars[stage].n)
        if fraction >= 1:
            bars[stage].close()

    return report
