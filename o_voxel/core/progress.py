"""Progress callbacks, and how to scale them for parts of a computation.

A callback takes the fraction done, 0 to 1, and cancels the computation by raising.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float], None]
# stage name, fraction of that stage
StageProgress = Callable[[str, float], None]


def silent(fraction: float) -> None:
    """Ignores progress."""


def silent_stages(stage: str, fraction: float) -> None:
    """Ignores progress of a computation in stages."""


def scaled(progress: Progress | None, start: float, share: float) -> Progress:
    """Returns the callback for a part that begins at the fraction `start` and is `share` of the whole."""
    if progress is None:
        return silent
    return lambda fraction: progress(start + share * fraction)


def staged(progress: StageProgress | None, stage: str) -> Progress:
    """Returns the callback for one stage."""
    if progress is None:
        return silent
    return lambda fraction: progress(stage, fraction)
