"""Work that goes on after the install has ended: the kernels are compiled ahead, detached, in a log of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

LOG = "output/precompile.log"
VARIABLE = "TRELLIS2_NO_COMPILE"
# Windows' flags, which Python names on Windows only. No console of its own: with none at all (DETACHED_PROCESS) each of
# its children would open a window.
NO_WINDOW, NEW_GROUP, BELOW_NORMAL = 0x08000000, 0x00000200, 0x00004000

Start = Callable[..., object]


def skipped(environment: Mapping[str, str] = os.environ) -> bool:  # noqa: TID251 the installer's switch for those who cannot pass an option
    """Whether the environment asks for no compiling: TRELLIS2_NO_COMPILE is set, and not to 0."""
    return environment.get(VARIABLE, "0").strip() not in ("", "0")


def flags(system: str = os.name) -> dict[str, Any]:
    """Returns the arguments of Popen that let a process outlive this one: a Ctrl-C here, or a closed console or
    terminal, does not end it. On Windows also its low priority; elsewhere the process lowers its own."""
    if system == "nt":
        return {"creationflags": NO_WINDOW | NEW_GROUP | BELOW_NORMAL}
    return {"start_new_session": True}


def command(python: str, root: Path) -> list[str]:
    """Returns the command that compiles for ComfyUI, by this Python and with its view of the user's packages."""
    user = ["-s"] if sys.flags.no_user_site else []
    return [python, *user, str(root / "install.py"), "--run-cli", "precompile", "--comfyui", "--quietly"]


def start(words: Sequence[str], root: Path, popen: Start = subprocess.Popen) -> str:
    """Starts the command detached, with LOG as its output, and returns at once: "", or why it was not started."""
    log = root / LOG
    try:
        log.parent.mkdir(exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            popen(
                list(words), cwd=root, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                close_fds=True, **flags(),
            )  # fmt: skip
    except OSError as error:
        return str(error)
    return ""
