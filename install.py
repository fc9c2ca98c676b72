"""Puts the pack on a machine. Standard library only.

    python install.py            what ComfyUI Manager runs: adds the missing requirements to this Python, never torch
    python3 install.py --demo    a fresh machine: makes .venv, installs, turns a picture into output/demo.glb with the
                                 checkpoint that comes with the pack; --picture FILE for another one
    python3 install.py --test    a fresh machine: makes .venv, installs, runs the tests

Everything may be run again: what is there is left alone. Arguments after --demo go to `trellis2 generate`, those after
--test to pytest. Exit codes are those of the command that failed, else 0.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import operator
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
ALIAS = "comfyui_trellis2"  # the name that `pip install .` gives the same tree
OLDEST_PYTHON = (3, 10)

TORCH = "torch==2.13.0"
# Triton's interpreter runs the kernels' tests where there is no GPU; it has no wheel beyond Linux.
TRITON = ("triton",) if sys.platform == "linux" else ()
TEST_REQUIREMENTS = ("pytest", "hypothesis", "ruff", "setuptools>=77", "zstandard", "DracoPy", *TRITON)
TORCH_FAMILY = ("torch", "torchvision", "torchaudio", "triton")
OPTIONAL = frozenset({"numba"})  # no wheel for this Python: the numpy and scipy twins of its kernels serve

TINY_MODEL = "output/tiny"
NO_MODEL = """this copy of the pack comes without its trained checkpoint: the demo's model is random and tiny.
  What it makes looks like nothing; it shows that every stage runs here.
  The published model, a 16 GB download:  python3 install.py --demo --model microsoft/TRELLIS.2-4B"""
DEMO_IMAGE = "assets/images/teapot.png"
DEMO_OUTPUT = "output/demo.glb"
DEMO_OPTIONS = ("--resolution", "512", "--preset", "preview")

# `python -m pytest` would put the root on sys.path, where our `nodes` hides ComfyUI's `nodes.py`.
PYTEST = "import sys; sys.path[:] = filter(None, sys.path); import pytest; sys.exit(pytest.main())"
HAS_PIP = "import importlib.util, sys; sys.exit(importlib.util.find_spec('pip') is None)"

NO_VENV = """this Python cannot make a virtual environment (it lacks venv or ensurepip).
  Debian, Ubuntu:  sudo apt install python3-venv
  elsewhere:       install Python from python.org or with uv, conda or pyenv
  or make and activate an environment yourself, then run this command again."""
NO_PIP = "neither pip nor uv was found for this Python; run `python -m ensurepip`, then this command again."

COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(?P<bounds>[<>=!].*)?")
BOUND = re.compile(r"(==|!=|>=|<=|>|<)\s*(\d+(?:\.\d+)*)")
VERSION = re.compile(
    r"(?:\d+!)?(\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview|post|rev|r|dev)[-_.]?\d*){0,3}"
    r"(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?",
    re.IGNORECASE,
)


class InstallError(Exception):
    """Something the user must do first; the message says what."""


@dataclass(frozen=True)
class Requirement:
    """One line of requirements.txt: a name and the bounds that its version must keep."""

    name: str
    bounds: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.name + ",".join(sign + version for sign, version in self.bounds)

    def allows(self, version: str) -> bool:
        """Whether the release part of `version` keeps every bound. Pre-release and local parts are not compared."""
        return all(COMPARE[sign](release(version), release(bound)) for sign, bound in self.bounds)


@dataclass(frozen=True)
class Machine:
    """The Python that runs this, as far as installing needs it."""

    root: Path
    python: str
    in_venv: bool
    versions: Callable[[], Mapping[str, str]]  # canonical name to version, of every installed distribution
    has_module: Callable[[str], bool]
    run: Callable[[Sequence[str]], int]  # runs a command in the root; its exit code


def this_machine() -> Machine:
    """The interpreter that runs this script."""
    return Machine(
        root=ROOT,
        python=sys.executable,
        in_venv=sys.prefix != sys.base_prefix,
        versions=installed_versions,
        has_module=lambda name: importlib.util.find_spec(name) is not None,
        run=lambda command: subprocess.run(list(command), cwd=ROOT, check=False).returncode,
    )


def say(text: str) -> None:
    """A progress line, before whatever a child process prints next."""
    print(f"[trellis2] {text}", flush=True)


# Requirements


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version without trailing zeros: "2.13.0+cpu" is (2, 13)."""
    match = VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"version: expected numbers such as 2.13.0, got {version!r}")
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def parse_requirement(line: str) -> Requirement:
    """`line` ("numpy", "fast-simplification>=0.2.0,<1") as a requirement; ValueError on anything richer."""
    match = REQUIREMENT.fullmatch(line.strip())
    bounds = [BOUND.fullmatch(part.strip()) for part in (match["bounds"] or "").split(",") if part] if match else [None]
    if match is None or None in bounds:
        raise ValueError(f"requirement: expected NAME or NAME>=VERSION,<VERSION, got {line!r}")
    return Requirement(canonical(match["name"]), tuple(bound.groups() for bound in bounds if bound))


