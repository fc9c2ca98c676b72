"""Whether a wheel's file name fits a Python: the tags of PEP 425, with manylinux (PEP 600), musllinux (PEP 656)."""

from __future__ import annotations

import platform
import re
import sys
import sysconfig
from dataclasses import dataclass

from ..requirements import canonical

OLD_MANYLINUX = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
NAME = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[\w.]*[A-Za-z0-9])?)-(?P<version>[^-]+)(?:-(?P<build>\d[^-]*))?"
    r"-(?P<python>[\w.]+)-(?P<abi>[\w.]+)-(?P<platform>[\w.]+)\.whl"
)


@dataclass(frozen=True)
class WheelName:
    """The parts of a wheel's file name. `python`, `abi` and `platform` hold one tag or several."""

    name: str
    version: str
    python: tuple[str, ...]
    abi: tuple[str, ...]
    platform: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Python:
    """What tags are compared with. `libc` is "glibc" or "musl" with its version, elsewhere None; `macos`: its
    version."""

    version: tuple[int, int]
    platform: str
    libc: tuple[str, tuple[int, int]] | None = None
    macos: tuple[int, int] | None = None
    free_threaded: bool = False

    def __str__(self) -> str:
        libc = f", {self.libc[0]} {'.'.join(map(str, self.libc[1]))}" if self.libc else ""
        return f"Python {self.version[0]}.{self.version[1]}{'t' * self.free_threaded}, {self.platform}{libc}"


def this_python() -> Python:
    """Returns the running interpreter's."""
    name = platform_name(platform.system(), platform.machine())
    kind, version = platform.libc_ver()
    libc = (kind or "musl", _pair(version)) if name.startswith("linux") else None
    macos = _pair(platform.mac_ver()[0]) if name.startswith("macosx") else None
    free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return Python(version=sys.version_info[:2], platform=name, libc=libc, macos=macos, free_threaded=free)


def platform_name(system: str, machine: str) -> str:
    """Converts the system and machine of the `platform` module to wheel file names' spelling, without glibc and macOS
    versions."""
    family = {"Linux": "linux", "Windows": "win", "Darwin": "macosx"}.get(system, system.lower())
    return f"{family}_{machine.lower()}"


def _pair(version: str) -> tuple[int, int]:
    numbers = [*map(int, re.findall(r"\d+", version)), 0, 0]
    return numbers[0], numbers[1]


def parse_name(file: str) -> WheelName:
    """Parses a wheel's file name. Raises ValueError on another."""
    match = NAME.fullmatch(file)
    if match is None:
        raise ValueError(f"expected NAME-VERSION-PYTHON-ABI-PLATFORM.whl, got {file!r}")
    python, abi, system = (tuple(match[part].split(".")) for part in ("python", "abi", "platform"))
    return WheelName(canonical(match["name"]), match["version"], python, abi, system)


def mismatch(wheel: WheelName, here: Python) -> str | None:
    """Returns why the tags do not fit `here`, or None if they do."""
    if not any(fits_platform(tag, here) for tag in wheel.platform):
        return f"is built for {' or '.join(wheel.platform)}, this is {here}"
    if not any(fits_python(tag, abi, here) for tag in wheel.python for abi in wheel.abi):
        return f"is built for {'.'.join(wheel.python)} with ABI {'.'.join(wheel.abi)}, this is {here}"
    return None


def fits_python(tag: str, abi: str, here: Python) -> bool:
    """True if code with the tags `tag` and `abi` runs on CPython `here`."""
    match = re.fullmatch(r"(py|cp)(\d)(\d*)", tag)
    if match is None or int(match[2]) != here.version[0]:
        return False
    minor = int(match[3]) if match[3] else None
    if match[1] == "py":
        return abi == "none" and (minor is None or minor <= here.version[1])
    if minor is None:
        return abi == "none"
    if abi == "abi3":
        return minor <= here.version[1] and not here.free_threaded
    wanted = f"cp{here.version[0]}{here.version[1]}" + "t" * here.free_threaded
    return minor == here.version[1] and abi in ("none", wanted)


def fits_platform(tag: str, here: Python) -> bool:
    """True if the platform tag `tag` includes `here`."""
    if tag in ("any", here.platform):
        return True
    family, _, machine = here.platform.partition("_")
    if family == "linux" and here.libc:
        return _fits_linux(tag, machine, *here.libc)
    if family == "macosx" and (match := re.fullmatch(r"macosx_(\d+)_(\d+)_(\w+)", tag)):
        machines = {machine, "universal2", *(("intel", "universal") if machine == "x86_64" else ())}
        return match[3] in machines and (int(match[1]), int(match[2])) <= (here.macos or (0, 0))
    return False


def _fits_linux(tag: str, machine: str, libc: str, version: tuple[int, int]) -> bool:
    match = re.fullmatch(r"(manylinux|musllinux)_(\d+)_(\d+)_(\w+)", tag)
    if match:
        wanted = {"manylinux": "glibc", "musllinux": "musl"}[match[1]]
        return match[4] == machine and libc == wanted and (int(match[2]), int(match[3])) <= version
    old, _, built_for = tag.partition("_")
    return libc == "glibc" and built_for == machine and OLD_MANYLINUX.get(old, (99, 0)) <= version
