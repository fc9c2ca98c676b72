"""What every format here shares: errors that name the file, writes that appear whole or not at all, a size limit."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

# The most bytes a file may decode to, unless the caller allows more: 15 M voxels (a 2048 grid) take 0.3 GB.
MAX_BYTES = 4 << 30

FilePath = str | os.PathLike


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Inside this block a ValueError is raised again with `place`, a path or a part of a file, in front."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


@contextmanager
def atomic_write(path: FilePath) -> Iterator[BinaryIO]:
    """A binary file to write; `path` holds all of it once the block ends, and what it held before if the block raises.

    The bytes go to a hidden file in the same folder, which then replaces `path`. Raises OSError as `open` does.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_files(contents: Mapping[Path, bytes]) -> Path:
    """Writes files that belong together, makes their folders, and returns the path of the last, the one to open.

    All are written in full before the first appears; they appear in order. Raises OSError as `open` does.
    """
    paths = list(contents)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # A stack ends its last entry first.
        files = {path: stack.enter_context(atomic_write(path)) for path in reversed(paths)}
        for path in paths:
            files[path].write(contents[path])
    return paths[-1]
