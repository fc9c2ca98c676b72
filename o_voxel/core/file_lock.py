"""A lock that one process holds on a file, by the operating system: it goes with its holder, also where that is killed.

On POSIX systems flock's, which belongs to the open file and leaves reads and writes of others alone; on Windows a lock
of the first byte, which others can then neither read nor write.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class Lock(Enum):
    """What came of an attempt to lock a file."""

    HELD = "held by this process, until the file is closed"
    HELD_BY_ANOTHER = "held by another process, or by another open file of this one"
    UNAVAILABLE = "not possible here, as on some network file systems"


def try_lock(file: IO[bytes]) -> Lock:
    """Locks an open file, without waiting, until it is closed or its process dies. On Windows its position becomes 0,
    and it must be open for writing."""
    try:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Lock.HELD_BY_ANOTHER if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else Lock.UNAVAILABLE
    return Lock.HELD


@contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Yields what came of locking the file `path`, which is made if absent. The file stays: another process may wait
    for it by its name. Raises OSError as `open` does."""
    with path.open("a+b") as file:
        yield try_lock(file)


__all__ = ["Lock", "locked", "try_lock"]
