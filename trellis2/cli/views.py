"""Views of a command line, each with its side, and the check-views command: whether they fit together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .checks import PICTURE_SUFFIXES, check_output
from .pictures import add_background, cut_pictures

if TYPE_CHECKING:
    from ..image.views import ViewDirection

VIEW = (
    "a view of the object: front, back, left, right (the object's own), top or bottom =FILE, or "
    "azimuth=90,elevation=10:FILE in degrees (90 is the left side); repeat it"
)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """check-views"""
    check = commands.add_parser("check-views", help="whether pictures from named sides fit together")
    check.set_defaults(command=_check)
    check.add_argument("--view", action="append", default=[], type=view, metavar="SIDE=FILE", help=VIEW)
    add_background(check)
    check.add_argument(
        "--fov", type=float, default=20.0, help="field of view of the uncropped pictures, degrees (default 20)"
    )
    check.add_argument(
        "--picture", type=Path, metavar="PNG", help="write the outlines: light what the other views explain, orange not"
    )


def view(text: str) -> tuple[ViewDirection, Path]:
    """Converts --view's text: SIDE=FILE or azimuth=A,elevation=E:FILE."""
    from ..image.views import parse_direction

    side, separator, file = text.partition(":" if text.startswith(("azimuth=", "elevation=")) else "=")
    try:
        if not separator or not file:
            raise ValueError(f"view: expected SIDE=FILE or azimuth=90,elevation=10:FILE, got {text!r}")
        return parse_direction(side), Path(file)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _check(arguments: argparse.Namespace) -> int:
    import torch

    from ...o_voxel.render import save_picture
    from ..image.check_views import check_views, matte_of

    if arguments.picture is not None:
        check_output(arguments.picture, PICTURE_SUFFIXES, "--picture")
    directions = [direction for direction, _ in arguments.view]
    mattes = cut_pictures([path for _, path in arguments.view], arguments.background, matte_of)
    found = check_views(mattes, directions, arguments.fov)
    for line in found.lines():
        print(line)
    if arguments.picture is not None:
        save_picture(arguments.picture, torch.cat(list(found.pictures), 1).float() / 255)
    return 0 if found.good else 1
