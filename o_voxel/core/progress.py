"""Progress callbacks, and adapters that map a subtask's progress into its parent's.

A callback receives the fraction done, 0 to 1; it may raise to cancel the work.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float], None]
# (stage, fraction of the stage)
StageProgress = Callable[[str, float], None]


def silent(fraction: float) -> None:
    """A progress callback that does nothing."""


def scaled(progress: Progress | None, start: float, share: float) -> Progress:
    """Returns a callback for a subtask that spans [start, start + share] of the parent's progress."""
    if progress is None:
        return silent
    return lambda fraction: progress(start + share * fraction)


def staged(progress: StageProgress | None, stage: str) -> Progress:
    """Returns the progress callback of one stage."""
    if progress is None:
        return silent
    return lambda fraction: progress(stage, fraction)
