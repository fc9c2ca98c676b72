"""Selects the build of an optional accelerator for this machine from index.json, or reports why none fits.

Nothing here imports torch: its version and its CUDA are read from its files.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from .check.tags import parse_name, platform_name
from .requirements import canonical

SCHEMA = 2
ANY = "any"
INDEX = "index"
PACKAGE_FORMATS = {"probe": r"\S.*", "licence": r"\S.*", "use": r"\S.*"}
BUILD_FORMATS = {
    "package": r"[a-z0-9]([a-z0-9-]*[a-z0-9])?",
    "version": r"\d+(\.\d+)*\S*",
    "torch": r"any|\d+\.\d+\+?",
    "cuda": r"any|none|(rocm)?\d+\.\d+",
    "source": r"index|github:[\w.-]+/[\w.-]+@[\w.+-]+",
}
SHA256 = r"[0-9a-f]{64}"


@dataclass(frozen=True, kw_only=True)
class Package:
    """An accelerator. `probe` is Python that must pass after the install. `consent`: its licence is not free for every
    use, so the
    user must agree. `recipe`: the commands that build it; {arch} and {gfx} stand for the cards."""

    name: str
    probe: str
    licence: str
    use: str
    consent: bool = False
    recipe: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One build. "any" in a column: the build does not depend on it; README.md documents the others.

    `platform` and `python` follow from the file's name. `source` is "index", the user's package index, or
    "github:OWNER/NAME@TAG", a release or commit that has the file.
    """

    package: str
    version: str
    platform: str
    python: str
    torch: str
    cuda: str
    file: str
    sha256: str
    source: str = INDEX

    @property
    def requirement(self) -> str:
        """The line of a requirements file with which pip takes this file alone."""
        return f"{self.package}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True)
