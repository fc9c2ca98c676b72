"""Files that nodes read and pass on: which a name may mean, when one has changed, what is stored with it.

A name comes from a widget, so from anyone who can post a graph: it never leads out of ComfyUI's input, output and temp
folders, and messages hold neither the server's paths nor what exists outside.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...o_voxel.files.meshes.reading.companions import companions
from . import comfyui, folders

# What the widget offers while there is no file.
NO_FILE = "none"
# Subfolder of the input folder for models, as core's nodes have it.
UPLOADS = "3d"
WHERE = "put the file into ComfyUI's input folder, or its subfolder 3d, and give its name from there"


def input_files(suffixes: Sequence[str]) -> list[str]:
    """Returns the names of the files with these suffixes in the input folder, and in its subfolder 3d at any depth;
    `NO_FILE` alone if there are none."""
    base = folders.comfy_folder("input")
    names = []
    for found in (base.glob("*"), (base / UPLOADS).rglob("*")):
        for path in found:
            if path.suffix.lower() in suffixes and inside(path) and path.is_file():
                names.append(path.relative_to(base).as_posix())
    return sorted(names) or [NO_FILE]


def saved_files(folder: str, suffixes: Sequence[str]) -> list[str]:
    """Returns the names "folder/… [output]" of the files with these suffixes in a folder of the output folder, newest
    first."""
    base = folders.comfy_folder("output")
    found = [path for path in (base / folder).rglob("*") if path.suffix.lower() in suffixes]
    found = sorted(path for path in found if not path.name.startswith(".") and inside(path) and path.is_file())
    newest = sorted(found, key=lambda path: -path.stat().st_mtime_ns)
    return [f"{path.relative_to(base).as_posix()} [output]" for path in newest]


def input_path(name: str) -> Path:
    """Returns the file that a widget's `name` means: in the input folder or, failing that, in the output folder, so
    that what a save node returns can be loaded. "name [output]", "[input]" and "[temp]" say which folder, as in core.

    Raises ValueError for a name that leads outside these folders, symbolic links resolved, whether or not it exists;
    FileNotFoundError for a file that is in none.
    """
    plain, places = _annotated(name)
    outside = (
        f"file: expected a file inside ComfyUI's input, output or temp folder, got {name!r}; other places are closed "
        f"to graphs: {WHERE}"
    )
    plain = plain.replace("\\", "/")
    drive = folders.DRIVE.match(plain) is not None and os.name != "nt"
    if folders.leads_out(plain) or drive:
        raise ValueError(outside)
    candidates = [base / plain for base in places]
    if not all(inside(path) for path in candidates):
        raise ValueError(outside)
    for path in candidates:
        try:
            if path.is_file():
                return path
        except OSError:  # a name longer than the system takes
            continue
    raise FileNotFoundError(f"{name}: there is no such file in ComfyUI's input or output folder; {WHERE}")


def file_problem(name: Any, suffixes: Sequence[str]) -> str | None:
    """Returns what keeps the file that a widget names from being loaded, for VALIDATE_INPUTS; None if nothing does."""
    if name is None or name == "" or name == NO_FILE:
        return f"no file is chosen: {WHERE}, or drop it on the node"
    if not isinstance(name, str):
        return f"expected a file name, got {type(name).__name__}"
    try:
        path = input_path(name)
    except (OSError, ValueError) as error:
        return str(error)
    if path.suffix.lower() not in suffixes:
        return f"{name}: expected one of {', '.join(suffixes)}"
    return None


def changed(name: Any) -> str:
    """Returns a digest of the content of the file that a widget names and of the files that it reads, for IS_CHANGED;
    "" without a file. A file is read again only if its size or time of change differ."""
    if not isinstance(name, str):
        return ""
    try:
        path = input_path(name)
        parts = [path, *_companions(*_state(path))]
        return " ".join(_digest(*_state(part)) for part in parts)
    except (OSError, ValueError):
        return ""


@contextmanager
def opened(path: Path, name: str) -> Iterator[Path]:
    """Yields `path`; errors inside name the file as the graph does, without the server's folders.

    Raises ValueError for unreadable files, and ImportError for missing packages, with the reader's words.
    """
    try:
        yield path
    except (OSError, ValueError, ImportError) as error:
        text = f"{name}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        for folder in (path.parent, path.parent.resolve()):
            text = text.replace(f"{folder}{os.sep}", "").replace(str(folder), "its folder")
        kind = ImportError if isinstance(error, ImportError) else ValueError
    else:
        return
    raise kind(text)


@contextmanager
def received(value: Any) -> Iterator[tuple[Path, str]]:
    """Yields (path, name) of what came through a FILE_3D or STRING socket: ComfyUI's File3D, or a name as in
    `input_path`, where a name without a folder means a saved file first.

    Raises TypeError for anything else, and as `input_path`.
    """
    if isinstance(value, str):
        yield _saved_path(value), value
        return
    if not hasattr(value, "get_source") or not hasattr(value, "format"):
        raise TypeError(f"file_3d: expected ComfyUI's FILE_3D or a file name, got {type(value).__name__}")
    source = value.get_source()
    if isinstance(source, (str, os.PathLike)):
        yield Path(source), Path(source).name
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{''.join(letter for letter in str(value.format) if letter.isalnum())}"
        path.write_bytes(source.read())
        yield path, path.name


def file_3d(path: Path, place: str = "output") -> Any:
    """Returns ComfyUI's File3D of a saved file; where ComfyUI has none, the name that loaders take, "name [output]".

    place: "output" or "temp", the folder that holds `path`.
    """
    api = comfyui.module("comfy_api.latest")
    kind = getattr(getattr(api, "Types", None), "File3D", None)
    if kind is not None:
        return kind(str(path))
    base = folders.comfy_folder("temp" if place == "temp" else "output")
    return f"{path.resolve().relative_to(base.resolve()).as_posix()} [{place}]"


def metadata(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """Returns the graph as core's Save GLB stores it: JSON text under "prompt", and under "workflow" and whatever else
    the front end sends; {} if the user has disabled metadata, or without a graph."""
    options = comfyui.module("comfy.cli_args")
    if options is not None and options.args.disable_metadata:
        return {}
    stored = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return stored | {key: json.dumps(value) for key, value in (extra_pnginfo or {}).items()}


def _saved_path(name: str) -> Path:
    """As `input_path`, but a name without a folder means a saved file first."""
    _, places = _annotated(name)
    if len(places) > 1:
        try:
            return input_path(f"{name} [output]")
        except FileNotFoundError:
            pass
    return input_path(name)


def _annotated(name: str) -> tuple[str, list[Path]]:
    """Splits "name [output]" into (name, folders to look in)."""
    for place in folders.PLACES:
        if name.endswith(f"[{place}]"):
            return name[: -len(place) - 2].rstrip(" "), [folders.comfy_folder(place)]
    return name, [folders.comfy_folder("input"), folders.comfy_folder("output")]


def inside(path: Path) -> bool:
    """Returns True if `path`, links resolved, lies in one of ComfyUI's three folders."""
    return any(_within(path, folders.comfy_folder(place)) for place in folders.PLACES)


def _within(path: Path, base: Path) -> bool:
    try:
        return path.resolve().is_relative_to(base.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that is too long, a NUL
        return False


def _state(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed_ns: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _companions(path: Path, size: int, changed_ns: int) -> tuple[Path, ...]:
    return companions(path)
