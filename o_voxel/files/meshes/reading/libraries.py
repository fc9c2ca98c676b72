"""The material libraries that an OBJ names, on any number of lines. trimesh asks for the first line's alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from .companions import absent, libraries
from .texts import utf8

# The name under which trimesh asks for all libraries as one; no file has it.
ALL_LIBRARIES = "*libraries*"
# A keyword at the start of a line, and what follows; patterns that begin with letters are searched for fast.
LIBRARY, USE = (re.compile(rb"%b(?<![^\n]%b)[ \t]+([^\n]*)" % (key, key)) for key in (b"mtllib", b"usemtl"))
MATERIAL = re.compile(rb"^\s*newmtl[ \t]+(.+?)\s*$", re.M | re.I)


def with_one_library(path: Path, content: bytes, warn: Callable[[str], None]) -> tuple[bytes, bytes]:
    """Returns an OBJ's content, UTF-8, that names ALL_LIBRARIES first, and the content of all that it names.

    Of materials of one name the first counts, as the format says. warn: called for each library that is not there and
    each material that none of the others defines. Raises OSError for a library that cannot be read.
    """
    lines = dict.fromkeys(row[1].decode(errors="replace").strip() for row in LIBRARY.finditer(content))
    files: dict[Path, bytes] = {}
    missing: list[str] = []
    for line in filter(None, lines):
        found, absent_names = libraries(path, line)
        missing += absent_names
        files |= {file: _from_first_material(utf8(file.read_bytes())) for file in found if file not in files}
    for name in dict.fromkeys(missing):
        warn(absent("material library", path, name))
    # The later of one name counts for trimesh.
    whole = b"\n".join(reversed(files.values()))
    used = {b" ".join(row[1].split()) for row in USE.finditer(content)} - {b""}
    if not lines and used:
        warn("it uses materials and names no material library: they are white")
    elif files:
        names = ", ".join(file.name for file in files)
        for material in sorted(used - {b" ".join(name.split()) for name in MATERIAL.findall(whole)}):
            warn(f"material {material.decode(errors='replace')!r:.80} is not in {names:.200}: it is white")
    if b"mtllib" in content:  # even if it is in a comment: trimesh takes it for a line
        content = f"mtllib {ALL_LIBRARIES}\n".encode() + content
    return content, whole


def _from_first_material(content: bytes) -> bytes:
    """A library without what stands before its materials, which would count for those of the library before it."""
    first = MATERIAL.search(content)
    return b"" if first is None else content[first.start() :]
