"""What of this machine decides whether a wheel loads: its Python, torch, libraries and GPUs. Imports no torch."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..requirements import installed_versions
from ..resolve import cuda_of
from .libraries import Libraries, loader_folders, read_cache
from .tags import Python, this_python

WINDOWS_FOLDERS = ("", "DLLs", "Library/bin")
KFD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")

# In a process of its own: a broken driver may end it. Prints [[name, major, minor], …] by the driver's own library.
PROBE = """
import ctypes, json, sys
cuda = ctypes.WinDLL("nvcuda.dll") if sys.platform == "win32" else ctypes.CDLL("libcuda.so.1")
found, count = [], ctypes.c_int(0)
if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0:
    for i in range(count.value):
        name, device, pair = ctypes.create_string_buffer(256), ctypes.c_int(), []
        cuda.cuDeviceGet(ctypes.byref(device), i)
        cuda.cuDeviceGetName(name, 256, device)
        for attribute in (75, 76):
            value = ctypes.c_int()
            cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            pair.append(value.value)
        found.append([name.value.decode(errors="replace"), *pair])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Card:
    """A GPU of NVIDIA's, with its compute capability."""

    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.capability[0]}{self.capability[1]})"


@dataclass(frozen=True, kw_only=True)
class Torch:
    """The installed torch. `cuda`, `hip`: what it was built with; `folder` holds its libraries."""

    version: str
    cuda: str | None
    hip: str | None
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a wheel is compared with. `gfx`: AMD's architectures. `dll_folders`: where Windows looks, lower-case
    names."""

    python: Python
    libraries: Libraries
    torch: Torch | None = None
    cards: tuple[Card, ...] = ()
    gfx: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    dll_folders: tuple[Path, ...] = ()


def this_machine() -> Machine:
    """Reads the running interpreter's machine."""
    python, torch = this_python(), installed_torch()
    processor = python.platform.partition("_")[2]
    site = torch.folder.parent.parent if torch else Path(sys.prefix)
    linux = python.platform.startswith("linux")
    libraries = Libraries(loader_folders(site, Path(sys.prefix), processor) if linux else (), read_cache(), processor)
    windows = [Path(sys.base_prefix, folder) for folder in WINDOWS_FOLDERS]
    windows += [torch.folder] if torch else []
    return Machine(
        python=python,
        libraries=libraries,
        torch=torch,
        cards=nvidia_cards(),
        gfx=amd_architectures(),
        versions=installed_versions(),
        dll_folders=tuple(windows) if python.platform.startswith("win") else (),
    )


def installed_torch() -> Torch | None:
    """Reads the installed torch from its files."""
    try:
        distribution = importlib.metadata.distribution("torch")
        folder = Path(str(distribution.locate_file("torch")))
        text = (folder / "version.py").read_text(encoding="utf-8")
    except (importlib.metadata.PackageNotFoundError, OSError):
        return None
    return Torch(version=distribution.version, cuda=cuda_of(text), hip=cuda_of(text, "hip"), folder=folder / "lib")


def nvidia_cards(python: str = sys.executable, probe: str = PROBE) -> tuple[Card, ...]:
    """Asks NVIDIA's driver for its GPUs, in a process of its own. Empty: no driver, no GPU, or no answer in 30 s."""
    try:
        done = subprocess.run([python, "-c", probe], capture_output=True, text=True, timeout=30, check=False)
        return tuple(Card(name, (major, minor)) for name, major, minor in json.loads(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ()


def amd_architectures(nodes: Path = KFD_NODES) -> tuple[str, ...]:
    """Reads AMD's GPUs from the kernel: 90402 in `gfx_target_version` is gfx942. Empty: none, or another system."""
    found = set()
    for file in nodes.glob("*/properties"):
        try:
            match = re.search(r"^gfx_target_version (\d+)$", file.read_text(encoding="ascii"), re.MULTILINE)
        except (OSError, ValueError):
            continue
        if match and int(match[1]):
            version = int(match[1])
            found.add(f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}")
    return tuple(sorted(found))
