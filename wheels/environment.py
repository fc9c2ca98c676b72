"""The Python that an install goes into: what it has, how packages get into it, and how an environment is made."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from . import background
from .requirements import Requirement, constraints, installed_versions, missing

# No wheel for this Python: twins of numba's kernels serve; files that need DracoPy are refused.
OPTIONAL = {"numba": "slower without it", "dracopy": "no files compressed by Draco without it"}
HAS_PIP = "import importlib.util, sys; sys.exit(importlib.util.find_spec('pip') is None)"
NO_VENV = """this Python cannot make a virtual environment (it lacks venv or ensurepip).
  Debian, Ubuntu:  sudo apt install python3-venv
  elsewhere:       install Python from python.org or with uv, conda or pyenv
  or make and activate an environment yourself, then run this command again."""
NO_PIP = "neither pip nor uv was found for this Python; run `python -m ensurepip`, then this command again."


class InstallError(Exception):
    """The user must act first; the message states how."""


@dataclass(frozen=True)
class Machine:
    """The Python that runs this script, reduced to what installing needs. `offline`: packages come from this folder.
    `start`: runs a command detached in the root, without waiting; "" or why not."""

    root: Path
    python: str
    in_venv: bool
    versions: Callable[[], Mapping[str, str]]  # canonical name to version, of every installed distribution
    has_module: Callable[[str], bool]
    run: Callable[[Sequence[str]], int]  # runs a command in the root; its exit code
    offline: Path | None = None
    start: Callable[[Sequence[str]], str] | None = None


def this_machine(root: Path) -> Machine:
    """Returns the interpreter that runs this script; `root` is the pack's folder."""
    return Machine(
        root=root,
        python=sys.executable,
        in_venv=sys.prefix != sys.base_prefix,
        versions=installed_versions,
        has_module=lambda name: importlib.util.find_spec(name) is not None,
        run=lambda command: subprocess.run(list(command), cwd=root, check=False).returncode,
        start=lambda command: background.start(command, root),
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a progress line to `file`, by default stdout, flushed before the output of child processes."""
    print(f"[trellis2] {text}", flush=True, file=file)


# Installing


def installer(machine: Machine) -> list[str]:
    """Returns the start of an install command for this Python: pip's, else uv's."""
    folder = ["--no-index", "--find-links", str(machine.offline)] if machine.offline else []
    if machine.has_module("pip"):
        return [*pip(machine), "install", "--disable-pip-version-check", "--prefer-binary", *folder]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", machine.python, *folder]
    raise InstallError(NO_PIP)


def pip(machine: Machine) -> list[str]:
    """Returns the start of a command of this Python's pip."""
    return [machine.python, *(["-s"] if sys.flags.no_user_site else []), "-m", "pip"]


def add_missing(machine: Machine, wanted: Sequence[Requirement]) -> int:
    """Installs what of `wanted` is missing and changes nothing else. Returns 0, or the installer's exit code.

    If they do not install together, each is tried alone, so that one without a wheel blocks no other.
    """
    versions = machine.versions()
    lacking = missing(wanted, versions)
    if not lacking:
        say(f"requirements: all {len(wanted)} are present")
        return 0
    command = installer(machine)
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "constraints.txt")
        pins.write_text(constraints(versions, [r.name for r in lacking]), encoding="utf-8")

        def install(some: Sequence[Requirement]) -> int:
            say("installing " + ", ".join(map(str, some)))
            return machine.run([*command, "-q", "-c", str(pins), *map(str, some)])

        if install(lacking) == 0:
            return 0
        say("they did not install together; trying each alone")
        codes = {requirement: install([requirement]) for requirement in lacking}
    return _report({requirement: code for requirement, code in codes.items() if code})


def _report(failed: Mapping[Requirement, int]) -> int:
    """Prints what did not install. Returns the exit code of the first requirement that the pack needs."""
    for requirement in failed:
        need = f"optional: {OPTIONAL[requirement.name]}" if requirement.name in OPTIONAL else "needed"
        say(f"could not install {requirement} ({need})")
    return next((code for requirement, code in failed.items() if requirement.name not in OPTIONAL), 0)


# The environment of a fresh machine


def venv_python(root: Path) -> Path:
    """Returns the path of `.venv`'s Python."""
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def command_file(root: Path) -> Path:
    """Returns the path of `.venv`'s `trellis2` command."""
    return venv_python(root).with_name("trellis2.cmd" if os.name == "nt" else "trellis2")


def add_command(root: Path) -> None:
    """Writes the `trellis2` command of `.venv`, install.py's --run-cli, unless pip has installed one there.

    An editable install would need setuptools, and write into the tree.
    """
    file = command_file(root)
    if file.exists() and "--run-cli" not in file.read_text(encoding="utf-8"):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        file.write_text('@"%~dp0python.exe" "%~dp0..\\..\\install.py" --run-cli %*\n', encoding="utf-8")
    else:
        python, script = (shlex.quote(str(path)) for path in (venv_python(root), root / "install.py"))
        file.write_text(f'#!/bin/sh\nexec {python} {script} --run-cli "$@"\n', encoding="utf-8")
        file.chmod(0o755)


def ensure_venv(machine: Machine) -> Path:
    """Returns the Python of a working `.venv` in the root, created or repaired if need be, with `trellis2`."""
    python = _ensure_venv_python(machine)
    add_command(machine.root)
    return python


def _ensure_venv_python(machine: Machine) -> Path:
    python = venv_python(machine.root)
    if python.exists() and machine.run([str(python), "-c", HAS_PIP]) == 0:
        return python
    if not machine.has_module("venv"):
        raise InstallError(NO_VENV)
    say(f"making .venv with Python {sys.version.split()[0]}")
    make = [machine.python, "-m", "venv", *([] if python.exists() else ["--clear"])]
    folder = str(machine.root / ".venv")
    if machine.has_module("ensurepip"):
        steps = [[*make, folder]]
    elif machine.has_module("pip"):  # Debian keeps ensurepip in another package; a pip can still bring a pip
        packages = Path(folder, "lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
        steps = [[*make, "--without-pip", folder], [*installer(machine), "--target", str(packages), "pip"]]
    else:
        raise InstallError(NO_VENV)
    if any(machine.run(step) for step in steps):
        raise InstallError(NO_VENV)
    return python


def in_environment(machine: Machine, arguments: Sequence[str], job: Callable[[], int]) -> int:
    """Runs `job()` if this Python is a virtual environment's, else install.py by `.venv`'s Python."""
    if machine.in_venv:
        return job()
    return machine.run([str(ensure_venv(machine)), str(machine.root / "install.py"), *arguments])
