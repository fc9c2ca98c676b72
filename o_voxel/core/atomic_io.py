"""File helpers shared by all formats: errors that name the file, atomic writes, and a size limit."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from .progress import Progress, silent

# Default limit on a file's decoded size in bytes. 15 M voxels (a 2048 grid) take 0.3 GB.
MAX_BYTES = 4 << 30
# Bytes written between two reports.
BLOCK = 8 << 20

FilePath = str | os.PathLike


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Context manager: re-raises a ValueError with `place`, a path or a part of a file, as its prefix."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


@contextmanager
def atomic_write(path: FilePath) -> Iterator[BinaryIO]:
    """Context manager: opens a binary file and moves it to `path` when the block ends without an error.

    Creates missing folders. The bytes go to a hidden file in the same folder, which then replaces `path`; if the block
    raises, `path` keeps its previous content. Raises OSError as `open` does.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_files(contents: Mapping[Path, bytes], progress: Progress | None = None) -> Path:
    """Writes files that belong together, creates their folders, and returns the last path (the file to open).

    All are written in full before the first appears; they appear in order. progress: called with the fraction written,
    0 to 1, after every BLOCK; if it raises, none appears. Raises OSError as `open` does.
    """
    report = progress or silent
    total, written = sum(map(len, contents.values())), 0
    paths = list(contents)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # An ExitStack closes its last entry first.
        files = {path: stack.enter_context(atomic_write(path)) for path in reversed(paths)}
        for path in paths:
            content = memoryview(contents[path])
            for start in range(0, len(content), BLOCK):
                written += files[path].write(content[start : start + BLOCK])
                report(written / total)
    return paths[-1]
