"""Locates the small checkpoint bundled with the pack.

Standard library only, without imports from the package: install.py loads this file before anything is installed.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "mini"  # on the command line
RELATIVE_PATH = f"assets/{NAME}"  # relative to the pack's root, in the published layout


def find_built_in(root: Path = ROOT) -> Path | None:
    """Returns the checkpoint's folder, or None if this copy of the pack lacks the weights."""
    folder = root / RELATIVE_PATH
    return folder if (folder / "pipeline.json").is_file() else None


def built_in() -> Path:
    """Returns the checkpoint's folder. Raises FileNotFoundError if this copy of the pack lacks the weights."""
    folder = find_built_in()
    if folder is None:
        raise FileNotFoundError(
            f"{NAME}: this copy of the pack comes without its trained checkpoint ({RELATIVE_PATH}); choose another"
        )
    return folder
