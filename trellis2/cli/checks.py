"""Checks of arguments that run before anything is computed, and the words for errors of the system."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

MESH_SUFFIXES = (".glb", ".obj", ".ply", ".stl")
VOXEL_SUFFIXES = (".vxz", ".npz", ".ply")
LATENT_SUFFIXES = (".safetensors",)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Voxels a side: at 4096 a full surface has about a hundred million.
FINEST = 4096


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with exit status 1, as those of the commands."""

    def error(self, message: str) -> NoReturn:
        """Prints `message` and exits."""
        self.exit(1, f"trellis2: {' '.join(message.split())}; see {self.prog} --help\n")


def positive(text: str) -> int:
    """Converts an option's text to an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def voxels_a_side(text: str) -> int:
    """Converts an option's text to a grid's resolution."""
    value = positive(text)
    if value > FINEST:
        raise argparse.ArgumentTypeError(f"expected at most {FINEST} voxels a side, got {value}")
    return value


def fraction(text: str) -> float:
    """Converts an option's text to a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def scale(text: str) -> float:
    """Converts an option's text to a positive finite number."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def check_output(path: Path, suffixes: Iterable[str], option: str = "-o") -> None:
    """Raises ValueError unless `path` can be written and its name says one of the formats `suffixes`.

    Missing folders are good: the writers make them.
    """
    suffixes = tuple(suffixes)
    if path.is_dir():
        raise ValueError(f"{option} {path}: expected a file name, got a folder")
    if path.suffix.lower() not in suffixes:
        got = repr(path.suffix) if path.suffix else "no suffix"
        raise ValueError(f"{option} {path}: expected a name that ends in {', '.join(suffixes)}, got {got}")
    check_folder(path.parent)


def check_folder(path: Path) -> None:
    """Raises ValueError unless `path` is a folder to write to, or can be made."""
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise ValueError(f"-o {path}: expected a folder, got the file {above}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"-o {path}: the folder {above} cannot be written to")


def check_file(path: Path) -> None:
    """Raises ValueError unless `path` is a file."""
    if path.is_dir():
        raise ValueError(f"{path}: expected a file, got a folder")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")


def check_device(name: str | None) -> None:
    """Raises ValueError unless torch can compute on device `name`; None is good."""
    import torch

    if name is None:
        return
    try:
        torch.zeros(1, device=torch.device(name))
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        text = str(error).strip().split("\n")[0]
        # torch lists all its devices, also those that it was built without.
        why = "" if text.startswith("Expected one of") else f" ({text:.120})"
        raise ValueError(
            f"--device {name}: expected one that this machine has: cpu, cuda, cuda:1, mps …{why}"
        ) from error


def reason(error: BaseException) -> str:
    """What a user's error says, in one line: the file before the system's words."""
    if isinstance(error, OSError) and error.strerror:
        places = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([*places[:1], error.strerror])
    return " ".join(str(error).split()) or type(error).__name__
