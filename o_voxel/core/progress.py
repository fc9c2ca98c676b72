"""Progress callbacks: adapters that map a subtask's progress into its parent's, and work that cannot report itself.

A callback receives the fraction done, 0 to 1; it may raise to cancel the work.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import torch

Progress = Callable[[float], None]
# (stage, fraction of the stage)
StageProgress = Callable[[str, float], None]
T = TypeVar("T")

# Seconds between two reports of work in the background.
POLL = 0.3
# The largest fraction that a report reaches before the work ends, and the one that the creep goes to beyond it.
ALMOST = 0.98
CREPT = 0.999
# How long the end of the process waits for work in the background to notice, seconds.
EXIT_WAIT = 10.0

# The threads at work, and the event that tells each of them to end.
_running: dict[threading.Thread, threading.Event] = {}


def silent(fraction: float) -> None:
    """A progress callback that does nothing."""


def scaled(progress: Progress | None, start: float, share: float) -> Progress:
    """Returns a callback for a subtask that spans [start, start + share] of the parent's progress."""
    if progress is None or progress is silent:
        return silent
    return lambda fraction: progress(start + share * fraction)


def staged(progress: StageProgress | None, stage: str) -> Progress:
    """Returns the progress callback of one stage."""
    if progress is None:
        return silent
    return lambda fraction: progress(stage, fraction)


class _AbandonedError(BaseException):
    """Ends work in the background whose caller was cancelled. Not an Exception: no handler of the work may take it."""


def in_background(work: Callable[[Progress], T], progress: Progress | None, seconds: float) -> T:
    """Returns work(report), run in another thread while this one calls `progress` at least every POLL seconds.

    For a long call that cannot be divided: it must release the GIL now and then, and be pure. If `progress` raises, its
    error propagates at once; the call then goes on until it ends or calls its `report`, and its result is dropped:
    it must not write files or anything else that others see.

    Each fraction that `work` reports is passed on. Between them the bar creeps on, never back; it is at 1 at the
    end only. seconds: about what the work takes; only the speed of the creep depends on it.
    Without progress, `work` runs in this thread. Gradient and inference mode, the current CUDA device and its stream
    are the caller's. Errors of `work` propagate.
    """
    if progress is None or progress is silent:
        return work(silent)
    left, settings = threading.Event(), _thread_settings()
    reports: SimpleQueue[float | None] = SimpleQueue()
    outcome: list[tuple[Any, BaseException | None]] = []

    def report(fraction: float) -> None:
        if left.is_set():
            raise _AbandonedError
        reports.put(fraction)

    def run() -> None:
        try:
            with ExitStack() as stack:
                for setting in settings:
                    stack.enter_context(setting())
                outcome.append((work(report), None))
        except BaseException as error:  # noqa: BLE001 raised again in the caller's thread
            outcome.append((None, error))
        finally:
            _running.pop(threading.current_thread(), None)
            reports.put(None)

    _end_at_exit()
    # A daemon: an abandoned call does not keep the process from ending for longer than EXIT_WAIT.
    thread = threading.Thread(target=run, name="o_voxel work", daemon=True)
    _running[thread] = left
    thread.start()
    try:
        _pass_on(reports, progress, seconds)
    except BaseException:
        left.set()
        raise
    result, error = outcome[0]
    if error is not None:
        raise error
    progress(1.0)
    return result


@cache
def _end_at_exit() -> None:
    """Has the end of the process tell the threads at work to end, and wait for them: one that still runs torch's C++
    when Python takes its locks away aborts the process."""

    def end_all() -> None:
        threads = list(_running)
        for left in list(_running.values()):
            left.set()
        until = time.monotonic() + EXIT_WAIT
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    atexit.register(end_all)


def _pass_on(reports: SimpleQueue, progress: Progress, seconds: float) -> None:
    """Calls `progress` with the fractions that arrive, until None does.

    Where they do not move the bar, it creeps: alone it would be at t / (t + seconds) of CREPT after t seconds, which
    moves visibly even far beyond them.
    """
    begun = moved = time.monotonic()
    shown = 0.0
    while True:
        try:
            fraction = reports.get(timeout=POLL)
        except Empty:
            fraction = shown
        if fraction is None:
            return
        now, target = time.monotonic(), min(fraction, ALMOST)
        if target <= shown and now - moved >= POLL:
            target = shown + max(0.0, CREPT - shown) * (now - moved) / (now - begun + seconds)
        if target > shown:
            shown, moved = target, now
        progress(shown)


def _thread_settings() -> list[Callable]:
    """What torch keeps for each thread, as functions that return context managers with this thread's values."""
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    settings: list[Callable] = [lambda: torch.inference_mode(inference), lambda: torch.set_grad_enabled(gradients)]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        stream = torch.cuda.current_stream()
        settings.append(lambda: torch.cuda.stream(stream))
    return settings
