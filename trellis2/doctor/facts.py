"""What the report says of the machine: versions, cards, disks, the pack's commit."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch

from ..runtime.memory import GIB, device_memory, host_memory
from ..runtime.residency import default_dtype

ROOT = Path(__file__).resolve().parents[2]
SHOWN = (
    "torch",
    "triton",
    "numba",
    "numpy",
    "scipy",
    "pillow",
    "safetensors",
    "huggingface_hub",
    "fast-simplification",
)
# Seconds for the driver's own tool, which hangs on a broken driver.
PATIENCE = 5.0


def version(name: str) -> str:
    """Returns the version of an installed distribution; on Windows Triton comes under another name."""
    for known in (name, f"{name}-windows", f"pytorch-{name}-rocm"):
        try:
            return importlib.metadata.version(known)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def pack(root: Path = ROOT) -> str:
    """Returns the pack's name and version, with the commit where it is a checkout."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8") if (root / "pyproject.toml").is_file() else ""
    found = re.search(r'^name = "([^"]+)".*?\nversion = "([^"]+)"', text, re.MULTILINE)
    name = f"{found[1]} {found[2]}" if found else f"trellis2-assets {version('trellis2-assets')}"
    commit = _commit(root)
    return f"{name}, commit {commit[:9]}" if commit else name


def versions(inside: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns (what, version) of the system, Python, and the packages that results depend on. inside: of the host."""
    builds = [f"CUDA {torch.version.cuda}"] if torch.version.cuda else []
    builds += [f"ROCm {torch.version.hip}"] if torch.version.hip else []
    packages = [(name, version(name)) for name in SHOWN]
    packages[0] = ("torch", f"{torch.__version__} ({', '.join(builds) or 'CPU only'})")
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return [("pack", pack()), *inside.items(), ("system", system), ("Python", platform.python_version()), *packages]


def cards(device: torch.device) -> list[tuple[str, str]]:
    """Returns (device, description) of each card, the processor and the main memory. device: what is reported on."""
    rows = []
    if device.type == "cuda":
        for number in range(torch.cuda.device_count()):
            card = torch.device("cuda", number)
            memory = device_memory(card)
            major, minor = torch.cuda.get_device_capability(card)
            kind = torch.cuda.get_device_properties(card).gcnArchName if torch.version.hip else f"sm_{major}{minor}"
            figures = f"{memory.total / GIB:.1f} GiB, {memory.free / GIB:.1f} free"
            rows.append((str(card), f"{torch.cuda.get_device_name(card)}, {kind}, {figures}"))
        rows.append(("driver", driver() or "unknown"))
    elif device.type != "cpu":
        memory = device_memory(device)
        rows.append((str(device), f"{memory.total / GIB:.1f} GiB, {memory.free / GIB:.1f} free"))
    main = host_memory()
    figures = "" if main is None else f", {main.total / GIB:.1f} GiB, {main.free / GIB:.1f} available"
    rows.append(
        ("processor", f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads{figures}")
    )
    rows.append(("works on", f"{device}, torsos in {default_dtype(device) or 'the published formats'}"))
    return rows


def driver() -> str | None:
    """Returns the NVIDIA driver's version, by its own tool; None without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split("\n") if done.returncode == 0 else []
    return lines[0].strip() or None if lines else None


def disks(places: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Returns (what goes there, free space) of folders, which need not exist."""
    rows = []
    for name, path in places.items():
        above = path.absolute()
        while not above.exists() and above != above.parent:
            above = above.parent
        try:
            usage = shutil.disk_usage(above)
            rows.append((name, f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free: {path}"))
        except OSError as error:
            rows.append((name, f"{path}: {error.strerror}"))
    return rows


def _commit(root: Path) -> str:
    """The commit of a checkout, read from git's files, since git may be absent; "" for another folder."""
    git = root / ".git"
    try:
        if git.is_file():  # a worktree
            git = (root / git.read_text(encoding="utf-8").partition(": ")[2].strip()).resolve()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        shared = git / (git / "commondir").read_text(encoding="utf-8").strip() if (git / "commondir").is_file() else git
        name = head.removeprefix("ref: ")
        if (shared / name).is_file():
            return (shared / name).read_text(encoding="utf-8").strip()
        packed = (shared / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
    except (OSError, UnicodeDecodeError):
        return ""
