"""Parses requirements.txt and compares it with the installed distributions. Standard library only."""

from __future__ import annotations

import importlib
import importlib.metadata
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

TORCH_FAMILY = ("torch", "torchvision", "torchaudio", "triton")
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


@dataclass(frozen=True)
class Requirement:
    """One line of requirements.txt: a name and version bounds."""

    name: str
    bounds: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.name + ",".join(sign + version for sign, version in self.bounds)

    def allows(self, version: str) -> bool:
        """True if the release part of `version` satisfies every bound. Pre-release and local parts are not compared."""
        return all(COMPARE[sign](release(version), release(bound)) for sign, bound in self.bounds)


def canonical(name: str) -> str:
    """Returns a distribution's name in the normalised form of package indexes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def release(version: str) -> tuple[int, ...]:
    """Returns the numbers of a version without trailing zeros: "2.13.0+cpu" is (2, 13). Raises ValueError for other
    text."""
    match = VERSION.fullmatch(version)
    if match is None:
        raise ValueError(f"version: expected numbers such as 2.13.0, got {version!r}")
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def parse_requirement(line: str) -> Requirement:
    """Parses `line` ("numpy", "fast-simplification>=0.2.0,<1"). Raises ValueError on any other syntax."""
    match = REQUIREMENT.fullmatch(line.strip())
    bounds = [BOUND.fullmatch(part.strip()) for part in (match["bounds"] or "").split(",") if part] if match else [None]
    if match is None or None in bounds:
        raise ValueError(f"requirement: expected NAME or NAME>=VERSION,<VERSION, got {line!r}")
    return Requirement(canonical(match["name"]), tuple(bound.groups() for bound in bounds if bound))


def read_requirements(path: Path) -> list[Requirement]:
    """Parses a requirements file, ignoring comments and empty lines. Raises ValueError if it names a package of
    torch's."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    wanted = [parse_requirement(line) for line in lines if line]
    if named := sorted({r.name for r in wanted} & set(TORCH_FAMILY)):
        raise ValueError(f"{path.name}: expected no package that ComfyUI brings itself, got {', '.join(named)}")
    return wanted


def installed_versions() -> dict[str, str]:
    """Returns canonical name to version of every distribution visible to this interpreter, the first on the path
    winning."""
    importlib.invalidate_caches()
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
        if name and version and VERSION.fullmatch(version):
            found.setdefault(canonical(name), version)
    return found


def missing(wanted: Iterable[Requirement], versions: Mapping[str, str]) -> list[Requirement]:
    """Returns the requirements that are absent or whose installed version violates a bound."""
    return [r for r in wanted if r.name not in versions or not r.allows(versions[r.name])]


def constraints(versions: Mapping[str, str], replaced: Iterable[str]) -> str:
    """Returns a constraints file under which pip only adds: it pins all installed versions but `replaced`, and excludes
    torch.

    An absent package of torch's that is not requested is bound below 0, so that no dependency can install it.
    """
    wanted = set(replaced)
    pins = [f"{name}=={version}" for name, version in sorted(versions.items()) if name not in wanted]
    barred = [f"{name}<0" for name in TORCH_FAMILY if name not in versions and name not in wanted]
    return "\n".join(pins + barred) + "\n"
