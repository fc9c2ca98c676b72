"""Installs the pack. Standard library only.

    python install.py            run by ComfyUI Manager: adds the missing requirements to this Python, never torch, and
                                 has kernels compiled in the background (--no-compile or TRELLIS2_NO_COMPILE=1: not)
    python3 install.py --demo    a fresh machine: makes .venv, installs, turns an image into output/demo.glb with the
                                 built-in checkpoint; --picture FILE for another image
    python3 install.py --test    a fresh machine: makes .venv, installs, runs the tests; with --fast only the quick ones
    python3 install.py --types   the same with mypy, which checks the types

    python install.py --accelerator NAME     adds an optional accelerator that was checked to load here
    python install.py --check-wheel FILE     says whether a wheel would load here, and why not

The first two of a fresh machine add a `trellis2` command to .venv. Without an NVIDIA or AMD GPU they install torch
without the CUDA packages, which --cuda and --cpu decide otherwise; with --offline DIR packages come from that folder
alone. Everything may be run again: installed parts are kept. Arguments after --demo go to `trellis2 generate`, those
after --test to pytest. The exit code is that of the command that failed, else 0.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent
ALIAS = "comfyui_trellis2"  # the name that `pip install .` gives the same tree
OLDEST_PYTHON = (3, 10)

TRITON_PINNED = "3.7.1"  # by torch's own metadata in its CUDA build; its CPU build comes without Triton
TRITON = ("triton",) if sys.platform == "linux" else ()  # interprets kernels where there is no GPU; wheels: Linux
TEST_REQUIREMENTS = ("pytest", "pytest-xdist", "hypothesis", "ruff", "gguf", "setuptools>=77", "zstandard", *TRITON)
TYPE_REQUIREMENTS = ("mypy>=2.4",)  # not needed to run the tests
CHECKED = ("o_voxel", "trellis2", "nodes")  # folders whose types are checked

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


def load_file(name: str, path: Path) -> ModuleType:
    """Imports the module or package at `path` as `name`."""
    folder = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


load_file(f"{ALIAS}_wheels", ROOT / "wheels" / "__init__.py")
requirements, environment, torch_build, background = (
    importlib.import_module(f"{ALIAS}_wheels.{name}")
    for name in ("requirements", "environment", "torch_build", "background")
)
InstallError, Machine = environment.InstallError, environment.Machine
add_missing, installer, say = environment.add_missing, environment.installer, environment.say


# Installing


def install_into_host(machine: Machine, compile_ahead: bool = True) -> int:
    """Run by ComfyUI Manager: installs the missing pure requirements into the running interpreter, but never torch.
    With `compile_ahead` the kernels are then compiled in the background, which neither waits nor fails."""
    code = add_missing(machine, requirements.read_requirements(machine.root / "requirements.txt"))
    if "torch" not in machine.versions():
        say("torch is not installed in this Python; ComfyUI needs it, and this script does not install it")
    elif code == 0 and compile_ahead and machine.start is not None:
        if problem := machine.start(background.command(machine.python, machine.root)):
            say(f"kernels are compiled at their first use, not now in the background: {problem}")
        else:
            say(
                f"kernels are compiled in the background, some minutes, so that the first run is fast: "
                f"{background.LOG}; to skip it: --no-compile, or {background.VARIABLE}=1"
            )
    return code


def prepare(machine: Machine, extra: Sequence[str] = (), *, build: str | None = None) -> int:
    """Completes the environment: torch if absent, the requirements, and `extra` ones. Returns the exit code."""
    if "torch" not in machine.versions():
        gpu = torch_build.find_gpu() if build is None else None
        if code := torch_build.install_torch(machine, build, gpu):
            return code
    wanted = requirements.read_requirements(machine.root / "requirements.txt")
    return add_missing(machine, [*wanted, *map(requirements.parse_requirement, extra)])


# Jobs


@dataclass(frozen=True)
class Options:
    """Options shared by the jobs."""

    build: str | None = None  # of torch: "cpu" without CUDA, "cuda" the usual one, None by the GPU
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
    code = prepare(machine, build=chosen.build)
    if random and code == 0:
        say(NO_MODEL)
    for step in [*([["make-tiny", TINY_MODEL]] if random else []), generate]:
        if code == 0:
            say("trellis2 " + " ".join(step))
            code = machine.run([*command, *step])
    if code == 0:
        say(f"done: {DEMO_OUTPUT}")
        if (command := environment.command_file(machine.root)).exists():
            say(f"the command line: {command.relative_to(machine.root)} --help")
    return code


def run_tests(machine: Machine, arguments: Sequence[str], chosen: Options) -> int:
    """Runs the tests."""
    command = [machine.python, "-c", PYTEST, *PARALLEL, *(FAST if chosen.fast else ()), *arguments]
    return prepare(machine, TEST_REQUIREMENTS, build=chosen.build) or machine.run(command)


def run_kernel_tests(machine: Machine, arguments: Sequence[str], chosen: Options) -> int:
    """Runs the tests of the Triton kernels under a second Triton, for this run alone.

    That is the newest one if the environment has the one that torch pins, else the pinned one.
    """
    if code := prepare(machine, TEST_REQUIREMENTS, build=chosen.build):
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
    return prepare(machine, TEST_REQUIREMENTS, build=chosen.build) or machine.run(ruff)


def run_type_checker(machine: Machine, arguments: Sequence[str], chosen: Options) -> int:
    """Checks the types. mypy refuses a package whose folder has a name that is none in Python, such as that of a clone:
    it sees the tree by a link that has one."""
    link = machine.root / ".mypy_cache" / "tree" / ALIAS
    if code := prepare(machine, TYPE_REQUIREMENTS, build=chosen.build):
        return code
    if not link.is_dir():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(machine.root, target_is_directory=True)
    folders = [str(link.relative_to(machine.root) / name) for name in CHECKED]
    return machine.run([machine.python, "-m", "mypy", *arguments, *folders])


JOBS = {
    "--demo": run_demo,
    "--test": run_tests,
    "--test-kernels": run_kernel_tests,
    "--lint": run_linter,
    "--types": run_type_checker,
}


def run_cli(machine: Machine, arguments: Sequence[str]) -> int:
    """Runs the `trellis2` command of this tree, without installing the tree; in `.venv` if this Python has no torch."""
    if machine.has_module("torch"):
        return _run_cli_here(machine, arguments)
    if not machine.in_venv:
        say("this Python has no torch: the command runs in .venv", sys.stderr)
    again = ["--run-cli", *arguments]
    return environment.in_environment(machine, again, lambda: prepare(machine) or _run_cli_here(machine, arguments))


def _run_cli_here(machine: Machine, arguments: Sequence[str]) -> int:
    importlib.invalidate_caches()
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != machine.root]
    load_file(ALIAS, machine.root / "__init__.py")
    return importlib.import_module(f"{ALIAS}.trellis2.cli.main").main(list(arguments))


def accelerators(machine: Machine, options: argparse.Namespace) -> int:
    """Adds an optional accelerator, or compares wheels with this machine."""
    module = importlib.import_module(f"{ALIAS}_wheels.accelerator")
    if options.check_wheel:
        return module.check_wheels(options.check_wheel)
    return module.add_accelerator(
        machine, module.Request(options.accelerator, dry_run=options.dry_run, consent=options.accept_licence)
    )


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout, allow_abbrev=False)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--demo", action="store_true", help="make a mesh from a picture, in .venv")
    mode.add_argument("--test", action="store_true", help="run the tests, in .venv")
    mode.add_argument("--test-kernels", action="store_true", help="run the kernels' tests under another Triton")
    mode.add_argument("--lint", action="store_true", help="run ruff, in .venv")
    mode.add_argument("--types", action="store_true", help="check the types with mypy, in .venv")
    mode.add_argument("--accelerator", metavar="NAME", help="add an optional accelerator to this Python")
    mode.add_argument("--run-cli", nargs=argparse.REMAINDER, metavar="...", help="the trellis2 command")
    mode.add_argument("--check-wheel", nargs="+", metavar="FILE", help="say whether wheels would load on this machine")
    build = parser.add_mutually_exclusive_group()
    build.add_argument("--cpu", action="store_true", help="after --demo or --test: torch without CUDA's packages")
    build.add_argument(
        "--cuda", action="store_true", help="after --demo or --test: the usual torch, also without a GPU"
    )
    parser.add_argument("--fast", action="store_true", help="after --test: skip slow tests and those that need a GPU")
    parser.add_argument(
        "--offline", metavar="DIR", type=Path, help="packages come from this folder alone (a wheelhouse)"
    )
    parser.add_argument("--no-compile", action="store_true", help="compile no kernels in the background")
    parser.add_argument("--dry-run", action="store_true", help="after --accelerator: only say what would be done")
    parser.add_argument("--accept-licence", action="store_true", help="after --accelerator: agree to its licence")
    return parser


def _check_options(
    parser: argparse.ArgumentParser, options: argparse.Namespace, rest: Sequence[str], job: bool
) -> None:
    """Refuses options that the mode does not have, before anything is installed."""
    if not job and rest:
        parser.error(f"unknown argument {rest[0]}")
    if not job and (options.cpu or options.cuda or options.fast):
        parser.error("--cpu, --cuda and --fast come after --demo or --test")
    if options.no_compile and (job or options.run_cli is not None or options.accelerator or options.check_wheel):
        parser.error("--no-compile is for an install into ComfyUI's Python, without a mode")
    if not options.accelerator and (options.dry_run or options.accept_licence):
        parser.error("--dry-run and --accept-licence go with --accelerator")
    if options.offline and not options.offline.is_dir():
        parser.error(f"--offline: {options.offline} is no folder")


def _without_offline(argv: Sequence[str]) -> list[str]:
    """The arguments without --offline and its folder."""
    told = {i + 1 for i, word in enumerate(argv) if word == "--offline"}
    return [word for i, word in enumerate(argv) if i not in told and not word.startswith("--offline")]


def main(argv: Sequence[str], machine: Machine) -> int:
    """Runs the mode that `argv` names. Returns its exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    job = JOBS.get(argv[0] if argv else "")
    _check_options(parser, options, rest, job is not None)
    chosen = Options(build="cpu" if options.cpu else "cuda" if options.cuda else None, fast=options.fast)
    if options.offline:
        folder = options.offline.resolve()  # the command runs again with the root as its folder
        argv = [*_without_offline(argv), "--offline", str(folder)] if job else argv
        machine = replace(machine, offline=folder)
    try:
        if job:
            return environment.in_environment(machine, argv, lambda: job(machine, rest, chosen))
        if options.run_cli is not None:
            return run_cli(machine, options.run_cli)
        if options.accelerator or options.check_wheel:
            return accelerators(machine, options)
        return install_into_host(machine, not (options.no_compile or background.skipped()))
    except InstallError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}: {sys.executable}")
    sys.exit(main(sys.argv[1:], environment.this_machine(ROOT)))
