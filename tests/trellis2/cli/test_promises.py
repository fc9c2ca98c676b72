"""What the commands promise: names say formats, faults are one line and exit 1 before any work, pipes stay clean."""

import io
import os
import re

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core import foreign
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.files.voxels.read_write import write_voxels
from comfyui_trellis2.o_voxel.files.voxels.records import to_records
from comfyui_trellis2.o_voxel.material import TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.o_voxel.voxels.from_mesh import voxelize
from comfyui_trellis2.trellis2.cli import checks
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.cli.shared import ATTENTION
from comfyui_trellis2.trellis2.ops.attention import NAMES
from PIL import Image

TETRAHEDRON = Mesh(
    torch.tensor([[0.4, 0, 0], [-0.3, 0.4, 0], [-0.3, -0.4, 0], [0, 0, 0.4]]),
    torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]]),
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    save_mesh(folder / "a.glb", TETRAHEDRON)
    write_voxels(folder / "a.vxz", to_records(voxelize(TexturedMesh(TETRAHEDRON), Grid.cube(16))))
    (folder / "a.txt").write_text("no mesh")
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    return folder


def run(capsys, *arguments):
    """(exit status, standard output, standard error)"""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


STARTS = {".glb": b"glTF", ".obj": b"mtllib", ".ply": b"ply\n", ".stl": b"binary STL"}


@pytest.mark.parametrize("suffix", STARTS)
def test_mesh_writes_what_the_name_says(files, tmp_path, capsys, suffix):
    out = tmp_path / "new" / f"out{suffix}"
    assert run(capsys, "mesh", files / "a.vxz", "-o", out, "--resolution", 16)[0] == 0
    content = out.read_bytes()
    assert content.startswith(STARTS[suffix]) or (suffix == ".obj" and content.startswith(b"v "))


@pytest.mark.parametrize(("suffix", "form"), [(".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP")])
def test_render_writes_what_the_name_says(files, tmp_path, capsys, suffix, form):
    out = tmp_path / "new" / f"out{suffix}"
    assert run(capsys, "render", files / "a.glb", "-o", out, "--size", 16)[0] == 0
    with Image.open(out) as picture:
        assert (picture.format, picture.size) == (form, (64, 48))
        assert np.asarray(picture).std() > 5


