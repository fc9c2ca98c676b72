"""Files are whole or not there: after a kill, on a full disk, in a closed folder; and nothing is left behind."""

import errno
import functools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.o_voxel.core import atomic_io
from comfyui_trellis2.o_voxel.core.atomic_io import append_file, atomic_path, atomic_write, write_files
from comfyui_trellis2.o_voxel.files import VoxelRecords, write_voxels
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.trellis2.checkpoint.weights import save_weights
from comfyui_trellis2.trellis2.sampling.latent_files import write_latents
from comfyui_trellis2.trellis2.values import Latents, SparseStructure

ROOT = Path(__file__).parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="locks and limits of files")

MESH = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]], dtype=torch.int32))
VOXELS = torch.tensor([[0, 1, 2], [3, 3, 3]], dtype=torch.int32)
RECORDS = VoxelRecords(VOXELS, {"vertices": torch.zeros(2, 3, dtype=torch.uint8)})
WRITERS = {
    **{f"a.{form}": functools.partial(lambda path: save_mesh(path, MESH)) for form in ("glb", "obj", "ply", "stl")},
    **{f"v.{form}": functools.partial(lambda path: write_voxels(path, RECORDS)) for form in ("vxz", "npz", "ply")},
    "l.safetensors": lambda path: write_latents(path, Latents(structure=SparseStructure((VOXELS,), 32, ((),)))),
    "w.safetensors": lambda path: save_weights({"a": torch.zeros(2000)}, path),
}
# They die in turn, each in a process that imports what it needs; all others write as these do.
KILLED = ("a.ply", "l.safetensors", "w.safetensors")
writers = pytest.mark.parametrize("name", WRITERS)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed(folder: Path) -> None:
    """Each writer in a child that dies once the bytes are written, before the file has its name."""
    atomic_io.os = type("os", (), {**vars(os), "replace": lambda *_: os.kill(os.getpid(), signal.SIGKILL)})
    for name in KILLED:
        child = os.fork()
        if child == 0:
            WRITERS[name](folder / name)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL


@posix
@pytest.mark.slow
def test_after_a_kill_nothing_is_half_written_and_the_next_run_cleans_up(tmp_path):
    for name in KILLED:
        (tmp_path / name).write_bytes(b"before")
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import conftest, importlib.util as u\n"
        "spec = u.spec_from_file_location('here', sys.argv[2]); m = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(m); m.killed(pathlib.Path(sys.argv[3]))"
    )
    command = [sys.executable, "-c", script, str(ROOT / "tests"), __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / name).read_bytes() == b"before" for name in KILLED)
    stale = [tmp_path / name for name in left(tmp_path) if name not in KILLED]
    assert stale
    for path in stale:
        os.utime(path, (time.time() - 600,) * 2)
    WRITERS["a.ply"](tmp_path / "a.ply")
    assert set(left(tmp_path)) == {*KILLED}
    assert (tmp_path / "a.ply").read_bytes() != b"before"


@posix
def test_what_a_living_writer_holds_stays(tmp_path):
    stale = tmp_path / f".old.glb.0123abcd{atomic_io.STALE}"
    stale.write_bytes(b"half")
    os.utime(stale, (time.time() - 600,) * 2)
    others = tmp_path / ".theirs.tmp"
    others.write_bytes(b"")
    with atomic_write(tmp_path / "a") as first:
        assert not stale.exists()
        first.write(b"1")
        with atomic_write(tmp_path / "b") as second:
            second.write(b"2")
        assert [name for name in left(tmp_path) if name.startswith(".a.")]
    assert left(tmp_path) == [".theirs.tmp", "a", "b"]
    assert (tmp_path / "a").read_bytes() == b"1"


@posix
@pytest.mark.parametrize("name", ["a.ply", "w.safetensors"])
def test_writers_of_one_folder_leave_each_other_alone(tmp_path, name):
    """Files appear and vanish under the eyes of those who look for stale ones. safetensors replaces the locked file."""

    def turns(_: int) -> None:
        for turn in range(60):
            WRITERS[name](tmp_path / f"{turn % 3}{name}")

    # Locks belong to open files, so that threads meet as processes do.
    with ThreadPoolExecutor(4) as writing:
        list(writing.map(turns, range(4)))
    assert left(tmp_path) == [f"{number}{name}" for number in range(3)]


def test_without_locks_only_what_is_old_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_io, "WINDOWS", True)
    monkeypatch.setattr(atomic_io, "try_lock", None)  # Windows' locks would keep a library from writing
    old, new = (tmp_path / f".{name}.0123abcd{atomic_io.STALE}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 600,) * 2)
    with atomic_path(tmp_path / "a") as path:
        path.write_bytes(b"1")
    assert left(tmp_path) == [new.name, "a"]
    assert (tmp_path / "a").read_bytes() == b"1"


@writers
def test_an_error_leaves_what_was_there(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"before")

    def fail(*_):
        raise OSError(errno.EIO, "a bad sector")

    monkeypatch.setattr(atomic_io, "os", type("os", (), {**vars(os), "replace": fail}))
    with pytest.raises(OSError, match="a bad sector"):
        WRITERS[name](tmp_path / name)
    assert left(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"before"


@posix
@writers
def test_a_full_disk_leaves_what_was_there_and_says_what_to_do(tmp_path, name):
    import resource

    (tmp_path / name).write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written to .*choose another folder"):
            WRITERS[name](tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"before"


@writers
@pytest.mark.parametrize(
    "number, remedy", [(errno.ENOSPC, "free some"), (errno.EACCES, "right to write"), (errno.EROFS, "read-only")]
)
def test_a_closed_folder_and_a_full_disk_are_told(tmp_path, monkeypatch, name, number, remedy):
    def refuse(*_, **__):
        raise OSError(number, "the system's words")

    monkeypatch.setattr(atomic_io, "open", refuse, raising=False)
    with pytest.raises(OSError, match=remedy) as told:
        WRITERS[name](tmp_path / name)
    assert told.value.errno == number
    assert name.partition(".")[0] in str(told.value)
    assert left(tmp_path) == []


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path):
    def cancel(fraction):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_files({tmp_path / "a": b"1", tmp_path / "b": b"2"}, cancel)
    assert left(tmp_path) == []


def test_what_is_appended_stands_behind_what_was_there(tmp_path):
    path = tmp_path / "new" / "a.csv"
    append_file(path, b"1\n")
    append_file(path, b"2\n")
    assert path.read_bytes() == b"1\n2\n"


@posix
def test_what_cannot_be_appended_whole_is_not_and_the_error_says_what_to_do(tmp_path):
    import resource

    path = tmp_path / "a.csv"
    path.write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written to .*choose another folder"):
            append_file(path, b"x" * 30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"before"
