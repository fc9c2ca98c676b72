"""Python's garbage collector, paused where very many objects are made that all stay.

Beside torch it looks at a million objects each time that enough new ones were made: a sixth of the time in which numba
compiles, and half of that in which it is imported.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Pause:
    """Pauses the collector from the first `begin` to the last `end`, of whatever thread, if it was on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._was_on = False

    def begin(self) -> None:
        """Pauses it, if nothing else has."""
        with self._lock:
            if self._depth == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._depth += 1

    def end(self) -> None:
        """Lets it go on, if nothing else pauses it."""
        with self._lock:
            self._depth = max(0, self._depth - 1)
            if self._depth == 0 and self._was_on:
                gc.enable()


PAUSE = Pause()


@contextmanager
def paused() -> Iterator[None]:
    """Pauses the collector."""
    PAUSE.begin()
    try:
        yield
    finally:
        PAUSE.end()


__all__ = ["PAUSE", "Pause", "paused"]
