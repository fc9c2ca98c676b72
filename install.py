"""Installs the pack. Standard library only.

    python install.py            run by ComfyUI Manager: adds the missing requirements to this Python, never torch
    python3 install.py --demo    a fresh machine: makes .venv, installs, turns an image into output/demo.glb with the
                                 built-in checkpoint; --picture FILE for another image
    python3 install.py --test    a fresh machine: makes .venv, installs, runs the tests; with --fast only the quick ones

Both add a `trellis2` command to .venv. With --cpu both install torch without the CUDA packages. Everything may be run
again: installed parts are kept. Arguments after --demo go to `trellis2 generate`, those after --test to pytest. The
exit code is that of the command that failed, else 0.
"""

from __future__ import annotations

import argparse
import importlib
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
from types import ModuleType
from typing import TextIO

ROOT = Path(__file__).resolve().parent
ALIAS = "comfyui_trellis2"  # the name that `pip install .` gives the same tree
OLDEST_PYTHON = (3, 10)

TORCH = "torch==2.13.0"
TRITON_PINNED = "3.7.1"  # by TORCH's own metadata in its CUDA build; its CPU build comes without Triton
TRITON = ("triton",) if sys.platform == "linux" else ()  # interprets kernels where there is no GPU; wheels: Linux
TEST_REQUIREMENTS = ("pytest", "pytest-xdist", "hypothesis", "ruff", "gguf", "setuptools>=77", "zstandard", *TRITON)
# No wheel for this Python: twins of numba's kernels serve; files that need DracoPy are refused.
OPTIONAL = {"numba": "slower without it", "dracopy": "no files compressed by Draco without it"}

TINY_MODEL = "output/tiny"
NO_MODEL = """this copy of the pack comes without its trained checkpoint: the demo's model is random and tiny.
  Its output is noise; it shows that every stage runs here.
  The published model, a 16 GB download:  python3 install.py --demo --model microsoft/TRELLIS.2-4B"""
DEMO_IMAGE = "assets/images/teapot.png"
DEMO_OUTPUT = "output/demo.glb"
DEMO_OPTIONS = ("--resolution", "512", "--preset", "preview")

# `python -m pytest` would put the root on sys.path, where our `nodes` hides ComfyUI's `nodes.py`.
PYTEST = "import sys; sys.path[:] = filter(None, sys.path); import pytest; sys.exit(pytest.main())"
PARALLEL = ("-n", "auto", "--dist", "worksteal")  # tests/conftest.py says how many; a later -n goes before
FAST = ("-m", "not slow and not gpu")
KERNELS = ("-m", "triton")
HAS_PIP = "import importlib.util, sys; sys.exit(importlib.util.find_spec('pip') is None)"

NO_VENV = """this Python cannot make a virtual environment (it lacks venv or ensurepip).
  Debian, Ubuntu:  sudo apt install python3-venv
  elsewhere:       install Python from python.org or with uv, conda or pyenv
  or make and activate an environment yourself, then run this command again."""
NO_CPU_TORCH = f"""no build of {TORCH} without CUDA could be installed.
  Either install one into this environment yourself, as PyTorch's page "Start Locally" says, and run this command again,
  or leave out --cpu: the usual build also runs without a GPU, and takes about 6 GB of disk."""
NO_PIP = "neither pip nor uv was found for this Python; run `python -m ensurepip`, then this command again."


def load_file(name: str, path: Path) -> ModuleType:
    """Imports the module or package at `path` as `name`."""
    folder = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


requirements = load_file(f"{ALIAS}_requirements", ROOT / "wheels" / "requirements.py")


class InstallError(Exception):
    """The user must act first; the message states how."""


@dataclass(frozen=True)
class Machine:
    """The Python that runs this script, reduced to what installing needs."""

    root: Path
    python: str
    in_venv: bool
    versions: Callable[[], Mapping[str, str]]  # canonical name to version, of every installed distribution
    has_module: Callable[[str], bool]
    run: Callable[[Sequence[str]], int]  # runs a command in the root; its exit code


