"""Runs the parts in processes of their own, with a bar; once at a time for a cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue

import torch

from ...o_voxel.core.file_lock import Lock, locked
from ...o_voxel.core.progress import ALMOST, POLL, Progress, silent
from .parts import PARTS, parts_for
from .worker import MARK

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = __name__.rpartition(".trellis2.")[0]
# numba compiles under one lock a process, so that more threads are of no use, and more processes are; each holds half a
# gigabyte of memory, and about as much of a card.
MOST_WORKERS = 4
CORES_A_WORKER = 2
# The pack by a given name, without its root module, which may need a host.
CHILD = """
import importlib, json, sys, types
asked = json.loads(sys.stdin.buffer.readline())
sys.path[:] = asked["path"]
pack = types.ModuleType(asked["package"])
pack.__path__ = [asked["root"]]
sys.modules[pack.__name__] = pack
importlib.import_module(pack.__name__ + ".trellis2.precompile.worker").main(asked["device"], asked["parts"])
"""


class PrecompileError(RuntimeError):
    """Nothing can be compiled ahead here; the message says why and what to do."""


@dataclass(frozen=True)
class Outcome:
    """What became of a part. kernels: how many were compiled, 0: all were in the cache.  problem: empty if good."""

    part: str
    seconds: float
    kernels: int
    problem: str = ""


def host_package(root: Path = ROOT) -> str:
    """Returns the name under which ComfyUI loads the pack in the folder `root`: its path, without dots."""
    return str(root).replace(".", "_x_")


def precompile(
    device: torch.device,
    *,
    package: str = PACKAGE,
    parts: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> list[Outcome]:
    """Compiles the kernels that this machine's `device` uses into numba's and Triton's own caches on the disk.

    package: the name that the pack will be loaded under, a part of the key of numba's files; ComfyUI's: `host_package`.
    parts: of PARTS, None for all that compile something for the device.  workers: processes beside each other; None:
    one for every two cores, at most four.  progress: called at least every POLL seconds; may raise, which ends the
    processes. What was compiled until then stays; files are written whole or not at all.

    A part that fails stops no other. Raises PrecompileError if there is no cache that can be written and locked, no
    numba and no Triton, or if another process compiles already; ValueError for an unknown part.
    """
    names = parts_for(device) if parts is None else list(parts)
    if unknown := [name for name in names if name not in PARTS]:
        raise ValueError(f"parts: expected some of {list(PARTS)}, got {unknown[0]!r}")
    if find_spec("numba") is None and find_spec("triton") is None:
        raise PrecompileError("neither numba nor Triton is installed: there is nothing to compile")
    folder = cache_folder()
    with locked(folder / "precompile.lock") as lock:
        if lock is Lock.HELD_BY_ANOTHER:
            raise PrecompileError("another process compiles already; wait for it, or end it")
        if lock is Lock.UNAVAILABLE:
            raise PrecompileError(f"files cannot be locked in {folder}: set NUMBA_CACHE_DIR to another folder")
        count = _worker_count(len(names)) if workers is None else workers
        return _Crew(device, package, names, progress).run(max(1, min(count, len(names))))


def cache_folder() -> Path:
    """Returns the folder of numba's compiled files that belong to this copy of the pack. Raises PrecompileError if they
    can be kept nowhere."""
    if find_spec("numba") is None:
        folder = Path(tempfile.gettempdir())
    else:
        try:
            from ...o_voxel.core.kernel_cpu import cache_path

            folder = Path(cache_path())
        except RuntimeError as error:  # numba's, where no place can be written
            raise PrecompileError(f"{error}; set NUMBA_CACHE_DIR to a folder that can be written") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise PrecompileError(
            f"kernels cannot be kept in {folder} ({error.strerror}): set NUMBA_CACHE_DIR to another folder"
        ) from error


def _worker_count(parts: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(parts, MOST_WORKERS, cores // CORES_A_WORKER) if cores >= 2 * CORES_A_WORKER else 1


@dataclass
class _Crew:
    """The processes at work. waiting: names of parts that none has begun."""

    device: torch.device
    package: str
    waiting: list[str]
    progress: Progress
    lines: SimpleQueue[tuple[int, dict | None]] = field(default_factory=SimpleQueue)
    children: dict[int, subprocess.Popen] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    running: dict[int, list[str]] = field(default_factory=dict)
    done: list[Outcome] = field(default_factory=list)

    def run(self, workers: int) -> list[Outcome]:
        """Runs all parts, in `workers` processes at a time: a process each, or one for all."""
        total = sum(PARTS[name].weight for name in self.waiting)
        try:
            while self.waiting or self.children:
                while self.waiting and len(self.children) < workers:
                    self._start(self.waiting[:1] if workers > 1 else self.waiting[:])
                self._listen()
                self.progress(min(ALMOST, self._weight_done() / total))
        finally:
            self._end()
        self.progress(1.0)
        return self.done

    def _start(self, names: list[str]) -> None:
        number = len(self.begun) + len(self.children)
        del self.waiting[: len(names)]
        child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.children[number], self.running[number] = child, names
        self.begun |= dict.fromkeys(names, 0.0)
        asked = {"path": sys.path, "package": self.package, "root": str(ROOT)}
        asked |= {"device": str(self.device), "parts": names}
        threading.Thread(target=self._read, args=(number, child), daemon=True).start()
        with suppress(OSError):  # it has ended; `_read` says so
            child.stdin.write((json.dumps(asked) + "\n").encode())
            child.stdin.flush()

    def _read(self, number: int, child: subprocess.Popen) -> None:
        """Passes on what a process says; None: it has ended."""
        with child.stdout:
            for line in child.stdout:
                if line.startswith(MARK.encode()):
                    self.lines.put((number, json.loads(line.removeprefix(MARK.encode()))))
        self.lines.put((number, None))

    def _listen(self) -> None:
        """Takes one line, or waits for a moment."""
        try:
            number, said = self.lines.get(timeout=POLL)
        except Empty:
            return
        if said is None:
            child = self.children.pop(number)
            code = child.wait()
            child.stdin.close()
            for name in self.running.pop(number):
                self.done.append(Outcome(name, 0.0, 0, f"its process ended with code {code}"))
        elif "seconds" in said:
            self.running[number].remove(said["part"])
            self.done.append(Outcome(**said))
        else:
            self.begun[said["part"]] = time.monotonic()

    def _weight_done(self) -> float:
        """The weight of what is done, and of what runs, as far as its time says."""
        weight = sum(PARTS[outcome.part].weight for outcome in self.done)
        for name in (name for names in self.running.values() for name in names if self.begun[name]):
            seconds = time.monotonic() - self.begun[name]
            weight += PARTS[name].weight * seconds / (seconds + PARTS[name].weight)
        return weight

    def _end(self) -> None:
        """Ends the processes that are left."""
        for child in self.children.values():
            child.kill()
        for child in self.children.values():
            child.wait()
            child.stdin.close()


__all__ = ["Outcome", "PrecompileError", "cache_folder", "host_package", "precompile"]