def read_requirements(path: Path) -> list[Requirement]:
    """The requirements in a file, comments and empty lines left out. ValueError if it names a package of torch's."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    wanted = [parse_requirement(line) for line in lines if line]
    if named := sorted({r.name for r in wanted} & set(TORCH_FAMILY)):
        raise ValueError(f"{path.name}: expected no package that ComfyUI brings itself, got {', '.join(named)}")
    return wanted


def installed_versions() -> dict[str, str]:
    """Canonical name to version of every distribution that this interpreter sees, the first on the path winning."""
    importlib.invalidate_caches()
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
        if name and version and VERSION.fullmatch(version):
            found.setdefault(canonical(name), version)
    return found


def missing(wanted: Iterable[Requirement], versions: Mapping[str, str]) -> list[Requirement]:
    """Those requirements that are absent or whose installed version breaks a bound."""
    return [r for r in wanted if r.name not in versions or not r.allows(versions[r.name])]


def constraints(versions: Mapping[str, str], replaced: Iterable[str]) -> str:
    """A constraints file under which pip only adds: it pins all that is installed but `replaced`, and rules out torch.

    An absent package of torch's that is not asked for is bound below 0, so that no dependency can bring it.
    """
    wanted = set(replaced)
    pins = [f"{name}=={version}" for name, version in sorted(versions.items()) if name not in wanted]
    barred = [f"{name}<0" for name in TORCH_FAMILY if name not in versions and name not in wanted]
    return "\n".join(pins + barred) + "\n"


# Installing


def installer(machine: Machine) -> list[str]:
    """The start of an install command for this Python: pip's, else uv's."""
    if machine.has_module("pip"):
        isolated = ["-s"] if sys.flags.no_user_site else []
        options = ["install", "--disable-pip-version-check", "--prefer-binary"]
        return [machine.python, *isolated, "-m", "pip", *options]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", machine.python]
    raise InstallError(NO_PIP)


def add_missing(machine: Machine, wanted: Sequence[Requirement]) -> int:
    """Installs what of `wanted` is missing and changes nothing else. 0, or the installer's exit code.

    If the lot does not install together, each is tried alone, so that one without a wheel costs only itself.
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
    """Says what did not install; the exit code of the first that the pack cannot do without."""
    for requirement in failed:
        need = "optional: slower without it" if requirement.name in OPTIONAL else "needed"
        say(f"could not install {requirement} ({need})")
    return next((code for requirement, code in failed.items() if requirement.name not in OPTIONAL), 0)


def install_into_host(machine: Machine) -> int:
    """What ComfyUI Manager runs: the missing pure requirements, into the running interpreter, with torch left alone."""
    code = add_missing(machine, read_requirements(machine.root / "requirements.txt"))
    if "torch" not in machine.versions():
        say("torch is not installed in this Python; ComfyUI needs it, and this script does not install it")
    return code


