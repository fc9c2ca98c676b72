"""Measures a download: what has arrived, how fast, and how long the rest takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

# Seconds between two lines in the log, and between two texts for the user.
LOG_SECONDS = 5.0
TELL_SECONDS = 1.0
# Seconds over which the speed is averaged.
AVERAGED = 5.0
# huggingface_hub reports after so many bytes.
CHUNK = 10 << 20


class Meter:
    """Counts bytes: the fraction done, bytes a second, and the rest of the time.

    Between two reports, which are far apart on a slow line, it counts on at the measured speed, up to the next one.
    tell: is given `line` once in TELL_SECONDS.
    """

    def __init__(self, name: str, total: int | None, tell: Callable[[str], None] | None = None) -> None:
        self.name, self.total, self.done = name, total, 0
        self._begun = self._last = self._logged = self._told = time.monotonic()
        self._rate, self._shown, self._tell, self._has_told = 0.0, 0.0, tell, False

    def resume(self, done: int) -> None:
        """Sets the number of bytes that were there before."""
        self.done, self._begun, self._last = done, time.monotonic(), time.monotonic()

    def add(self, count: int) -> None:
        """Counts bytes that arrived."""
        now = time.monotonic()
        passed = max(now - self._last, 1e-3)
        share = min(1.0, passed / AVERAGED) if self._rate else 1.0
        self._rate += share * (count / passed - self._rate)
        self.done, self._last = self.done + count, now

    def fraction(self) -> float:
        """The fraction done, below 1; never falls. 0 while the size is not known. Writes to the log now and then."""
        now = time.monotonic()
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            log.info("%s", self.line())
        if self._tell is not None and now - self._told >= TELL_SECONDS:
            self._told, self._has_told = now, True
            self._tell(self.line())
        if self.total:
            ahead = min(self._rate * (now - self._last), CHUNK)
            self._shown = max(self._shown, min(0.999, (self.done + ahead) / self.total))
        return self._shown

    def end(self) -> None:
        """Tells that the file is there, where it told of it before: a text stays on a node until the next one."""
        if self._tell is not None and self._has_told:
            self._tell(f"{self.name} is downloaded")

    def line(self) -> str:
        """As "model.safetensors: 1.2 of 4.9 GB, 23.4 MB/s, 2:38 left"."""
        if not self.total:
            return f"{self.name}: {self.done / 1e6:,.0f} MB, {self._rate / 1e6:.1f} MB/s"
        unit, size = ("GB", 1e9) if self.total >= 1e9 else ("MB", 1e6)
        text = f"{self.name}: {self.done / size:.1f} of {self.total / size:.1f} {unit}, {self._rate / 1e6:.1f} MB/s"
        left = (self.total - self.done) / self._rate if self._rate else 0.0
        return f"{text}, {int(left) // 60}:{int(left) % 60:02} left" if left else text
