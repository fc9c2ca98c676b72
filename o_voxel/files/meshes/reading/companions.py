"""Files that a mesh file names: buffers and textures of a .gltf, materials and textures of an .obj.

Such a name is data of whoever made the file: it is followed only inside that file's folder, links resolved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote


def companion(path: Path, name: str) -> Path | None:
    """Returns the file that `path` calls `name`: the name as it is, with %xx decoded, as one inside
    the folder, or its last part; each with the blanks around it, else without them.

    None if there is no such file in the folder of `path` or below it.
    """
    folder = path.parent.resolve()
    name = name.replace("\\", "/")
    for written in dict.fromkeys((name, name.strip())):
        decoded = unquote(written)  # glTF's names are URIs: %20 is a space
        last, decoded_last = written.rsplit("/", 1)[-1], decoded.rsplit("/", 1)[-1]
        for candidate in (written, decoded, written.lstrip("/"), last, decoded_last):
            found = _inside(folder, candidate)
            if found is not None:
                return found
    return None


def absent(kind: str, path: Path, name: str) -> str:
    """The warning of a file that is not there."""
    return f"{kind} {name!r:.120}: expected a file in the folder of {path.name}; none is there, and it is left out"


def libraries(path: Path, line: str) -> tuple[list[Path], list[str]]:
    """Returns the material libraries that an OBJ names behind one `mtllib`, and the names that are no file beside it.

    The line is one name or several, and a name may have blanks: it is tried as a whole, then cut behind each ".mtl",
    then at each blank.
    """
    name = line.replace("\\", "/")
    whole = _inside(path.parent.resolve(), name) or _inside(path.parent.resolve(), unquote(name))
    if whole is not None:
        return [whole], []
    found: list[Path] = []
    missing: list[str] = []
    for part in filter(None, map(str.strip, re.split(r"(?<=\.mtl)\s+", line, flags=re.I))):
        one = companion(path, part)
        files = [one] if one else [companion(path, word) for word in part.split()]
        found += [file for file in files if file is not None]
        missing += [] if any(files) else [part]
    return found, missing


def _inside(folder: Path, name: str) -> Path | None:
    """The file of this name in a resolved folder or below it, links resolved; None if there is none."""
    if not name or "\0" in name:
        return None
    try:
        found = (folder / name).resolve()
        return found if found.is_relative_to(folder) and found.is_file() else None
    except (OSError, RuntimeError):  # a name that is too long, a loop of links
        return None


def companions(path: Path) -> tuple[Path, ...]:
    """Returns the files that a .gltf or .obj reads besides itself, in the order of their first mention, each once; ()
    for other suffixes and for malformed files. Raises OSError if `path` cannot be read."""
    suffix = path.suffix.lower()
    if suffix == ".gltf":
        found: Iterable[Path | None] = (companion(path, name) for name in _gltf_names(path.read_bytes()))
    elif suffix == ".obj":
        found = _obj_files(path)
    else:
        return ()
    return tuple(dict.fromkeys(file for file in found if file is not None))


def _gltf_names(content: bytes) -> list[str]:
    try:
        document = json.loads(content)
        rows = [*document.get("buffers", []), *document.get("images", [])]
        names = [row.get("uri") for row in rows]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str) and not name.startswith("data:")]


def _obj_files(path: Path) -> Iterator[Path | None]:
    for line in _after(path, ("mtllib",)):
        for library in libraries(path, line)[0]:
            yield library
            # Options such as "-bm 0.5" stand before the file name.
            for texture in _after(library, ("map_", "bump", "disp", "norm", "refl")):
                yield companion(path, texture)
                yield companion(path, texture.split()[-1])


def _after(path: Path, keywords: tuple[str, ...]) -> Iterator[str]:
    """Yields what stands behind the first word of the lines that start with one of `keywords`."""
    with path.open(encoding="latin-1") as lines:
        for line in lines:
            words = line.strip().split(None, 1)
            if len(words) == 2 and words[0].lower().startswith(keywords):
                yield words[1]
