"""The small checkpoint that comes with the pack: where it is, and whether this copy of the pack has it.

Standard library only, and no imports of ours: install.py loads this file before anything is installed.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "mini"  # what it is called on the command line
PLACE = f"assets/{NAME}"  # below the pack's root, in the published layout


def find_built_in(root: Path = ROOT) -> Path | None:
    """The checkpoint's folder, or None where a copy of the pack comes without its weights."""
    folder = root / PLACE
    return folder if (folder / "pipeline.json").is_file() else None


def built_in() -> Path:
    """The checkpoint's folder. Raises FileNotFoundError where a copy of the pack comes without its weights."""
    folder = find_built_in()
    if folder is None:
        raise FileNotFoundError(
            f"{NAME}: this copy of the pack comes without its trained checkpoint ({PLACE}); choose another"
        )
    return folder