WRONG = {
    "another suffix": (("voxelize", "a.glb", "-o", "out.txt"), r"-o .*out\.txt: expected a name that ends in \.vxz"),
    "no suffix": (("mesh", "a.vxz", "-o", "out"), "no suffix"),
    "a folder to write": (("convert", "a.glb", "-o", "."), "expected a file name, got a folder"),
    "a file as folder": (("convert", "a.glb", "-o", "a.txt/out.glb"), "expected a folder, got the file"),
    "a folder to read": (("convert", "folder.glb", "-o", "out.glb"), "got a folder"),
    "no file": (("render", "absent.glb", "-o", "out.png"), "absent.glb: no such file"),
    "no mesh": (("convert", "a.txt", "-o", "out.glb"), "expected one of .glb"),
    "voxels that are no voxels": (("mesh", "a.txt", "-o", "out.glb"), "expected a file name that ends in"),
    "resolution 0": (
        ("voxelize", "a.glb", "-o", "out.vxz", "--resolution", "0"),
        "--resolution: expected a whole number",
    ),
    "resolution too fine": (("voxelize", "a.glb", "-o", "out.vxz", "--resolution", "99999"), "at most 4096"),
    "size 0": (("render", "a.glb", "-o", "out.png", "--size", "0"), "--size: expected a whole number"),
    "scale 0": (("convert", "a.glb", "-o", "out.glb", "--scale", "0"), "--scale: expected a positive number"),
    "an unknown device": (
        ("asset", "a.glb", "-o", "out.glb", "--device", "abacus"),
        "abacus: expected one that",
    ),
    "a device that is not here": (("doctor", "--device", "cuda:99"), "--device cuda:99: expected one that"),
    "attention that does not run here": (
        ("generate", "bad.png", "-o", "out.glb", "--model", "mini", "--device", "cpu", "--attention", "cudnn"),
        "--attention 'cudnn': runs on a GPU, not on cpu; choose 'auto'",
    ),
    "an unknown option": (("convert", "a.glb", "--shine"), "trellis2: "),
    "a bad picture": (("generate", "bad.png", "-o", "out.glb", "--model", "mini"), "bad.png: expected a picture"),
    "a broken picture": (("generate", "half.png", "-o", "out.glb", "--model", "mini"), "half.png: "),
    "no picture": (("generate", "absent.png", "-o", "out.glb", "--model", "mini"), "absent.png: no such file"),
    "no model": (
        ("generate", "bad.png", "-o", "out.glb", "--model", "nothing"),
        "nothing: expected a folder",
    ),
    "a resolution that the model lacks": (
        ("generate", "bad.png", "-o", "out.glb", "--model", "mini", "--resolution", "2048"),
        "this checkpoint has no networks for it",
    ),
    "a picture as mesh": (
        ("generate", "bad.png", "-o", "out.png", "--model", "mini"),
        "expected a name that ends in .glb",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_faults_are_one_line_and_exit_1(files, tmp_path, capsys, monkeypatch, name):
    arguments, message = WRONG[name]
    monkeypatch.chdir(files)
    (files / "folder.glb").mkdir(exist_ok=True)
    before = sorted(files.rglob("*"))
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1 and err.startswith("trellis2: ")
    assert re.search(message, err), err
    assert sorted(files.rglob("*")) == before


def test_the_command_knows_every_attention_backend():
    assert list(ATTENTION) == ["auto", *NAMES]


def test_doctor_names_what_may_be_installed_with_its_licence(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(foreign, "answers_file", lambda: tmp_path / "libraries.json")
    status, out, _ = run(capsys, "doctor", "--device", "cpu", "--model", str(tmp_path / "absent"))
    lines = out.splitlines()
    assert status == 0
    assert "| trellis2.attention | sdpa | cudnn: runs on a GPU, not on cpu; reference: works |" in lines
    for name, licence in (("flash-attn-4", "BSD-3-Clause"), ("sage", "Apache-2.0"), ("nvdiffrast", "NVIDIA Source")):
        (line,) = [line for line in lines if line.startswith(f"| {name} |")]
        assert f"| {licence}" in line and ("not installed" in line or "runs on a GPU" in line)
    assert any(line.startswith("| numba ") and "BSD-2-Clause" in line for line in lines)
    assert [line for line in lines if "absent" in line and "not here" in line]


def test_a_disk_without_room_is_one_line(files, tmp_path, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", str(tmp_path / "out.glb"))

    monkeypatch.setattr("comfyui_trellis2.o_voxel.core.atomic_io.open", full, raising=False)
    status, _, err = run(capsys, "convert", files / "a.glb", "-o", tmp_path / "out.glb")
    assert status == 1 and err.count("\n") == 1
    assert err.startswith(f"trellis2: out.glb cannot be written to {tmp_path}: the disk is full")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said_first(files, tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    status, _, err = run(capsys, "convert", files / "a.glb", "-o", tmp_path / "locked" / "out.glb")
    assert status == 1 and "cannot be written to" in err


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match="cannot be written to"):
        checks.check_output(tmp_path / "new" / "out.glb", checks.MESH_SUFFIXES)


def test_options_that_a_format_ignores_are_said(files, tmp_path, capsys):
    status, _, err = run(capsys, "convert", files / "a.glb", "-o", tmp_path / "a.obj", "--quantize", "--images", "webp")
    assert status == 0
    assert "--quantize does not apply to this format" in err and "--images does not apply" in err
    assert run(capsys, "convert", files / "a.glb", "-o", tmp_path / "b.glb", "--quantize")[2] == ""


def test_what_a_file_lacks_is_said_on_standard_error(tmp_path, capsys):
    (tmp_path / "a.obj").write_text("mtllib no.mtl\nusemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    status, out, err = run(capsys, "convert", tmp_path / "a.obj", "-o", tmp_path / "a.glb")
    assert status == 0 and "no.mtl" in err and "no.mtl" not in out


def test_a_pipe_gets_no_control_characters(files, tmp_path, capsys, monkeypatch):
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stderr", pipe)
    assert main(["voxelize", str(files / "a.glb"), "-o", str(tmp_path / "deep" / "a.npz"), "--resolution", "16"]) == 0
    assert not set(pipe.getvalue() + capsys.readouterr().out) & {"\r", "\x1b", "\x08"}
