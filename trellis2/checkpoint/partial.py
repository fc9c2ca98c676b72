"""Downloads one large file to a partial file, which stays after a cancel or a failure: the next attempt goes on there.

The partial file lies beside the target and has a part of the digest in its name, so that another revision begins anew.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from ...o_voxel.core.progress import POLL, Progress, in_background, silent
from .meter import Meter

log = logging.getLogger(__name__)

# Bytes that are hashed between two looks for a cancel: a few milliseconds.
BLOCK = 4 << 20


class DamagedError(OSError):
    """What has arrived is not the file that the hub describes."""


@dataclass(frozen=True)
class Remote:
    """A file on the hub. url: of this revision; digest: its SHA-256, 64 hexadecimal digits; size: in bytes."""

    url: str
    digest: str
    size: int

    def partial(self, target: Path) -> Path:
        """Returns the path of what has arrived of `target`."""
        return target.with_name(f"{target.name}.{self.digest[:12]}.partial")


def fetch(remote: Remote, target: Path, meter: Meter, bar: type, progress: Progress | None = None) -> None:
    """Downloads `remote` to `target` unless it is there; a process that finds another at it waits.

    meter: counts.  bar: a silent tqdm, for huggingface_hub.  progress: called several times a second, may raise: then,
    and after any other error, the partial file stays.
    Raises DamagedError, with the partial file removed, if the digest differs; OSError without room on the disk; the
    errors of huggingface_hub's `http_get`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target, progress or silent):
        if target.is_file():
            return
        path = remote.partial(target)
        for other in target.parent.glob(f"{escape(target.name)}.*.partial"):
            if other != path:
                with suppress(OSError):  # another program reads it, on Windows
                    other.unlink()
        with _Partial(path, meter) as part:
            if progress is None:
                part.complete(remote, bar, lambda _: meter.fraction())  # for its lines in the log
            else:
                in_background(lambda alive: part.complete(remote, bar, alive), progress, 1.0)
        if part.digest != remote.digest:
            path.unlink()
            raise DamagedError(f"{target.name}: expected SHA-256 {remote.digest}, got {part.digest}; download it again")
        os.replace(path, target)


class _Partial:
    """A partial file, as huggingface_hub's `http_get` writes it: counts and hashes.

    Closed by a cancel while a thread still waits for bytes, it takes none of them.
    """

    def __init__(self, path: Path, meter: Meter) -> None:
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._guard, self._meter, self._alive = threading.Lock(), meter, silent
        self._hash = hashlib.sha256()

    def __enter__(self) -> _Partial:
        return self

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._file.close()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def complete(self, remote: Remote, bar: type, alive: Progress) -> None:
        """Hashes what is there and loads the rest. alive: may raise."""
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        self._alive = alive
        self._hash_old()
        if self.tell() > remote.size:
            self._restart()
        self._check_room(remote.size - self.tell())
        options: dict[str, Any] = {"headers": build_hf_headers(), "expected_size": remote.size}
        if "tqdm_class" in inspect.signature(http_get).parameters:
            options["tqdm_class"] = bar
        if self.tell():
            log.info("%s: goes on at %.1f MB of %.1f", self._meter.name, self.tell() / 1e6, remote.size / 1e6)
        if self.tell() == remote.size:
            return
        try:
            http_get(remote.url, self, resume_size=self.tell(), **options)
        except OSError:
            if self.tell() <= remote.size:
                raise
            # huggingface_hub before 1 appends the whole file where the server does not know ranges.
            self._restart()
            http_get(remote.url, self, **options)

    def write(self, data: bytes) -> int:
        """Appends bytes that arrived."""
        with self._guard:
            count = self._file.write(data)
            self._hash.update(data)
        self._meter.add(count)
        self._alive(0.0)
        return count

    def tell(self) -> int:
        """The position, which is the end."""
        return self._file.tell()

    def seek(self, position: int) -> int:
        """Moves; only `truncate` may follow."""
        return self._file.seek(position)

    def truncate(self) -> int:
        """Drops what follows the position, and hashes what is left."""
        size = self._file.truncate()
        self._hash_old()
        return size

    def flush(self) -> None:
        """Passes what was written to the system."""
        self._file.flush()

    def _restart(self) -> None:
        self.seek(0)
        self.truncate()

    def _hash_old(self) -> None:
        """Hashes the file from its start, and stands at its end."""
        self._hash = hashlib.sha256()
        self._file.seek(0)
        self._meter.resume(0)
        while block := self._file.read(BLOCK):
            self._hash.update(block)
            self._meter.resume(self._file.tell())
            self._alive(0.0)

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(Path(self._file.name).parent).free
        if free < needed:
            raise OSError(
                f"{needed / 1e9:.3g} GB are needed on the disk of {self._file.name}, {free / 1e9:.3g} are free"
            )


@contextmanager
def _locked(target: Path, progress: Progress) -> Iterator[None]:
    """Waits until no other process or thread downloads `target`. progress: may raise, to end waiting."""
    from filelock import FileLock, Timeout

    path = target.with_name(f"{target.name}.lock")
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=POLL)
            break
        except Timeout:
            progress(0.0)
        except NotImplementedError:
            # A file system without locks: what two processes at once would make of the file, the digest finds.
            break
    try:
        yield
    finally:
        with suppress(OSError):  # on Windows a file that another process holds open stays
            if target.is_file():
                path.unlink(missing_ok=True)
        lock.release()
