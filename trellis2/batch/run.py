"""Runs a batch: skips what is finished, gives the rest to one worker or to several, and keeps the table."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from ...o_voxel.core.progress import scaled
from ..checkpoint.layouts import Checkpoint
from .results import DONE, FAILED, Result, opened
from .rows import Row
from .worker import POLL, BatchStoppedError, Worker

# Rows in turn whose worker ended twice: what ends it is then not the row.
MOST_LOST = 2
# report(line, fraction of the whole batch); may raise to cancel.
Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Summary:
    """How a batch ended. results: of all rows, in their order.  skipped: how many were finished before."""

    table: Path
    results: tuple[Result, ...]
    skipped: int
    seconds: float

    @property
    def failed(self) -> tuple[Result, ...]:
        """The rows that could not be made."""
        return tuple(result for result in self.results if result.status == FAILED)

    def lines(self) -> list[str]:
        """Returns what to tell the user: the counts, then a line a failure."""
        done = sum(result.status == DONE for result in self.results)
        made, failed = done - self.skipped, self.failed
        before = f", {self.skipped} of them before" if self.skipped else ""
        rate = f", {self.seconds / made:.1f} s each" if made else ""
        counts = f"{done} of {len(self.results)} made{before}{rate}" + (f"; {len(failed)} failed" if failed else "")
        return [counts, *(f"{result.image}: {result.error}" for result in failed)]


class Engine(Protocol):
    """Makes rows, in any order."""

    def results(self, rows: Sequence[Row], folder: Path, report: Report) -> Iterator[Result]:
        """Yields a result for each row, as it is ready. report: called at least every second; may raise to cancel."""


def run_batch(
    rows: Sequence[Row],
    folder: Path,
    engine: Engine,
    common: Mapping[str, str],
    *,
    report: Report | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> Summary:
    """Makes the files of `rows` in `folder`, with results.csv beside them, and returns how it ended.

    A row is skipped if the table has it as done, of the same picture (by its SHA-256) with the same settings, and its
    file is there; failed ones are tried again. A failure goes into the table and stops nothing. Each line is on the
    disk before the next row begins, so that a kill loses what is being made, no more. common: see `common_settings`.
    report: may raise to cancel; what is done stays.
    Raises ValueError where another process writes to the folder; BatchStoppedError if nothing can be made any more.
    """
    tell = report or (lambda line, fraction: None)
    begun = time.monotonic()
    with opened(folder, [row.file for row in rows]) as table:
        left = []
        for number, row in enumerate(rows):
            tell(f"looking at {row.image.name}", 0.0)
            if table.finished(row, common) is None:
                left.append((number, row))
        skipped = len(rows) - len(left)
        bar = _counted(tell, skipped, len(rows))
        for result in engine.results([row for _, row in left], folder, bar):
            table.add(result)
            if on_result is not None:
                on_result(result)
        results = tuple(table.known[row.file] for row in rows if row.file in table.known)
        return Summary(table.path, results, skipped, time.monotonic() - begun)


def common_settings(checkpoint: Checkpoint, **more: str) -> dict[str, str]:
    """Returns what all rows share: the checkpoint's name, a digest of its settings, its number format, and `more`."""
    config = hashlib.sha256(repr(checkpoint.config).encode()).hexdigest()[:12]
    return {"model": checkpoint.name, "config": config, "quantization": checkpoint.quantization, **more}


@dataclass(frozen=True)
class InProcess:
    """Makes rows in this process, one after the other."""

    worker: Worker

    def results(self, rows: Sequence[Row], folder: Path, report: Report) -> Iterator[Result]:
        """See `Engine`."""
        try:
            for number, row in enumerate(rows):
                upcoming = rows[number + 1] if number + 1 < len(rows) else None
                bar = scaled(lambda share, row=row: report(row.name, share), number / len(rows), 1 / len(rows))
                yield self.worker.make(row, folder, upcoming, bar)
        finally:
            self.worker.close()


class Remote(Protocol):
    """A worker elsewhere: in another process, or on another host."""

    name: str

    def make(self, row: Row, folder: Path, upcoming: Row | None) -> Result:
        """Makes a row; waits for it. Raises OSError if the worker ended."""

    def stop(self) -> None:
        """Ends the worker at once, whatever it does; called from another thread, and once more at the end."""


