"""Compiling ahead: the processes, the lock, what they say; and that nothing is left to compile afterwards."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.o_voxel.core import file_lock
from comfyui_trellis2.o_voxel.core.file_lock import Lock, locked
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.precompile import Outcome, PrecompileError, parts, precompile, run, worker

ROOT = Path(run.__file__).parents[2]
CPU = torch.device("cpu")
# A worker that compiles nothing: it speaks as one does, and does what its part is called.
FAKE = f"""
import json, os, sys, time
asked = json.loads(sys.stdin.buffer.readline())
def say(**values):
    print({worker.MARK!r} + json.dumps(values), flush=True)
print("something else")
for name in asked["parts"]:
    say(part=name)
    if name == "outer shell":
        os._exit(3)
    if name == "bake":
        sys.stdin.buffer.read()
    say(part=name, seconds=0.5, kernels=len(name), problem="no" if name == "write" else "")
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Has fake workers run, with a cache folder of their own."""
    monkeypatch.setattr(run, "CHILD", FAKE)
    monkeypatch.setattr(run, "cache_folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("workers", [1, 3])
def test_every_part_runs_once_and_a_failure_stops_no_other(fake: Path, workers: int):
    seen: list[float] = []
    names = ["surface", "outer shell", "write"] if workers > 1 else ["surface", "write", "outer shell", "unwrap"]
    outcomes = precompile(CPU, parts=names, workers=workers, progress=seen.append)
    found = {outcome.part: outcome for outcome in outcomes}
    assert sorted(found) == sorted(names)
    assert found["surface"] == Outcome("surface", 0.5, len("surface"))
    assert found["write"].problem == "no"
    assert "code 3" in found["outer shell"].problem
    if workers == 1:  # what a process did not come to
        assert "code 3" in found["unwrap"].problem
    assert seen[-1] == 1.0
    assert seen == sorted(seen)


def test_a_cancel_ends_the_processes(fake: Path, monkeypatch: pytest.MonkeyPatch):
    started: list[subprocess.Popen] = []
    popen = subprocess.Popen
    monkeypatch.setattr(run.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    begun = time.monotonic()

    def stop(fraction: float) -> None:
        if time.monotonic() - begun > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        precompile(CPU, parts=["bake", "surface"], workers=2, progress=stop)
    assert [child.poll() is not None for child in started] == [True, True]
    with locked(fake / "precompile.lock") as lock:
        assert lock is Lock.HELD


def test_two_never_run_at_once(fake: Path):
    with locked(fake / "precompile.lock") as lock:
        assert lock is Lock.HELD
        with pytest.raises(PrecompileError, match="another process compiles already"):
            precompile(CPU, parts=["surface"])
    assert precompile(CPU, parts=["surface"])[0].kernels


def test_where_files_cannot_be_locked_nothing_is_compiled(fake: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(file_lock, "try_lock", lambda file: Lock.UNAVAILABLE)
    with pytest.raises(PrecompileError, match=r"files cannot be locked in .*set NUMBA_CACHE_DIR"):
        precompile(CPU, parts=["surface"])


def test_a_part_that_there_is_not_is_named():
    with pytest.raises(ValueError, match="'glaze'"):
        precompile(CPU, parts=["glaze"])


def test_no_cache_that_can_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(run.tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "numba" else name)
    with pytest.raises(PrecompileError, match="NUMBA_CACHE_DIR"):
        run.cache_folder()


def test_the_cores_say_how_many_processes(monkeypatch: pytest.MonkeyPatch):
    counts = {}
    for cores in (1, 2, 3, 4, 6, 64):
        monkeypatch.setattr(run.os, "sched_getaffinity", lambda pid, cores=cores: range(cores), raising=False)
        counts[cores] = run._worker_count(7)
    assert counts == {1: 1, 2: 1, 3: 1, 4: 2, 6: 3, 64: 4}


def test_the_name_is_that_which_comfyui_gives():
    """As `load_custom_node` of ComfyUI's nodes.py makes it of the folder's path."""
    assert run.host_package(Path("/a/ComfyUI/custom_nodes/x.y")) == str(Path("/a/ComfyUI/custom_nodes/x_x_y"))


@pytest.mark.parametrize(
    ("outcomes", "code", "said"),
    [
        ([Outcome("bake", 2.0, 7)], 0, "7 kernels compiled for cpu"),
        ([Outcome("bake", 2.0, 0)], 0, "nothing was left to compile for cpu"),
        ([Outcome("bake", 2.0, 7), Outcome("write", 0.0, 0, "it broke")], 1, "1 of 2 parts failed"),
    ],
)
def test_the_command_says_what_it_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, outcomes: list[Outcome], code: int, said: str
):
    monkeypatch.setattr(f"{precompile.__module__.rpartition('.')[0]}.precompile", lambda *a, **k: outcomes)
    assert main(["precompile", "--device", "cpu"]) == code
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(("error", "code"), [(PrecompileError("no cache"), 1), (KeyboardInterrupt(), 130)])
def test_the_command_has_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: BaseException, code: int
):
    def fail(*a: object, **k: object) -> None:
        raise error

    monkeypatch.setattr(f"{precompile.__module__.rpartition('.')[0]}.precompile", fail)
    assert main(["precompile", "--device", "cpu"]) == code
    assert ("no cache" if code == 1 else "what was compiled is kept") in capsys.readouterr().err


WHOLE = """
import sys, torch
from importlib import import_module
part, count = import_module(sys.argv[1] + ".trellis2.precompile.parts"), None
notice = import_module(sys.argv[1] + ".o_voxel.core.compiling.notice").NOTICE
asset = import_module(sys.argv[1] + ".o_voxel.asset")
glb = import_module(sys.argv[1] + ".o_voxel.files.meshes.write")
from dataclasses import replace
mesh = part.ring(torch.device("cpu"))
part.fill_holes(mesh, 10.0)
for surface in ("auto", "outer shell"):
    options = replace(asset.PRESETS["game high"], faces=800, texture_size=128, surface=surface, surface_resolution=64)
    glb.save_mesh(sys.argv[2], asset.make_asset(mesh, part.materials(mesh), options))