def prepare(machine: Machine, extra: Sequence[str] = ()) -> int:
    """An environment that can run the pack: torch if absent, the requirements, and `extra` ones."""
    if "torch" not in machine.versions():
        say(f"installing {TORCH} (a large download; for another build, install torch here first)")
        if code := machine.run([*installer(machine), TORCH]):
            return code
    wanted = read_requirements(machine.root / "requirements.txt")
    return add_missing(machine, [*wanted, *map(parse_requirement, extra)])


# The environment of a fresh machine


def venv_python(root: Path) -> Path:
    """Where the Python of `.venv` is."""
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure_venv(machine: Machine) -> Path:
    """The Python of a working `.venv` in the root, made or mended first if need be."""
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
    """`job()` when this Python is a virtual environment's, else this script with `arguments`, run by `.venv`'s."""
    if machine.in_venv:
        return job()
    return machine.run([str(ensure_venv(machine)), str(machine.root / "install.py"), *arguments])


# Jobs


def run_demo(machine: Machine, arguments: Sequence[str]) -> int:
    """A picture of the repository to output/demo.glb, through every stage, with the built-in checkpoint."""
    parser = argparse.ArgumentParser(prog="install.py --demo", add_help=False, allow_abbrev=False)
    parser.add_argument("--picture", default=DEMO_IMAGE)
    parser.add_argument("--model")
    options, rest = parser.parse_known_args(arguments)
    known = load_file(f"{ALIAS}_builtin", machine.root / "trellis2" / "checkpoint" / "builtin.py")
    random = options.model is None and known.find_built_in(machine.root) is None
    model = options.model or (TINY_MODEL if random else known.PLACE)
    generate = ["generate", options.picture, "-o", DEMO_OUTPUT, "--model", model, *DEMO_OPTIONS, *rest]
    command = [machine.python, str(machine.root / "install.py"), "--run-cli"]
    code = prepare(machine)
    if random and code == 0:
        say(NO_MODEL)
    for step in [*([["make-tiny", TINY_MODEL]] if random else []), generate]:
        if code == 0:
            say("trellis2 " + " ".join(step))
            code = machine.run([*command, *step])
    if code == 0:
        say(f"done: {DEMO_OUTPUT}")
    return code


def run_tests(machine: Machine, arguments: Sequence[str]) -> int:
    """The tests."""
    return prepare(machine, TEST_REQUIREMENTS) or machine.run([machine.python, "-c", PYTEST, *arguments])


def run_linter(machine: Machine, arguments: Sequence[str]) -> int:
    """The linter."""
    return prepare(machine, TEST_REQUIREMENTS) or machine.run([machine.python, "-m", "ruff", "check", *arguments])


def load_file(name: str, path: Path) -> ModuleType:
    """The module or package at `path`, imported as `name`."""
    folder = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run_cli(machine: Machine, arguments: Sequence[str]) -> int:
    """The `trellis2` command of this tree, without installing the tree."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != machine.root]
    load_file(ALIAS, machine.root / "__init__.py")
    return importlib.import_module(f"{ALIAS}.trellis2.cli.main").main(list(arguments))


def accelerator(machine: Machine, name: str) -> int:
    """Installs an optional accelerator if wheels/index.json has a build for this machine, else says why not."""
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
    mode.add_argument("--lint", action="store_true", help="run ruff, in .venv")
    mode.add_argument("--accelerator", metavar="NAME", help="add an optional accelerator to this Python")
    mode.add_argument("--run-cli", nargs=argparse.REMAINDER, metavar="...", help="the trellis2 command, by this Python")
    return parser


def main(argv: Sequence[str], machine: Machine) -> int:
    """Runs the mode that `argv` names; its exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    job = {"--demo": run_demo, "--test": run_tests, "--lint": run_linter}.get(argv[0] if argv else "")
    if rest and job is None:
        parser.error(f"unknown argument {rest[0]}")
    try:
        if job:
            return in_environment(machine, argv, lambda: job(machine, rest))
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
