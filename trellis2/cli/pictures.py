"""Pictures of a command line: read, cut out of their background, prepared."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .checks import check_file

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
BACKGROUND_CHOICES = {"auto": "auto", "plain": "plain background", "rembg": "rembg", "none": "alpha or mask only"}


def add_background(command: argparse.ArgumentParser) -> None:
    """Adds the option that says what is cut out of pictures, for `cut_pictures`."""
    command.add_argument(
        "--background",
        choices=BACKGROUND_CHOICES,
        default="auto",
        help="what is cut out: alpha, else a plain background, else by rembg if installed (auto, default); a plain "
        "background; by rembg; nothing but alpha (none)",
    )


def cut_pictures(paths: Sequence[Path], background: str, use: Callable[[Image.Image], T]) -> list[T]:
    """Reads pictures; returns what `use` makes of each, cut out as RGBA; prints what was cut.
    background: of BACKGROUND_CHOICES.

    Raises ValueError naming the first file, before any is read, that is not there; or that is no picture, or of which
    `use` raises one.
    """
    from ..image import cut_out, read_picture

    for path in paths:
        check_file(path)
    made = []
    for path in paths:
        try:
            whole = read_picture(path)
        except OSError as error:
            raise ValueError(f"{path}: expected a picture: {error}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        try:
            cut = cut_out(whole, BACKGROUND_CHOICES[background])
            made.append(use(cut.image))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        print(f"{path}: {cut.used}")
        if cut.warning:
            print(f"{path}: not sure: {cut.warning}")
    return made
