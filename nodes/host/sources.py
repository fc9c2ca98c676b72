"""Folders of pictures, and tables of them, that a widget names; folders that a node fills.

As for files, see `files`: a name never leads out of ComfyUI's folders.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...trellis2.batch.results import to_make_again
from ...trellis2.batch.rows import RowOptions, read_rows
from . import folders
from .files import NO_FILE, input_path, inside

TABLE_SUFFIX = ".csv"
# Three of the pack's pictures, so that the example workflow runs at once. Saved workflows contain this value.
EXAMPLES = "example pictures (built in)"
EXAMPLE_TABLE = folders.ROOT / "assets" / "images" / "examples.csv"
HERE = "put pictures into a subfolder of ComfyUI's input folder, or a .csv file beside them, and choose it"


def picture_sources(suffixes: Sequence[str]) -> list[str]:
    """Returns `EXAMPLES`, then of the input folder, at any depth, "name/" of its subfolders with files of these
    suffixes, and the names of its .csv files."""
    base = folders.comfy_folder("input")
    found: set[str] = set()
    for path in base.rglob("*"):
        place = path.relative_to(base)
        if any(part.startswith(".") for part in place.parts) or not inside(path):
            continue
        if path.suffix.lower() == TABLE_SUFFIX and path.is_file():
            found.add(place.as_posix())
        elif path.suffix.lower() in suffixes and len(place.parts) > 1 and path.is_file():
            found.add(f"{place.parent.as_posix()}/")
    return [EXAMPLES, *sorted(found)]


def picture_source(name: Any) -> Path:
    """Returns the folder or the table that `name` of `picture_sources` means. Raises ValueError for a name that leads
    outside ComfyUI's folders; FileNotFoundError."""
    if not isinstance(name, str) or not name.strip() or name == NO_FILE:
        raise ValueError(f"source: no folder is chosen: {HERE}")
    if name == EXAMPLES:
        return EXAMPLE_TABLE
    if name.lower().endswith(TABLE_SUFFIX):
        return input_path(name)
    plain = name.replace("\\", "/").rstrip("/")
    base = folders.comfy_folder("input")
    if folders.leads_out(plain) or folders.DRIVE.match(plain) or not inside(base / plain):
        raise ValueError(f"source: expected a subfolder of ComfyUI's input folder, got {name!r}: {HERE}")
    if not (base / plain).is_dir():
        raise FileNotFoundError(f"source: there is no folder {name!r} in ComfyUI's input folder: {HERE}")
    return base / plain


def readable(path: Path) -> bool:
    """Returns whether a row of a table may read the picture `path`: in ComfyUI's folders, or the pack's own."""
    return inside(path) or path.resolve().parent == EXAMPLE_TABLE.parent.resolve()


def output_subfolder(name: str) -> tuple[Path, str]:
    """Returns (a folder inside the output folder, its name from there); it may not exist yet. Raises ValueError for
    another place."""
    refusal = f"output_folder: expected a subfolder of ComfyUI's output folder, got {name!r}"
    target = folders.inside_output(str(name), refusal)
    return target, target.relative_to(folders.comfy_folder("output").resolve()).as_posix()


def source_changed(name: Any, output: Any) -> str:
    """Returns a digest of names, sizes and times of a source's pictures, and of what the next run makes again in the
    folder that they fill, for IS_CHANGED; "" where there is none."""
    try:
        source = picture_source(name)
        rows = read_rows(source, RowOptions(), readable)
        parts = sorted({source, *(row.image for row in rows if not row.problem)})
        again = to_make_again(output_subfolder(output)[0]) if isinstance(output, str) else []
        states = [(str(part), *_stamp(part)) for part in parts]
    except (OSError, ValueError):
        return ""
    return hashlib.sha256(json.dumps([states, again]).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file; zeros where a table names one that is not there."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return 0, 0
    return state.st_size, state.st_mtime_ns
