"""Selects the build of an optional accelerator for this machine from index.json, or reports why none fits.

Nothing here imports torch: its version and its CUDA are read from its files.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path

SCHEMA = 1
ANY = "any"
FORMATS = {
    "package": r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?",
    "version": r"\d+(\.\d+)*\S*",
    "platform": r"any|(linux|win|macosx)_[a-z0-9_]+",
    "python": r"any|3\.\d+\+?",
    "torch": r"any|\d+\.\d+",
    "cuda": r"any|none|\d+\.\d+",
    "url": r"(https|file)://\S+\.whl",
    "sha256": r"[0-9a-f]{64}",
}


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One row of the index. "any" in a column: the build does not depend on it; README.md documents the others."""

    package: str
    version: str
    platform: str
    python: str
    torch: str
    cuda: str
    url: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The requirement for pip, which rejects the file if the checksum differs."""
        return f"{self.package} @ {self.url}#sha256={self.sha256}"


@dataclass(frozen=True, kw_only=True)
class Host:
    """Properties that a build must fit. `torch` and `cuda` are "2.13" and "13.0", or None: no torch, a torch without
    CUDA."""

    platform: str
    python: str
    torch: str | None
    cuda: str | None


@dataclass(frozen=True)
class Choice:
    """The build to install, or None, and the reason in one sentence."""

    wheel: Wheel | None
    reason: str


def read_index(path: Path) -> tuple[Wheel, ...]:
    """Parses an index file. Raises ValueError on another schema, an unknown or missing column, a malformed value."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or set(data) != {"schema", "wheels"} or data["schema"] != SCHEMA:
        raise ValueError(f'{path.name}: expected {{"schema": {SCHEMA}, "wheels": [...]}}, got {str(data)[:80]}')
    rows = tuple(_row(row, f"{path.name}: wheel {i}") for i, row in enumerate(data["wheels"]))
    if len(set(rows)) != len(rows):
        raise ValueError(f"{path.name}: expected every wheel once, got a repeated row")
    return rows


def _row(row: object, where: str) -> Wheel:
    columns = [field.name for field in fields(Wheel)]
    if not isinstance(row, dict) or sorted(row) != sorted(columns):
        got = sorted(row) if isinstance(row, dict) else row
        raise ValueError(f"{where}: expected the columns {', '.join(columns)}, got {got}")
    for name, value in row.items():
        if not isinstance(value, str) or not re.fullmatch(FORMATS[name], value):
            raise ValueError(f"{where}: {name}: expected {FORMATS[name]}, got {value!r}")
    return Wheel(**row)


def resolve(package: str, host: Host, index: Iterable[Wheel]) -> Choice:
    """Returns the newest build of `package` that fits `host`, among equals the one with the newest CUDA.

    Without one, the reason names the first property of the host that no build fits, and the values that the builds
    support.
    """
    named = [wheel for wheel in index if _canonical(wheel.package) == _canonical(package)]
    if not named:
        return Choice(None, f"{package}: no build is listed")
    for column, fits in _TESTS.items():
        left = [wheel for wheel in named if fits(wheel, host)]
        if not left:
            built = ", ".join(sorted({getattr(wheel, column) for wheel in named}, key=_numbers))
            here = getattr(host, column) or "none"
            return Choice(None, f"{package}: no build for {column} {here}; there are builds for {built}")
        named = left
    best = max(named, key=lambda wheel: (_numbers(wheel.version), _numbers(wheel.cuda), wheel.url))
    on = f"{host.platform}, Python {host.python}, torch {host.torch or 'none'}, CUDA {host.cuda or 'none'}"
    return Choice(best, f"{package}: {best.version} fits {on}")


def _fits_python(wheel: Wheel, host: Host) -> bool:
    if wheel.python.endswith("+"):
        return _numbers(host.python) >= _numbers(wheel.python)
    return wheel.python in (ANY, host.python)


def _fits_cuda(wheel: Wheel, host: Host) -> bool:
    """True if the host's CUDA has the build's major version and an equal or newer minor one."""
    if wheel.cuda in (ANY, "none"):
        return wheel.cuda == ANY or host.cuda is None
    if host.cuda is None:
        return False
    built, here = _numbers(wheel.cuda), _numbers(host.cuda)
    return built[0] == here[0] and built <= here


_TESTS: dict[str, Callable[[Wheel, Host], bool]] = {
    "platform": lambda wheel, host: wheel.platform in (ANY, host.platform),
    "python": _fits_python,
    "torch": lambda wheel, host: wheel.torch in (ANY, host.torch),
    "cuda": _fits_cuda,
}


def this_host() -> Host:
    """Returns the running interpreter's platform, Python, torch and CUDA."""
    torch, cuda = _installed_torch()
    return Host(
        platform=platform_name(platform.system(), platform.machine()),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        torch=torch,
        cuda=cuda,
    )


def platform_name(system: str, machine: str) -> str:
    """Converts the system and machine of the `platform` module to wheel file names' spelling, without glibc and macOS
    versions."""
    family = {"Linux": "linux", "Windows": "win", "Darwin": "macosx"}.get(system, system.lower())
    return f"{family}_{machine.lower()}"


def _installed_torch() -> tuple[str | None, str | None]:
    try:
        distribution = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return None, None
    version = ".".join(distribution.version.split(".")[:2])
    text = Path(distribution.locate_file("torch/version.py")).read_text(encoding="utf-8")
    return version, cuda_of(text)


def cuda_of(version_file: str) -> str | None:
    """Returns the CUDA version of a torch build, from the text of its version.py; None for CPU and ROCm builds."""
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"](\d+\.\d+)", version_file, re.MULTILINE)
    return match[1] if match else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.split("+")[0])))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
