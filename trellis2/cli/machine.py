"""The doctor and make-tiny commands: a report on this machine, and a tiny checkpoint for trials."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import pkgutil
import platform
from pathlib import Path

from .checks import check_device


def add_commands(commands: argparse._SubParsersAction) -> None:
    """doctor, make-tiny"""
    doctor = commands.add_parser("doctor", help="report versions, device and the backends of each op")
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("--device", help="the device to report on (default: the best available)")

    tiny = commands.add_parser("make-tiny", help="write a tiny random checkpoint in the published layout")
    tiny.set_defaults(command=_make_tiny)
    tiny.add_argument("folder", type=Path, metavar="DIR")
    tiny.add_argument("--seed", type=int, default=0)


def _doctor(arguments: argparse.Namespace) -> int:
    import torch

    from ...o_voxel.core.backend import explain
    from ...o_voxel.core.foreign import forget
    from ..capabilities import torso_dtype
    from ..runtime.residency import default_device, default_dtype

    check_device(arguments.device)
    device = torch.device(arguments.device or default_device())
    print(f"python {platform.python_version()}, {platform.platform()}")
    for name in ("torch", "triton", "numba", "safetensors", "huggingface_hub", "numpy", "scipy", "pillow"):
        print(f"{name:<16}{_version(name)}")
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "unknown"
    print(f"{'device':<16}{device} ({hardware}), torsos in {default_dtype(device) or 'the published formats'}")
    forget()
    for package, dtype in (("o_voxel", torch.float32), ("trellis2", torso_dtype(device))):
        operations = importlib.import_module(f"....{package}.ops", __name__)
        for _, name, is_package in pkgutil.iter_modules(operations.__path__):
            if not is_package:
                continue
            backends = importlib.import_module(f"{operations.__name__}.{name}").BACKENDS
            states = explain(backends, device, dtype)
            own = ", ".join(f"{choice.name}: {states[choice.name]}" for choice in backends if not choice.licence)
            print(f"{package}.{name:<26}{own}")
            # What a user may have installed beside: a line each, with the licence that it came under.
            for choice in backends:
                if choice.licence:
                    print(f"    {choice.name:<14}{states[choice.name]} [{choice.licence}]")
    return 0


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _make_tiny(arguments: argparse.Namespace) -> int:
    from ..checkpoint.tiny import make_tiny

    print(f"wrote {make_tiny(arguments.folder, arguments.seed)}")
    return 0
