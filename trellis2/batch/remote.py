"""A worker in a process of its own: rows go in as lines of JSON, results come back as such.

The pack is found by path, under a name of its own: in ComfyUI no process could import it by the name that it has there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from .results import Result
from .rows import Row, RowOptions
from .run import WorkerEndedError
from .worker import BatchStoppedError, Worker

ROOT = str(Path(__file__).resolve().parents[2])
CHILD = """
import importlib, json, sys, types
asked = json.loads(sys.stdin.readline())
sys.path[:] = asked["path"]
pack = types.ModuleType("trellis2_worker")
pack.__path__ = [asked["root"]]
sys.modules[pack.__name__] = pack
importlib.import_module(pack.__name__ + ".trellis2.batch.remote").serve(asked["setup"])
"""


@dataclass(frozen=True)
class Setup:
    """What a worker loads. source: of `Checkpoint.open`.  common: see `run_batch`."""

    source: str
    common: Mapping[str, str]
    quantization: str = "none"
    attention: str = "auto"
    vram: str = "auto"
    device: str | None = None


def build(setup: Mapping[str, Any]) -> Worker:
    """Returns a worker of a `Setup` as JSON. Raises the errors of `Pipeline.load`."""
    import torch

    from ..models import Backends
    from ..pipeline import Pipeline
    from ..runtime.residency import default_device
    from ..runtime.streaming import choose_residency

    chosen = Setup(**setup)
    device = torch.device(chosen.device or default_device())
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # what asks for no device in particular stays off the other cards
    pipeline = Pipeline.load(
        chosen.source,
        choose_residency(chosen.vram, device),
        quantization=chosen.quantization,
        backends=Backends(attention=chosen.attention),
    )
    return Worker(pipeline, chosen.common)


def serve(setup: Mapping[str, Any]) -> None:
    """Makes rows from standard input until it ends; the body of the child."""
    # Answers have the pipe for themselves: what libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            worker = worker or build(setup)
            upcoming = asked["upcoming"] and row_of(asked["upcoming"])
            answer: dict[str, Any] = asdict(worker.make(row_of(asked["row"]), Path(asked["folder"]), upcoming))
        except (ValueError, OSError, ImportError) as error:  # of the batch as a whole: nothing can be made
            answer = {"stopped": str(error), "errno": getattr(error, "errno", None)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def as_json(row: Row) -> dict[str, Any]:
    """Returns a row as JSON."""
    return asdict(row) | {"image": str(row.image)}


def row_of(asked: Mapping[str, Any]) -> Row:
    """Returns a row of its JSON."""
    return Row(asked["name"], Path(asked["image"]), RowOptions(**asked["options"]), asked["problem"])


class ProcessWorker:
    """A child process with a pipeline of its own."""

    def __init__(self, setup: Setup) -> None:
        self.name = setup.device or "a process"
        hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)
        self._child = subprocess.Popen(
            [sys.executable or "python3", "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            creationflags=hidden,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends the child
        )
        self._say({"path": sys.path, "root": ROOT, "setup": asdict(setup) | {"common": dict(setup.common)}})

    def make(self, row: Row, folder: Path, upcoming: Row | None) -> Result:
        """See `Remote`. Raises WorkerEndedError; BatchStoppedError for what no row can be made without."""
        self._say({"row": as_json(row), "folder": str(folder), "upcoming": upcoming and as_json(upcoming)})
        line = self._pipe(self._child.stdout).readline()
        if not line.endswith("\n"):
            raise WorkerEndedError(f"the process on {self.name} ended by {_ending(self._child.wait())}")
        answer = json.loads(line)
        if "stopped" in answer:
            raise BatchStoppedError(answer["errno"], answer["stopped"])
        return Result(**answer)

    def stop(self) -> None:
        """Kills the child: it may be anywhere, and what it has not finished is written nowhere."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):
                self._pipe(pipe).close()

    def _say(self, message: Mapping[str, Any]) -> None:
        pipe = self._pipe(self._child.stdin)
        try:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()
        except (OSError, ValueError) as error:
            raise WorkerEndedError(f"the process on {self.name} ended by {_ending(self._child.wait())}") from error

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise WorkerEndedError(f"the process on {self.name} has no pipe")
        return pipe


def devices_of(text: str) -> Sequence[str]:
    """Returns the devices of "cuda:0,cuda:1", or of "all": every card of this host.

    Raises ValueError for "all" where there is no card.
    """
    import torch

    if text != "all":
        return [name.strip() for name in text.split(",") if name.strip()]
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not cards:
        raise ValueError("device all: expected CUDA cards, got none; leave it out, or name a device such as cpu")
    return [f"cuda:{number}" for number in range(cards)]


def _ending(code: int) -> str:
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"exit status {code}"
    return f"{name}; the system may have been out of memory" if name == "SIGKILL" else name
