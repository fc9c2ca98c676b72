"""File helpers shared by all formats: errors that name the file, atomic writes, and a size limit."""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .file_lock import Lock, try_lock
from .progress import Progress, silent

# It moves and deletes no open file, and what it locks others cannot read: there, that a file is open is its lock.
WINDOWS = sys.platform == "win32"

# Default limit on a file's decoded size in bytes. 15 M voxels (a 2048 grid) take 0.3 GB.
MAX_BYTES = 4 << 30
# Bytes written between two reports.
BLOCK = 8 << 20
# The end of the names of hidden files that are being written; seconds after which one that nobody holds is stale.
STALE, STALE_SECONDS = ".o_voxel.tmp", 60
_FULL = "the disk is full; free some of it, or choose another folder"
_CLOSED = "the folder is read-only; give this program the right to write there, or choose another folder"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "the file is larger than this system allows; write a smaller one, or choose another folder",
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EROFS: _CLOSED,
}

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
    raises, `path` keeps its previous content. What a killed process left of such files in the folder is removed after
    a minute. Raises OSError as `open` does, with the remedy for a full disk and a folder that cannot be written to.
    """
    target = Path(path)
    with _explained(target), _temporary(target) as (file, _):
        yield file


@contextmanager
def atomic_path(path: FilePath) -> Iterator[Path]:
    """Context manager as `atomic_write`, for a library that writes to a path: yields that of the hidden file."""
    target = Path(path)
    with _explained(target), _temporary(target) as (file, temporary):
        if WINDOWS:
            file.close()
        yield temporary


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yields an open hidden file beside `target`, and its path; it is locked where that is possible, and replaces
    `target` at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target.parent)
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{STALE}")
        file = open(temporary, "xb")  # noqa: SIM115 closed below, after it has moved where that is possible
        # Before the lock, another process may have taken it for a dead one's: it holds the lock, or has removed it.
        if WINDOWS or (try_lock(file) is not Lock.HELD_BY_ANOTHER and os.fstat(file.fileno()).st_nlink):
            break
        file.close()
    try:
        with file:
            yield file, temporary
            if not WINDOWS:
                file.flush()
                os.replace(temporary, target)
        if WINDOWS:
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    """Removes hidden files of writers that are no more: those that have not changed for a minute and that nobody has
    locked, or, on Windows, has open. A library that writes to a path may put another file
    there, without the lock: its time tells it from a dead writer's."""
    for path in folder.glob(f".*{STALE}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime <= STALE_SECONDS:
                continue
            if WINDOWS:
                path.unlink()
                continue
            with path.open("rb") as file:
                if try_lock(file) is Lock.HELD:
                    path.unlink()


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Adds the remedy to errors of the disk."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None:
            raise
        raise OSError(error.errno, f"{target.name} cannot be written to {target.parent}: {remedy}") from error


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


def append_file(path: FilePath, content: bytes) -> None:
    """Adds bytes to a file, made with its folders if absent. Where that fails the file is as long as before; a process
    that is killed at it may leave a part of them. Raises OSError as `atomic_write` does."""
    target = Path(path)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab", buffering=0) as file:
            before, rest = file.tell(), memoryview(content)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:
                file.truncate(before)
                raise
