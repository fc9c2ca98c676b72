"""Kernels compiled beside other work, in a thread: numba's, while Triton compiles others or the device computes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)


class Background:
    """Runs each task once in this process, one after another in a thread of its own.

    A task calls a kernel with something small. It changes nothing that others see; where it fails, so will the kernel's
    caller, who says so. The thread is no daemon: the end of the process waits for what is being compiled.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[Callable[[], object]] = set()

    def start(self, tasks: Sequence[Callable[[], object]]) -> threading.Thread | None:
        """Starts the tasks that are new, and returns at once: their thread, None if there are none."""
        with self._lock:
            new = [task for task in tasks if task not in self._known]
            self._known.update(new)
        if not new:
            return None
        thread = threading.Thread(target=_run, args=(new,), name="o_voxel compile")
        thread.start()
        return thread


def _run(tasks: Sequence[Callable[[], object]]) -> None:
    for task in tasks:
        try:
            task()
        except Exception as error:  # noqa: BLE001 its caller meets the same, in its own thread
            log.debug("compiling beside other work failed: %s", error)


BACKGROUND = Background()

__all__ = ["BACKGROUND", "Background"]