def this_machine() -> Machine:
    """Returns the interpreter that runs this script."""
    return Machine(
        root=ROOT,
        python=sys.executable,
        in_venv=sys.prefix != sys.base_prefix,
        versions=requirements.installed_versions,
        has_module=lambda name: importlib.util.find_spec(name) is not None,
        run=lambda command: subprocess.run(list(command), cwd=ROOT, check=False).returncode,
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a progress line to `file`, by default stdout, flushed before the output of child processes."""
    print(f"[trellis2] {text}", flush=True, file=file)


# Installing


def installer(machine: Machine) -> list[str]:
    """Returns the start of an install command for this Python: pip's, else uv's."""
    if machine.has_module("pip"):
        isolated = ["-s"] if sys.flags.no_user_site else []
        options = ["install", "--disable-pip-version-check", "--prefer-binary"]
        return [machine.python, *isolated, "-m", "pip", *options]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", machine.python]
    raise InstallError(NO_PIP)


def add_missing(machine: Machine, wanted: Sequence[requirements.Requirement]) -> int:
    """Installs what of `wanted` is missing and changes nothing else. Returns 0, or the installer's exit code.

    If they do not install together, each is tried alone, so that one without a wheel blocks no other.
    """
    versions = machine.versions()
    lacking = requirements.missing(wanted, versions)
    if not lacking:
        say(f"requirements: all {len(wanted)} are present")
        return 0
    command = installer(machine)
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder, "constraints.txt")
        pins.write_text(requirements.constraints(versions, [r.name for r in lacking]), encoding="utf-8")

        def install(some: Sequence[requirements.Requirement]) -> int:
            say("installing " + ", ".join(map(str, some)))
            return machine.run([*command, "-q", "-c", str(pins), *map(str, some)])

        if install(lacking) == 0:
            return 0
        say("they did not install together; trying each alone")
        codes = {requirement: install([requirement]) for requirement in lacking}
    return _report({requirement: code for requirement, code in codes.items() if code})


def _report(failed: Mapping[requirements.Requirement, int]) -> int:
    """Prints what did not install. Returns the exit code of the first requirement that the pack needs."""
    for requirement in failed:
        need = f"optional: {OPTIONAL[requirement.name]}" if requirement.name in OPTIONAL else "needed"
        say(f"could not install {requirement} ({need})")
    return next((code for requirement, code in failed.items() if requirement.name not in OPTIONAL), 0)


def install_into_host(machine: Machine) -> int:
    """Run by ComfyUI Manager: installs the missing pure requirements into the running interpreter, but never torch."""
    code = add_missing(machine, requirements.read_requirements(machine.root / "requirements.txt"))
    if "torch" not in machine.versions():
        say("torch is not installed in this Python; ComfyUI needs it, and this script does not install it")
    return code


def install_torch(machine: Machine, cpu: bool) -> int:
    """Installs torch, for `cpu` in its build without CUDA. Returns the exit code.

    On Linux that build is not in pip's default index: pip finds it only if configured to, uv knows its location.
    """
    if not (cpu and sys.platform == "linux"):
        say(f"installing {TORCH} (a large download; for another build, install torch here first)")
        return machine.run([*installer(machine), TORCH])
    say(f"installing {TORCH} without CUDA")
    if machine.run([*installer(machine), "-q", f"{TORCH}+cpu"]) == 0:
        return 0
    say("pip does not reach such a build; trying uv")
    uv = [shutil.which("uv")] if shutil.which("uv") else [machine.python, "-m", "uv"]
    steps = [] if shutil.which("uv") else [[*installer(machine), "-q", "uv"]]
    steps += [[*uv, "pip", "install", "--python", machine.python, "--torch-backend", "cpu", TORCH]]
    if any(machine.run(step) for step in steps):
        raise InstallError(NO_CPU_TORCH)
    return 0


def prepare(machine: Machine, extra: Sequence[str] = (), *, cpu: bool = False) -> int:
    """Completes the environment: torch if absent, the requirements, and `extra` ones. Returns the exit code."""
    if "torch" not in machine.versions() and (code := install_torch(machine, cpu)):
        return code
    wanted = requirements.read_requirements(machine.root / "requirements.txt")
    return add_missing(machine, [*wanted, *map(requirements.parse_requirement, extra)])


# The environment of a fresh machine


def venv_python(root: Path) -> Path:
    """Returns the path of `.venv`'s Python."""
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def command_file(root: Path) -> Path:
    """Returns the path of `.venv`'s `trellis2` command."""
    return venv_python(root).with_name("trellis2.cmd" if os.name == "nt" else "trellis2")


def add_command(root: Path) -> None:
    """Writes the `trellis2` command of `.venv`, this script's --run-cli, unless pip has installed one there.

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
    """Runs `job()` if this Python is a virtual environment's, else this script by `.venv`'s Python."""
    if machine.in_venv:
        return job()
    return machine.run([str(ensure_venv(machine)), str(machine.root / "install.py"), *arguments])


# Jobs


@dataclass(frozen=True)
class Options:
    """Options shared by the jobs."""

    cpu: bool = False  # torch without CUDA
    fast: bool = False  # the tests that are neither slow nor need a GPU


def run_demo(machine: Machine, arguments: Sequence[str], chosen: Options) -> int:
    """Converts an image of the repository to output/demo.glb, through every stage, with the built-in checkpoint."""
    parser = argparse.ArgumentParser(prog="install.py --demo", add_help=False, allow_abbrev=False)
    parser.add_argument("--picture", default=DEMO_IMAGE)
    parser.add_argument("--model")
    options, rest = parser.parse_known_args(arguments)
    builtin = load_file(f"{ALIAS}_builtin", machine.root / "trellis2" / "checkpoint" / "builtin.py")
    random = options.model is None and builtin.find_built_in(machine.root) is None
    model = options.model or (TINY_MODEL if random else builtin.RELATIVE_PATH)
    generate = ["generate", options.picture, "-o", DEMO_OUTPUT, "--model", model, *DEMO_OPTIONS, *rest]
    command = [machine.python, str(machine.root / "install.py"), "--run-cli"]
    code = prepare(machine, cpu=chosen.cpu)
    if random and code == 0:
        say(NO_MODEL)
    for step in [*([["make-tiny", TINY_MODEL]] if random else []), generate]:
        if code == 0:
            say("trellis2 " + " ".join(step))
            code = machine.run([*command, *step])
    if code == 0:
        say(f"done: {DEMO_OUTPUT}")
        if (command := command_file(machine.root)).exists():
            say(f"the command line: {command.relative_to(machine.root)} --help")
    return code


def run_tests(machine: Machine, arguments: Sequence[str], chosen: Options) -> int:
    """Runs the tests."""
    command = [machine.python, "-c", PYTEST, *PARALLEL, *(FAST if chosen.fast else ()), *arguments]
    return prepare(machine, TEST_REQUIREMENTS, cpu=chosen.cpu) or machine.run(command)


def run_kernel_tests(machine: Machine, arguments: Sequence[str], chosen: Options) -> int:
    """Runs the tests of the Triton kernels under a second Triton, for this run alone.

    That is the newest one if the environment has the one that torch pins, else the pinned one.
    """
    if code := prepare(machine, TEST_REQUIREMENTS, cpu=chosen.cpu):
        return code
    here = machine.versions().get("triton")
    if here is None:
        say("Triton has no build for this system: there is no kernel to test")
        return 0
    other = "triton" if here == TRITON_PINNED else f"triton=={TRITON_PINNED}"
    with tempfile.TemporaryDirectory() as folder:
        say(f"Triton {here} is installed; the kernels' tests run under {other}")
        if code := machine.run([*installer(machine), "-q", "--no-deps", "--target", folder, other]):
            return code
        # By the environment, not by sys.path: the tests' own child processes inherit it.
        command = [machine.python, "-c", PYTEST, *PARALLEL, *KERNELS, *arguments]
        return machine.run(["env", f"PYTHONPATH={folder}", *command])


def run_linter(machine: Machine, arguments: Sequence[str], chosen: Options) -> int:
    """Runs the linter."""
    ruff = [machine.python, "-m", "ruff", "check", *arguments]
    return prepare(machine, TEST_REQUIREMENTS, cpu=chosen.cpu) or machine.run(ruff)


JOBS = {"--demo": run_demo, "--test": run_tests, "--test-kernels": run_kernel_tests, "--lint": run_linter}


def run_cli(machine: Machine, arguments: Sequence[str]) -> int:
    """Runs the `trellis2` command of this tree, without installing the tree; in `.venv` if this Python has no torch."""
    if machine.has_module("torch"):
        return _run_cli_here(machine, arguments)
    if not machine.in_venv:
        say("this Python has no torch: the command runs in .venv", sys.stderr)
    again = ["--run-cli", *arguments]
    return in_environment(machine, again, lambda: prepare(machine) or _run_cli_here(machine, arguments))


def _run_cli_here(machine: Machine, arguments: Sequence[str]) -> int:
    importlib.invalidate_caches()
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != machine.root]
    load_file(ALIAS, machine.root / "__init__.py")
    return importlib.import_module(f"{ALIAS}.trellis2.cli.main").main(list(arguments))


def accelerator(machine: Machine, name: str) -> int:
    """Installs an optional accelerator if wheels/index.json has a build for this machine, else prints the reason."""
    resolver = load_file(f"{ALIAS}_wheels_resolve", machine.root / "wheels" / "resolve.py")
    index = resolver.read_index(machine.root / "wheels" / "index.json")
    choice = resolver.resolve(name, resolver.this_host(), index)
    say(choice.reason)
    return machine.run([*installer(machine), "--no-deps", choice.wheel.requirement]) if choice.wheel else 1


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout, allow_abbrev=False)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--demo", action="store_true", help="make a mesh from a picture, in .venv")
    mode.add_argument("--test", action="store_true", help="run the tests, in .venv")
    mode.add_argument("--test-kernels", action="store_true", help="run the kernels' tests under another Triton")
    mode.add_argument("--lint", action="store_true", help="run ruff, in .venv")
    mode.add_argument("--accelerator", metavar="NAME", help="add an optional accelerator to this Python")
    mode.add_argument("--run-cli", nargs=argparse.REMAINDER, metavar="...", help="the trellis2 command")
    parser.add_argument("--cpu", action="store_true", help="after --demo or --test: torch without CUDA's packages")
    parser.add_argument("--fast", action="store_true", help="after --test: skip slow tests and those that need a GPU")
    return parser


def main(argv: Sequence[str], machine: Machine) -> int:
    """Runs the mode that `argv` names. Returns its exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    chosen = Options(cpu=options.cpu, fast=options.fast)
    job = JOBS.get(argv[0] if argv else "")
    if job is None and (rest or chosen != Options()):
        parser.error(f"unknown argument {rest[0]}" if rest else "--cpu and --fast come after --demo or --test")
    try:
        if job:
            return in_environment(machine, argv, lambda: job(machine, rest, chosen))
        if options.run_cli is not None:
            return run_cli(machine, options.run_cli)
        if options.accelerator:
            return accelerator(machine, options.accelerator)
        return install_into_host(machine)
    except InstallError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}: {sys.executable}")
    sys.exit(main(sys.argv[1:], this_machine()))
