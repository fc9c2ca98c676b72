"""Says in the log that kernels are being compiled, which happens once on a machine and may take long.

`kernel_cpu.py` calls it at numba's compile events, `kernel.py` after Triton's compilations: never where a kernel runs.
"""

from __future__ import annotations

import logging
import threading
import time

log = logging.getLogger(__name__)

# Compiling that ends sooner is not worth a line.
SILENT_SECONDS = 1.0
# After so long a pause, kernels that come one by one are announced again.
PAUSE_SECONDS = 60.0
MESSAGE = "compiling kernels for this machine (first use) …"


class CompileNotice:
    """Logs MESSAGE when compiling has taken SILENT_SECONDS, once until it pauses as long, and then what it took.

    Threads may compile at the same time, and a compilation may begin others; all count as one.
    kernels: how many compilations there were.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._begun = self._ended = float("-inf")
        self._said = False
        self.kernels = 0

    def begin(self) -> None:
        """Notes that a compilation begins."""
        with self._lock:
            self.kernels += 1
            self._running += 1
            now = time.monotonic()
            if self._running > 1:
                return
            if now - self._ended > SILENT_SECONDS:
                self._begun, self._said = now, False
            wait = max(0.0, self._begun + SILENT_SECONDS - now)
        timer = threading.Timer(wait, self._say)
        timer.daemon = True
        timer.start()

    def end(self) -> None:
        """Notes that one ends."""
        with self._lock:
            self._running = max(0, self._running - 1)
            self._ended = time.monotonic()
            if self._said and not self._running:
                log.info("kernels compiled after %.1f s; they are kept for the next start", self._ended - self._begun)

    def compiled(self) -> None:
        """Notes that a kernel was compiled of which the beginning was not seen; says so at once, others will follow."""
        with self._lock:
            self.kernels += 1
            now = time.monotonic()
            said, self._ended = self._said and now - self._ended <= PAUSE_SECONDS, now
            self._said = True
        if not said:
            log.info(MESSAGE)

    def _say(self) -> None:
        with self._lock:
            if self._said or not self._running:
                return
            self._said = True
        log.info(MESSAGE)


NOTICE = CompileNotice()