class Index:
    """What index.json lists."""

    packages: Mapping[str, Package] = field(default_factory=dict)
    wheels: tuple[Wheel, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Host:
    """Properties that a build must fit. `torch`, `cuda` and `rocm` are "2.13", "13.0", "6.4", or None: no torch, or one
    without it."""

    platform: str
    python: str
    torch: str | None
    cuda: str | None
    rocm: str | None = None


@dataclass(frozen=True)
class Choice:
    """The build to install, or None, and the reason in one sentence."""

    wheel: Wheel | None
    reason: str


def read_index(path: Path) -> Index:
    """Parses an index file. Raises ValueError on another schema, an unknown or missing column, a malformed value."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or set(data) != {"schema", "packages", "builds"} or data["schema"] != SCHEMA:
        raise ValueError(
            f'{path.name}: expected {{"schema": {SCHEMA}, "packages": …, "builds": […]}}, got {str(data)[:80]}'
        )
    packages = {name: _package(name, row, f"{path.name}: {name}") for name, row in data["packages"].items()}
    rows = tuple(row for i, build in enumerate(data["builds"]) for row in _rows(build, f"{path.name}: build {i}"))
    if unknown := sorted({row.package for row in rows} - set(packages)):
        raise ValueError(f"{path.name}: builds of {', '.join(unknown)}, which is not among the packages")
    if len({row.file for row in rows}) != len(rows):
        raise ValueError(f"{path.name}: expected every file once, got a repeated one")
    return Index(packages, rows)


def _package(name: str, row: object, where: str) -> Package:
    optional = {f.name for f in fields(Package)} - {"name"}
    if not isinstance(row, dict) or not set(PACKAGE_FORMATS) <= set(row) <= optional:
        raise ValueError(f"{where}: expected the columns {', '.join(sorted(optional))}, got {row}")
    _check(row, PACKAGE_FORMATS, where)
    recipe = row.get("recipe", [])
    if not isinstance(recipe, list) or not all(isinstance(line, str) for line in recipe):
        raise ValueError(f"{where}: recipe: expected a list of commands, got {recipe!r}")
    if not isinstance(row.get("consent", False), bool):
        raise ValueError(f"{where}: consent: expected true or false, got {row['consent']!r}")
    return Package(name=name, **{**row, "recipe": tuple(recipe)})


def _rows(build: object, where: str) -> list[Wheel]:
    if not isinstance(build, dict) or sorted(build) != sorted([*BUILD_FORMATS, "files"]):
        got = sorted(build) if isinstance(build, dict) else build
        raise ValueError(f"{where}: expected the columns {', '.join([*BUILD_FORMATS, 'files'])}, got {got}")
    _check(build, BUILD_FORMATS, where)
    files = build["files"]
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{where}: files: expected an object of file names and sha256, got {files!r}")
    _check(files, dict.fromkeys(files, SHA256), where)
    rest = {name: build[name] for name in BUILD_FORMATS}
    return [
        Wheel(file=file, sha256=digest, platform=system, python=python, **rest)
        for file, digest in files.items()
        for system, python in [columns_of(file, rest["package"], rest["version"], where)]
    ]


def _check(row: Mapping[str, object], formats: Mapping[str, str], where: str) -> None:
    for name, pattern in formats.items():
        if not isinstance(row[name], str) or not re.fullmatch(pattern, row[name]):
            raise ValueError(f"{where}: {name}: expected {pattern}, got {row[name]!r}")


def columns_of(file: str, package: str, version: str, where: str) -> tuple[str, str]:
    """Returns the columns `platform` and `python` of a wheel from its name: ("linux_x86_64", "3.9+").

    Raises ValueError if it is no wheel's name, or that of another package or version.
    """
    name = parse_name(file)
    if (name.name, name.version) != (canonical(package), version):
        raise ValueError(f"{where}: expected a file of {package} {version}, got {file}")
    system = re.sub(r"^(manylinux\d*|musllinux|macosx)(_\d+_\d+)?", _family, name.platform[-1])
    python = re.fullmatch(r"(?:cp|py)3(\d*)", name.python[-1])
    if python is None:
        raise ValueError(f"{where}: expected a file for CPython 3, got {file}")
    if not python[1]:
        return system, ANY
    exact = name.python[-1].startswith("cp") and name.abi[0] != "abi3"
    return system, f"3.{python[1]}" + ("" if exact else "+")


def _family(match: re.Match[str]) -> str:
    return "macosx" if match[1] == "macosx" else "linux" if match[1].startswith("many") else "musllinux"


def pick_wheel(package: str, host: Host, index: Iterable[Wheel]) -> Choice:
    """Returns the newest build of `package` that fits `host`, among equals the one with the newest CUDA.

    Without one, the reason names the first property of the host that no build fits, and the values that the builds
    support.
    """
    named = [wheel for wheel in index if canonical(wheel.package) == canonical(package)]
    if not named:
        return Choice(None, f"{package}: no build is listed")
    for column, fits in _TESTS.items():
        left = [wheel for wheel in named if fits(wheel, host)]
        if not left:
            built = ", ".join(sorted({getattr(wheel, column) for wheel in named}, key=_numbers))
            here = getattr(host, column) or (host.rocm and f"rocm{host.rocm}" if column == "cuda" else None) or "none"
            return Choice(None, f"{package}: no build for {column} {here}; there are builds for {built}")
        named = left
    best = max(named, key=lambda wheel: (_numbers(wheel.version), _numbers(wheel.cuda), wheel.file))
    on = f"{host.platform}, Python {host.python}, torch {host.torch or 'none'}, CUDA {host.cuda or 'none'}"
    return Choice(best, f"{package}: {best.version} fits {on}")


def _fits(built: str, here: str | None) -> bool:
    """True if `here` is what a column asks for, or at least that where it ends with +."""
    if built.endswith("+"):
        return here is not None and _numbers(here) >= _numbers(built)
    return built in (ANY, here)


def _fits_cuda(wheel: Wheel, host: Host) -> bool:
    """True if the host's CUDA, or ROCm, has the build's major version and an equal or newer minor one."""
    if wheel.cuda in (ANY, "none"):
        return wheel.cuda == ANY or (host.cuda is None and host.rocm is None)
    present = host.rocm if wheel.cuda.startswith("rocm") else host.cuda
    if present is None:
        return False
    built, here = _numbers(wheel.cuda), _numbers(present)
    return built[0] == here[0] and built <= here


_TESTS: dict[str, Callable[[Wheel, Host], bool]] = {
    "platform": lambda wheel, host: wheel.platform in (ANY, host.platform),
    "python": lambda wheel, host: _fits(wheel.python, host.python),
    "torch": lambda wheel, host: _fits(wheel.torch, host.torch),
    "cuda": _fits_cuda,
}


def this_host() -> Host:
    """Returns the running interpreter's platform, Python, torch, CUDA and ROCm."""
    torch, cuda, rocm = _installed_torch()
    return Host(
        platform=platform_name(platform.system(), platform.machine()),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        torch=torch,
        cuda=cuda,
        rocm=rocm,
    )


def _installed_torch() -> tuple[str | None, str | None, str | None]:
    try:
        distribution = importlib.metadata.distribution("torch")
        text = Path(str(distribution.locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except (importlib.metadata.PackageNotFoundError, OSError):
        return None, None, None
    return ".".join(distribution.version.split(".")[:2]), cuda_of(text), cuda_of(text, "hip")


def cuda_of(version_file: str, name: str = "cuda") -> str | None:
    """Returns the CUDA version of a torch build, or with "hip" that of ROCm, from the text of its version.py; None for
    other builds."""
    match = re.search(rf"^{name}\b[^=\n]*=\s*['\"](\d+\.\d+)", version_file, re.MULTILINE)
    return match[1] if match else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])))
