"""Libraries with compiled code that users may have installed: tried in a process of their own before this one does.

A build without code for the card, or for another torch, can end the process that uses it: by an abort while it is
imported, or by a fatal CUDA error at its first launch, which no `except` sees. So a check runs in a child first. Its
answer is kept for this process, and in a file for later ones, since a child that imports torch takes seconds.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import signal
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from .atomic_io import atomic_write

log = logging.getLogger(__name__)

# Importing torch from a slow disk, and a library that compiles its kernels, take this long at worst.
PATIENCE_SECONDS = 180.0
ANSWER = "trellis2 answers "
# The pack is found by path, under a name of its own, and without its root module, which may need a host. The search
# path is this process's: a host may have extended it.
CHILD = """
import importlib, json, os, sys, types
asked = json.load(sys.stdin)
sys.path[:] = asked["path"]
pack = types.ModuleType("trellis2_tried")
pack.__path__ = [asked["root"]]
sys.modules[pack.__name__] = pack
module, _, name = asked["check"].partition(":")
answer = getattr(importlib.import_module(pack.__name__ + "." + module), name)(*asked["arguments"])
print("\\n" + asked["mark"] + json.dumps(answer), flush=True)
os._exit(0)
"""

# (why it does not work or None, whether that will be so the next time)
Answer = tuple[str | None, bool]


def is_installed(module: str) -> bool:
    """Whether a dotted module can be found, without importing it or what it is in."""
    top, *rest = module.split(".")
    try:
        spec = find_spec(top)
    except ValueError:  # made by hand, without a spec, and so there
        return True
    if spec is None or not rest:
        return spec is not None
    inside = [Path(place, *rest) for place in spec.submodule_search_locations or ()]
    return any((path / "__init__.py").is_file() or path.with_suffix(".py").is_file() for path in inside)


def version(distribution: str) -> str:
    """Returns the installed version of a distribution, "" where none says it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def machine(device: torch.device) -> tuple[str, ...]:
    """Returns what an answer for `device` depends on, besides the library: versions, and the card."""
    versions = (platform.python_version(), torch.__version__)
    if device.type != "cuda":
        return (*versions, device.type)
    major, minor = torch.cuda.get_device_capability(device)
    return (*versions, torch.cuda.get_device_name(device), f"{major}.{minor}")


@cache
def why_not(check: str, arguments: tuple[str, ...], about: tuple[str, ...]) -> str | None:
    """Returns why a library cannot be used, or None, by `check` in a child process, or by what it answered before.

    check: "package.module:function" below the pack's root; function(*arguments) returns an `Answer`. It imports the
    library.  about: what the answer depends on, see `machine`; a kept answer holds while it is the same.
    Takes seconds the first time on a machine, and again after an answer that may be another the next time.
    """
    key = json.dumps([check, arguments, about])
    known = _kept()
    if key in known:
        return known[key]
    reason, lasting = _ask(check, arguments)
    if lasting:
        _keep(known | {key: reason})
    return reason


def forget() -> None:
    """Forgets all answers, so that the next question is asked anew."""
    why_not.cache_clear()
    try:
        answers_file().unlink(missing_ok=True)
    except OSError as error:
        log.info("%s: %s", answers_file(), error)


def answers_file() -> Path:
    """Returns where answers are kept: in torch's cache folder, which the user can move."""
    return Path(torch.hub.get_dir()).parent / "trellis2" / "libraries.json"


def explained(error: BaseException) -> str:
    """Returns an error's type with its first and last line: what, and often why."""
    lines = [line.strip()[:160] for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return f"{type(error).__name__}: {' … '.join([lines[0], *lines[1:][-1:]])}"


def _ask(check: str, arguments: tuple[str, ...]) -> Answer:
    root = str(Path(__file__).resolve().parents[2])
    asked = {"path": sys.path, "root": root, "check": check, "arguments": arguments, "mark": ANSWER}
    hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    command = [sys.executable or "python3", "-c", CHILD]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            creationflags=hidden,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"a test process did not end within {PATIENCE_SECONDS:.0f} s", False
    except OSError as error:
        return f"no test process could be started: {error}", False
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):
        if line.startswith(ANSWER):
            reason, lasting = json.loads(line[len(ANSWER) :])
            return reason, lasting
    words = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    said = f": {words[-1][:200]}" if words else ""
    return f"it ended a test process by {_ending(done.returncode)}{said}", True


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit status {code}"


def _kept() -> dict[str, str | None]:
    try:
        known = json.loads(answers_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _keep(answers: dict[str, str | None]) -> None:
    try:
        with atomic_write(answers_file()) as file:
            file.write(json.dumps(answers, indent=1).encode())
    except OSError as error:
        log.info("%s: not written, so libraries are tried again in the next process: %s", answers_file(), error)
