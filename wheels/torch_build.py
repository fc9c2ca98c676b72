"""Which build of torch a fresh environment gets: the usual one with CUDA, or the one without where no GPU is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from .check.machine import nvidia_cards
from .environment import InstallError, Machine, installer, say

TORCH = "torch==2.13.0"
NO_CPU_TORCH = f"""no build of {TORCH} without CUDA could be installed.
  Either install one into this environment yourself, as PyTorch's page "Start Locally" says, and run this command again,
  or say --cuda: the usual build also runs without a GPU, and takes about 6 GB of disk."""
NO_GPU = "no GPU was found: torch comes without the CUDA packages, which saves 5 GB (--cuda takes the usual build)"
AMD = """an AMD GPU was found. torch for it is a build of its own: install it into this environment as
  docs/install/rocm.md says, before this command. The usual build, which follows, uses the CPU here."""

DRIVER_FILES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg", "/usr/lib/wsl/lib/libcuda.so.1")
KFD = "/dev/kfd"


def find_gpu() -> str | None:
    """Returns "nvidia" or "amd", or None: no GPU of either. A driver whose GPU does not answer counts: it may later."""
    if any(Path(file).exists() for file in DRIVER_FILES) or nvidia_cards():
        return "nvidia"
    return "amd" if Path(KFD).exists() else None


def install_torch(machine: Machine, build: str | None, gpu: str | None) -> int:
    """Installs torch: `build` "cpu" without CUDA, "cuda" the usual build, None by `gpu`. Returns the exit code.

    On Linux the build without CUDA is not in pip's default index: pip finds it only if configured to, uv knows its
    location. Elsewhere the usual build has no CUDA. A build that was not asked for and is not to be had is no error:
    the usual one runs as well.
    """
    chosen = "cpu" if build is None and gpu is None and sys.platform == "linux" else build
    if build is None and gpu == "amd":
        say(AMD)
    if chosen != "cpu" or sys.platform != "linux":
        return _usual(machine)
    say(f"installing {TORCH} without CUDA" if build else NO_GPU)
    if machine.run([*installer(machine), "-q", f"{TORCH}+cpu"]) == 0:
        return 0
    if machine.offline is None:
        say("pip does not reach such a build; trying uv")
        uv = [shutil.which("uv")] if shutil.which("uv") else [machine.python, "-m", "uv"]
        steps = [] if shutil.which("uv") else [[*installer(machine), "-q", "uv"]]
        steps += [[*uv, "pip", "install", "--python", machine.python, "--torch-backend", "cpu", TORCH]]
        if not any(machine.run(step) for step in steps):
            return 0
    if build == "cpu":
        raise InstallError(NO_CPU_TORCH)
    say("no build without CUDA is to be had; taking the usual one")
    return _usual(machine)


def _usual(machine: Machine) -> int:
    say(f"installing {TORCH} (a large download; for another build, install torch here first)")
    return machine.run([*installer(machine), TORCH])