@dataclass(frozen=True)
class Spread:
    """Makes rows with several workers, each a row at a time. start: makes one; it is called again for one that ended.

    A row whose worker ended twice is a failure.
    """

    starters: Sequence[Callable[[], Remote]]

    def results(self, rows: Sequence[Row], folder: Path, report: Report) -> Iterator[Result]:
        """See `Engine`."""
        crew = _Crew(list(rows), folder)
        # No more workers than rows: each takes seconds to start and gigabytes of a card.
        threads = [
            threading.Thread(target=crew.work, args=(start,), name=f"batch worker {number}", daemon=True)
            for number, start in enumerate(self.starters[: len(rows)])
        ]
        for thread in threads:
            thread.start()
        done = 0
        try:
            while done < len(rows):
                report(f"{crew.busy()} at work", done / len(rows))
                try:
                    outcome = crew.outcomes.get(timeout=POLL)
                except Empty:
                    continue
                if isinstance(outcome, BaseException):
                    raise outcome
                done += 1
                yield outcome
        finally:
            crew.stop()
            for thread in threads:
                thread.join(10.0)


class _Crew:
    """What the threads of `Spread` share: the rows left, and who prepares which."""

    def __init__(self, rows: list[Row], folder: Path) -> None:
        self._rows, self._folder = rows, folder
        self._promised: dict[str, Row] = {}
        self._workers: dict[str, Remote] = {}
        self._lock, self._stopped = threading.Lock(), False
        self.outcomes: SimpleQueue[Result | BaseException] = SimpleQueue()

    def busy(self) -> str:
        """Returns the names of the workers."""
        with self._lock:
            return ", ".join(sorted(worker.name for worker in self._workers.values())) or "workers are starting"

    def work(self, start: Callable[[], Remote]) -> None:
        """Makes rows until none is left; the thread of one worker."""
        me, worker, lost = threading.current_thread().name, None, 0
        try:
            while (taken := self._take(me)) is not None:
                row, upcoming = taken
                for attempt in (1, 2):
                    try:
                        worker = worker or self._hired(me, start)
                        self.outcomes.put(worker.make(row, self._folder, upcoming))
                        lost = 0
                        break
                    except WorkerEndedError as error:
                        worker = None
                        if self._stopped:
                            return
                        if attempt == 2:
                            lost += 1
                            self.outcomes.put(_lost(row, error))
                            if lost == MOST_LOST:
                                raise BatchStoppedError(None, f"{MOST_LOST} rows in turn: {error}") from error
        except BaseException as error:  # noqa: BLE001 raised again in the caller's thread
            if not self._stopped:
                self.outcomes.put(error)
        finally:
            if worker is not None:
                worker.stop()

    def _hired(self, me: str, start: Callable[[], Remote]) -> Remote:
        worker = start()
        with self._lock:
            if not self._stopped:
                self._workers[me] = worker
                return worker
        worker.stop()
        raise WorkerEndedError("the batch was stopped")

    def stop(self) -> None:
        """Ends all workers."""
        with self._lock:
            self._stopped = True
            self._rows.clear()
            workers = list(self._workers.values())
        for worker in workers:
            worker.stop()

    def _take(self, me: str) -> tuple[Row, Row | None] | None:
        """Returns the next row, the promised one if nobody took it, and the one to prepare meanwhile."""
        with self._lock:
            promised = self._promised.pop(me, None)
            if not self._rows or self._stopped:
                return None
            row = promised if promised in self._rows else self._rows[0]
            self._rows.remove(row)
            free = [other for other in self._rows if other not in self._promised.values()]
            if free:
                self._promised[me] = free[0]
            return row, free[0] if free else None


class WorkerEndedError(OSError):
    """A worker ended before it answered."""


def _lost(row: Row, error: BaseException) -> Result:
    return Result(file=row.file, image=row.image.name, seed=row.options.seed, status=FAILED, error=str(error))


def _counted(tell: Report, skipped: int, total: int) -> Report:
    """A report over the rows that are left, as one over all."""
    left = total - skipped
    return lambda line, share: tell(line, (skipped + share * left) / total if total else 1.0)


__all__ = [
    "BatchStoppedError",
    "Engine",
    "InProcess",
    "Remote",
    "Report",
    "Spread",
    "Summary",
    "WorkerEndedError",
    "common_settings",
    "run_batch",
]
