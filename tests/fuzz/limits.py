"""What a parser may do with any input: raise the documented errors, in seconds and a multiple of the file's size."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

SECONDS = 5
BYTES, FACTOR = 64 << 20, 10
# Errors that a parser may raise; ImportError for the packages of optional codecs.
REFUSALS = (ValueError, OSError, ImportError)


class Hang(BaseException):
    """SECONDS of one core have passed."""


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Runs a block on an input of `size` bytes within the limits; a larger allocation fails, as MemoryError or
    RuntimeError. Limits hold on Linux only, and in the main thread."""
    if resource is None or not sys.platform.startswith("linux"):
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _raise_hang)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    # The sixth number: private writable pages, of which the limit counts the bytes.
    pages = int(Path("/proc/self/statm").read_bytes().split()[5])
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + BYTES + FACTOR * size, hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        signal.signal(signal.SIGVTALRM, before)


def _raise_hang(*_: object) -> None:
    raise Hang(f"expected an end within {SECONDS} s of one core")
