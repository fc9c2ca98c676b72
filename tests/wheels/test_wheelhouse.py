"""make_wheelhouse.py: what it asks pip for, and that the folder it leaves is whole."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from comfyui_trellis2.wheels import make_wheelhouse
from comfyui_trellis2.wheels.accelerator import read_manifest
from comfyui_trellis2.wheels.environment import Machine

from .binaries import wheel

ROOT = Path(make_wheelhouse.__file__).parents[1]
NAME = "fastmesh-2.0-py3-none-any.whl"


class Pip:
    """Writes a wheel into the folder it is told, and keeps what it was asked for."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.ran, self.wanted = code, [], []

    def __call__(self, command: Sequence[str]) -> int:
        self.ran.append(list(command))
        self.wanted.append(Path(command[-1]).read_text(encoding="utf-8"))
        folder = Path(command[command.index("-d") + 1])
        if not (folder / NAME).exists():
            wheel(folder, NAME, {"fastmesh.py": ""})
        return self.code


def make(pip: Pip, *arguments: str) -> int:
    return make_wheelhouse.main(arguments, Machine(ROOT, "python", True, dict, lambda name: True, pip))


def test_requirements_and_accelerators_are_asked_of_pip(tmp_path: Path, capsys: pytest.CaptureFixture):
    house, pip = tmp_path / "house", Pip()
    told = ["--torch", "--tests", "--python", "3.12", "--platform", "win_amd64", "--accelerator", "DracoPy"]
    assert make(pip, str(house), *told) == 0
    assert {"scipy", "torch==2.13.0", "pytest"} <= set(pip.wanted[0].splitlines())
    assert pip.wanted[1].startswith("dracopy==2.2.0 --hash=sha256:")
    for command in pip.ran:
        assert (
            command[command.index("--platform") + 1] == "win_amd64"
            and command[command.index("--python-version") + 1] == "3.12"
        )
    assert "--require-hashes" in pip.ran[1] and "--no-deps" in pip.ran[1]
    assert {file.name for file in house.iterdir()} == {NAME, "wheelhouse.json"}
    assert read_manifest(house) == {NAME: hashlib.sha256((house / NAME).read_bytes()).hexdigest()}
    assert "1 wheels are in" in capsys.readouterr().out


def test_what_is_damaged_is_made_again_and_what_is_whole_stays(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert make(Pip(), str(tmp_path)) == 0
    was = (tmp_path / NAME).stat().st_mtime_ns
    assert make(Pip(), str(tmp_path)) == 0
    assert (tmp_path / NAME).stat().st_mtime_ns == was
    (tmp_path / NAME).write_bytes(b"half of")
    assert make(Pip(), str(tmp_path)) == 0
    assert "was damaged" in capsys.readouterr().out
    assert read_manifest(tmp_path)[NAME] == hashlib.sha256((tmp_path / NAME).read_bytes()).hexdigest()


def test_pips_failure_is_passed_on_and_leaves_no_manifest(tmp_path: Path):
    assert make(Pip(7), str(tmp_path)) == 7
    assert not (tmp_path / "wheelhouse.json").exists()
    assert not list(tmp_path.glob("wanted*"))


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert make(pip := Pip(), str(tmp_path / "house"), "--dry-run") == 0
    assert pip.ran == [] and not (tmp_path / "house").exists()
    assert "download" in capsys.readouterr().out


def test_an_accelerator_without_a_build_is_said(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert make(pip := Pip(), str(tmp_path), "--accelerator", "flash-attn") == 1
    assert pip.ran == [] and "flash-attn: no build" in capsys.readouterr().out


def test_a_malformed_manifest_is_said(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "wheelhouse.json").write_text(json.dumps({"files": [1]}))
    assert make(Pip(), str(tmp_path)) == 1
    assert "make the wheelhouse again" in capsys.readouterr().out


def test_it_runs_as_a_script_from_a_bare_python(tmp_path: Path):
    command = [
        sys.executable,
        "-I",
        "-S",
        str(ROOT / "wheels" / "make_wheelhouse.py"),
        str(tmp_path / "x"),
        "--dry-run",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "scipy" in done.stdout
