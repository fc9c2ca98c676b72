"""Fills a folder with wheels, so that a machine without a network installs from it with `install.py --offline DIR`.

    python wheels/make_wheelhouse.py DIR                        the pack's requirements, for this machine
    python wheels/make_wheelhouse.py DIR --torch --tests        what `install.py --demo` and `--test` need as well
    python wheels/make_wheelhouse.py DIR --accelerator xformers
    python wheels/make_wheelhouse.py DIR --python 3.12 --platform win_amd64      for another machine

Packages come from the index that pip is set up to use. wheelhouse.json lists the files with their SHA-256; what is
there and whole is not downloaded again. The exit code is pip's if it failed, else 0.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if not __package__:  # run as a script: load the folder as a package, whose modules import each other
    spec = importlib.util.spec_from_file_location("wheels_of_trellis2", Path(__file__).with_name("__init__.py"))
    package = importlib.util.module_from_spec(spec)
    sys.modules["wheels_of_trellis2"] = package
    spec.loader.exec_module(package)
    __package__ = "wheels_of_trellis2"

from .accelerator import MANIFEST, read_manifest, sha256_of  # noqa: E402 the package must be loaded before
from .environment import InstallError, Machine, pip, say, this_machine  # noqa: E402 as above
from .requirements import canonical  # noqa: E402 as above
from .resolve import INDEX, Host, Index, Wheel, pick_wheel, read_index, this_host  # noqa: E402 as above
from .torch_build import TORCH  # noqa: E402 as above

# A wheel's platform tags by its platform, from what today's packages publish.
PLATFORM_TAGS = {
    "linux_x86_64": ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64"),
    "linux_aarch64": ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64"),
    "win_amd64": ("win_amd64",),
    "macosx_arm64": ("macosx_14_0_arm64", "macosx_12_0_arm64", "macosx_11_0_arm64"),
}


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--accelerator", action="append", default=[], metavar="NAME", help="may be repeated")
    parser.add_argument("--torch", action="store_true", help=f"{TORCH} as well, with all that it needs")
    parser.add_argument("--tests", action="store_true", help="what the tests need as well")
    parser.add_argument("--python", metavar="3.X", help="of the machine that will install; by default this Python")
    parser.add_argument("--platform", choices=sorted(PLATFORM_TAGS), help="of that machine; by default this one's")
    parser.add_argument("--dry-run", action="store_true", help="print pip's commands only")
    return parser


def commands(machine: Machine, options: argparse.Namespace, index: Index, host: Host) -> list[tuple[list[str], str]]:
    """Returns pip's commands, each with the text of a requirements file to be given as its last argument."""
    target: list[str] = []
    if options.python or options.platform:
        for tag in PLATFORM_TAGS[options.platform or host.platform]:
            target += ["--platform", tag]
        target += ["--python-version", options.python or host.python]
    base = [*pip(machine), "download", "-q", "--disable-pip-version-check", "--only-binary", ":all:", *target]
    base += ["-d", str(options.folder.resolve()), "--find-links", str(options.folder.resolve())]
    wanted = (machine.root / "requirements.txt").read_text(encoding="utf-8")
    wanted += TORCH + "\n" if options.torch else ""
    wanted += "\n".join(_tests(machine.root)) + "\n" if options.tests else ""
    found = [([*base, "-r"], wanted)]
    for name in options.accelerator:
        wheel = _pick(name, host, index)
        found.append(([*base, "--no-deps", "--require-hashes", "-r"], wheel.requirement + "\n"))
    return found


def _tests(root: Path) -> list[str]:
    """The requirements of the tests, which install.py holds."""
    text = (root / "install.py").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("TEST_REQUIREMENTS"))
    return line.split('"')[1::2]


def _pick(name: str, host: Host, index: Index) -> Wheel:
    package = index.packages.get(canonical(name))
    if package is None:
        raise InstallError(f"{name}: no build is listed; there are {', '.join(sorted(index.packages))}")
    torch = host.torch or TORCH.partition("==")[2].rpartition(".")[0]
    fit = Host(platform=host.platform, python=host.python, torch=torch, cuda=host.cuda, rocm=host.rocm)
    choice = pick_wheel(package.name, fit, index.wheels)
    if choice.wheel is None:
        raise InstallError(choice.reason)
    if choice.wheel.source != INDEX:
        raise InstallError(f"{choice.wheel.file}: download it from {choice.wheel.source} into the folder yourself")
    return choice.wheel


def write_manifest(folder: Path) -> int:
    """Lists the folder's wheels in wheelhouse.json, whole or not at all. Returns their number."""
    files = {file.name: sha256_of(file) for file in sorted(folder.glob("*.whl"))}
    new = folder / f"{MANIFEST}.{os.getpid()}"
    new.write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
    new.replace(folder / MANIFEST)
    return len(files)


def drop_damaged(folder: Path) -> list[str]:
    """Deletes what does not have the checksum that the manifest lists, so that it is downloaded again."""
    known = read_manifest(folder)
    damaged = [
        name for name, digest in known.items() if (folder / name).is_file() and sha256_of(folder / name) != digest
    ]
    for name in damaged:
        (folder / name).unlink()
    return damaged


def main(argv: Sequence[str], machine: Machine) -> int:
    """Makes the wheelhouse that `argv` describes. Returns the exit code."""
    options, host = _parser().parse_args(argv), this_host()
    host = Host(
        platform=options.platform or host.platform,
        python=options.python or host.python,
        torch=host.torch,
        cuda=host.cuda,
        rocm=host.rocm,
    )
    try:
        steps = commands(machine, options, read_index(ROOT / "wheels" / "index.json"), host)
        if options.dry_run:
            for command, text in steps:
                say(" ".join(command) + " <<< " + " ".join(text.split("\n")))
            return 0
        options.folder.mkdir(parents=True, exist_ok=True)
        for name in drop_damaged(options.folder):
            say(f"{name} was damaged and is downloaded again")
        return _download(machine, options.folder, steps)
    except InstallError as error:
        say(f"error: {error}")
        return 1


def _download(machine: Machine, folder: Path, steps: Sequence[tuple[list[str], str]]) -> int:
    wanted = folder / f"wanted.{os.getpid()}.txt"
    try:
        for command, text in steps:
            wanted.write_text(text, encoding="utf-8")
            if code := machine.run([*command, str(wanted.resolve())]):
                return code
    finally:
        wanted.unlink(missing_ok=True)
    say(f"{write_manifest(folder)} wheels are in {folder}; use them with `python install.py --offline {folder}`")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], this_machine(ROOT)))
