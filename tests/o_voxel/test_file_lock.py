"""Locks of files: one holder at a time, gone with it; what refusals of the system mean."""

import errno
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from comfyui_trellis2.o_voxel.core import file_lock
from comfyui_trellis2.o_voxel.core.file_lock import Lock, locked, try_lock

posix = pytest.mark.skipif(os.name == "nt", reason="flock")
# Takes the lock of a file by the module itself, says so, and waits to be killed.
HOLDER = """
import runpy, sys
from pathlib import Path
with runpy.run_path(sys.argv[1])["locked"](Path(sys.argv[2])) as lock:
    print(lock.name, flush=True)
    sys.stdin.read()
"""


def test_one_holds_it_until_it_closes_the_file(tmp_path: Path):
    path = tmp_path / "lock"
    with locked(path) as first, locked(path) as second:
        assert (first, second) == (Lock.HELD, Lock.HELD_BY_ANOTHER)
    with locked(path) as again:
        assert again is Lock.HELD


def test_it_goes_with_a_holder_that_is_killed(tmp_path: Path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, file_lock.__file__, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "HELD\n"
        with locked(path) as lock:
            assert lock is Lock.HELD_BY_ANOTHER
        holder.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        holder.wait()
    with locked(path) as lock:
        assert lock is Lock.HELD


REFUSALS = [
    (errno.EWOULDBLOCK, "HELD_BY_ANOTHER"),
    (errno.EACCES, "HELD_BY_ANOTHER"),
    (errno.ENOLCK, "UNAVAILABLE"),
    (errno.ENOTSUP, "UNAVAILABLE"),
]


@posix
@pytest.mark.parametrize(("number", "name"), REFUSALS)
def test_refusals_tell_another_holder_from_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number, name):
    def refuse(*_: object) -> None:
        raise OSError(number, "the system's words")

    monkeypatch.setattr(file_lock.fcntl, "flock", refuse)
    with (tmp_path / "lock").open("wb") as file:
        assert try_lock(file) is Lock[name]


@pytest.mark.parametrize(("number", "name"), [(None, "HELD"), *REFUSALS])
def test_windows_locks_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number, name):
    """By a stand-in for its module: the first byte, also of a file that has content, without waiting."""
    calls = []

    def locking(number_of_file: int, mode: str, size: int) -> None:
        calls.append((os.lseek(number_of_file, 0, os.SEEK_CUR), mode, size))
        if number is not None:
            raise OSError(number, "the system's words")

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="without waiting"))
    monkeypatch.setattr(sys, "platform", "win32")
    windows = runpy.run_path(file_lock.__file__)
    path = tmp_path / "lock"
    path.write_bytes(b"content")
    with windows["locked"](path) as lock:
        assert lock is windows["Lock"][name]
    assert calls == [(0, "without waiting", 1)]
    assert path.read_bytes() == b"content"
