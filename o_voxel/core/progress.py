"""Progress of long work: one kind of callback, and how a part of the work reports through the whole's.

A callback takes the fraction done, 0 to 1, and cancels the work by raising.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float], None]
# stage, fraction of it
StageProgress = Callable[[str, float], None]


def silent(fraction: float) -> None:
    """The callback of work that nobody watches."""


def silent_stages(stage: str, fraction: float) -> None:
    """The callback of staged work that nobody watches."""


def scaled(progress: Progress | None, start: float, share: float) -> Progress:
    """The callback of a part of the work that begins at the fraction `start` and is `share` of the whole."""
    if progress is None:
        return silent
    return lambda fraction: progress(start + share * fraction)


def staged(progress: StageProgress | None, stage: str) -> Progress:
    """The callback of one stage."""
    if progress is None:
        return silent
    return lambda fraction: progress(stage, fraction)
