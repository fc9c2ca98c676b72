"""Entry point of the `trellis2` command, which runs without ComfyUI."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import batch, from_mesh, generate, machine, meshes, project, training, views
from .checks import Parser, reason

# Errors that a user can fix: printed as one line. Any other error is a bug and shows its traceback.
USER_ERRORS = (ValueError, OSError, ImportError, TypeError, MemoryError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Returns the exit status: 0, 1 for an error that the user can fix, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except USER_ERRORS as error:
        print(f"trellis2: {reason(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported for every command
            raise
        what = (
            "lower --resolution, --max-tokens or --texture-size, or choose --vram low, as far as the command has them"
        )
        print(f"trellis2: the device's memory is full: {what}. ({reason(error)[:200]})", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("trellis2: interrupted; nothing was written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="trellis2", description="TRELLIS.2: images to 3D meshes with PBR materials.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (generate, batch, views, from_mesh, meshes, project, training, machine):
        module.add_commands(commands)
    return parser