print("kernels", notice.kernels)
"""


@pytest.mark.slow
def test_after_it_nothing_is_left_to_compile(tmp_path: Path):
    """Whole, into an empty cache: a second run, and an asset in a process of its own, compile nothing."""
    pytest.importorskip("numba")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}  # noqa: TID251 numba has no argument for it
    command = [sys.executable, str(ROOT / "install.py"), "--run-cli", "precompile", "--device", "cpu", "--workers"]
    first, second = (
        subprocess.run([*command, n], capture_output=True, text=True, check=True, env=environment).stdout for n in "21"
    )
    assert " kernels compiled for cpu" in first
    assert all(f"\n{name}" in f"\n{first}" for name in parts.parts_for(CPU))
    assert second.splitlines()[-1].startswith("nothing was left to compile for cpu")
    load = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import install; sys.path.pop(0)\n"
    load += f"install.load_file({run.PACKAGE!r}, install.ROOT / '__init__.py')\n"
    made = subprocess.run(
        [sys.executable, "-c", load + WHOLE, run.PACKAGE, str(tmp_path / "a.glb")],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert made.stdout.split() == ["kernels", "0"]


@pytest.mark.slow
@pytest.mark.gpu
def test_on_a_gpu_nothing_is_left_either(tmp_path: Path):
    folders = {"NUMBA_CACHE_DIR": str(tmp_path / "numba"), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    environment = {**os.environ, **folders}  # noqa: TID251 neither has an argument for it
    command = [sys.executable, str(ROOT / "install.py"), "--run-cli", "precompile", "--device", "cuda"]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout for _ in range(2)
    )
    assert " kernels compiled for cuda" in first
    assert all(f"\n{name}" in f"\n{first}" for name in parts.PARTS)
    assert second.splitlines()[-1].startswith("nothing was left to compile for cuda")
