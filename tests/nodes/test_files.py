"""Which files the loaders list, find and refuse, when they see a change, and what saved files carry."""

import importlib.util
import json
import os
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.nodes import host
from comfyui_trellis2.nodes.files.meshes import LoadMesh, PreviewMesh, SaveGLB, SaveMesh
from comfyui_trellis2.nodes.host import files
from comfyui_trellis2.nodes.voxels import LoadVoxels
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.reading.companions import companions
from comfyui_trellis2.o_voxel.values import Mesh
from PIL import Image

TRIANGLE = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]], dtype=torch.int32))
OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"


@pytest.fixture
def home(comfy):
    """The folder that holds input, output and temp, and a secret beside them."""
    root = comfy.parent
    for name in ("input/3d/deep", "output/3d", "temp"):
        (root / name).mkdir(parents=True)
    (root / "secret.obj").write_text(OBJ)
    return root


def json_of(path):
    content = path.read_bytes()
    return json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])


@pytest.mark.slow
def test_what_is_listed(home):
    assert files.input_files((".glb",)) == [host.NO_FILE]
    for name in ("b.GLB", "a.obj", "3d/c.glb", "3d/deep/d.glb", "picture.png"):
        (home / "input" / name).write_bytes(b"")
    (home / "input" / "other").mkdir()
    (home / "input" / "other" / "e.glb").write_bytes(b"")
    (home / "input" / "3d" / "away.glb").symlink_to(home / "secret.obj")
    listed = ["3d/c.glb", "3d/deep/d.glb", "a.obj", "b.GLB"]
    assert LoadMesh.INPUT_TYPES()["required"]["file"][0] == listed
    assert LoadVoxels.INPUT_TYPES()["required"]["file"][0] == [host.NO_FILE]


@pytest.mark.parametrize(
    "name, found",
    [
        ("a.obj", "input/a.obj"),
        ("3d/a.obj", "input/3d/a.obj"),
        ("3d\\a.obj", "input/3d/a.obj"),
        ("a.obj [input]", "input/a.obj"),
        ("a.obj [output]", "output/a.obj"),
        ("a.obj [temp]", "temp/a.obj"),
        ("a.obj[temp]", "temp/a.obj"),
        ("3d/only_saved.obj", "output/3d/only_saved.obj"),
    ],
)
def test_names_that_lead_to_a_file(home, name, found):
    for place in ("input", "output", "temp", "input/3d"):
        (home / place / "a.obj").write_text(OBJ)
    (home / "output" / "3d" / "only_saved.obj").write_text(OBJ)
    assert host.input_path(name) == home / found
    assert host.input_path(str(home / found)) == home / found
    assert LoadMesh.VALIDATE_INPUTS(name) is True


BAD = [
    "../secret.obj",
    "3d/../../secret.obj",
    "..\\secret.obj",
    "../secret.obj [output]",
    "../input/a.obj",
    "/etc/passwd",
    "/etc/passwd [temp]",
    "//server/share/a.obj",
    "\\\\server\\share\\a.obj",
    "C:\\secret.obj",
    "C:secret.obj",
    "a\0.obj",
    "link/secret.obj",
    "link.obj",
    "loop.obj",
    "   ",
    " [output]",
]


@pytest.mark.parametrize("name", BAD)
def test_names_that_leave_the_folders(home, name):
    (home / "input" / "link").symlink_to(home)
    (home / "input" / "link.obj").symlink_to(home / "secret.obj")
    (home / "input" / "loop.obj").symlink_to(home / "input" / "loop.obj")
    said = []
    for there in (True, False):
        if not there:
            (home / "secret.obj").unlink()
        for call in (host.input_path, lambda given: LoadMesh().load(given, True)):
            with pytest.raises((ValueError, FileNotFoundError)) as refused:
                call(name)
            said.append(f"{refused.type.__name__} {refused.value}")
        said.append(f"{refused.type.__name__} {str(LoadMesh.VALIDATE_INPUTS(name)).removeprefix('file: ')}")
    plain = [text.replace("file: ", "", 1) for text in said]
    assert len(set(plain)) == 1, "the refusal tells whether the file exists"
    assert str(home) not in plain[0].replace(repr(name), "")


def test_a_full_path_outside_is_refused_alike_there_or_not(home):
    texts = []
    for name in ("secret.obj", "absent.obj"):
        with pytest.raises(ValueError, match="expected a file inside ComfyUI's") as refused:
            host.input_path(str(home / name))
        texts.append(str(refused.value).replace(name, "NAME"))
    assert texts[0] == texts[1] and "input folder" in texts[0]


def test_a_file_that_is_not_there(home):
    with pytest.raises(FileNotFoundError, match=r"^absent\.glb: there is no such file in ComfyUI's input"):
        host.input_path("absent.glb")
    assert "no such file" in LoadMesh.VALIDATE_INPUTS("absent.glb")
    assert "no such file" in LoadMesh.VALIDATE_INPUTS("a" * 5000 + ".glb")
    for empty in (None, "", host.NO_FILE):
        assert "no file is chosen" in LoadMesh.VALIDATE_INPUTS(empty)
    (home / "input" / "a.fbx").write_bytes(b"")
    assert "expected one of .glb, .gltf" in LoadMesh.VALIDATE_INPUTS("a.fbx")


def test_connected_inputs_are_checked_by_type():
    assert LoadMesh.VALIDATE_INPUTS(None, {"file": "STRING"}) is True
    assert LoadMesh.VALIDATE_INPUTS("absent.glb", {"file_3d": "FILE_3D_GLB"}) is True
    assert "file: expected STRING" in LoadMesh.VALIDATE_INPUTS(None, {"file": "IMAGE"})
    assert "fit_unit_cube: expected BOOLEAN" in LoadMesh.VALIDATE_INPUTS(
        None, {"file": "STRING", "fit_unit_cube": "INT"}
    )
    assert "resolution: expected INT" in LoadVoxels.VALIDATE_INPUTS(None, {"file": "STRING", "resolution": "MESH"})


def test_unreadable_files_are_named_without_the_folders(home):
    for node, name in ((LoadMesh, "3d/broken.glb"), (LoadMesh, "3d/broken.obj"), (LoadVoxels, "3d/broken.vxz")):
        (home / "input" / name).write_bytes(b"nothing")
        with pytest.raises(ValueError, match="broken") as failed:
            node().load(name, 0)
        assert str(home) not in str(failed.value)


def test_a_change_of_content_is_seen(home):
    path = home / "input" / "a.obj"
    path.write_text(OBJ)
    first = LoadMesh.IS_CHANGED(file="a.obj", fit_unit_cube=True)
    os.utime(path, ns=(1, 1))
    assert LoadMesh.IS_CHANGED(file="a.obj") == first != ""
    path.write_text(OBJ.replace("v 1 0 0", "v 2 0 0"))
    assert LoadMesh.IS_CHANGED(file="a.obj") != first
    assert LoadMesh.IS_CHANGED(file="../secret.obj") == LoadMesh.IS_CHANGED(file=None) == ""


def textured_obj(folder, texture="red.png"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.obj").write_text("mtllib a.mtl\nusemtl m\n" + OBJ)
    (folder / "a.mtl").write_text(f"newmtl m\nKd 1 1 1\nmap_Kd -s 1 1 1 {texture}\n".replace("-s 1 1 1 ", ""))


def test_a_change_of_a_texture_is_seen(home):
    folder = home / "input" / "3d"
    textured_obj(folder)
    Image.new("RGB", (2, 2), (255, 0, 0)).save(folder / "red.png")
    assert [path.name for path in companions(folder / "a.obj")] == ["a.mtl", "red.png"]
    first = LoadMesh.IS_CHANGED(file="3d/a.obj")
    Image.new("RGB", (2, 3), (0, 255, 0)).save(folder / "red.png")
    assert LoadMesh.IS_CHANGED(file="3d/a.obj") != first


def gltf(folder, buffer, image=None):
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36}],
        "buffers": [{"uri": buffer, "byteLength": 36}],
    }
    (folder / "a.gltf").write_text(json.dumps(document))
    return folder / "a.gltf"


def test_a_mesh_reads_no_file_outside_its_folder(home):
    inside, numbers = home / "input" / "3d" / "kit", np.eye(3, dtype=np.float32).tobytes()
    path = gltf(inside, "data/points.bin")
    (inside / "data").mkdir()
    (inside / "data" / "points.bin").write_bytes(numbers)
    assert len(load_textured_mesh(path).mesh.faces) == 1
    assert [file.name for file in companions(path)] == ["points.bin"]
    (home / "outside.bin").write_bytes(numbers)
    (inside / "link.bin").symlink_to(home / "outside.bin")
    for name in ("../../../outside.bin", str(home / "outside.bin"), "link.bin", "..\\..\\..\\outside.bin", "a\0.bin"):
        path = gltf(inside, name)
        assert companions(path) == ()
        with pytest.raises(ValueError, match="expected a file in the folder of"):
            load_textured_mesh(path)
    Image.new("RGB", (2, 2), (255, 0, 0)).save(home / "red.png")
    textured_obj(inside, "../../../red.png")
    assert load_textured_mesh(inside / "a.obj").materials[0].base_color_texture is None


def test_what_a_file_lacks_is_said_on_the_node_and_in_the_log(home, caplog):
    (home / "input" / "a.obj").write_text("mtllib no.mtl\nusemtl cloth\n" + OBJ)
    shown = LoadMesh().load("a.obj", False)
    (line,) = shown["ui"]["text"]
    assert "no.mtl" in line
    assert f"a.obj: {line}" in caplog.text
    assert len(shown["result"][1].faces) == 1
    (home / "input" / "b.obj").write_text(OBJ)
    assert len(LoadMesh().load("b.obj", False)[1].faces) == 1


UNC = "\\\\server\\share\\x"


@pytest.mark.parametrize(
    "choice", ["../x", "a/../../x", "..\\x/*Q8_0.gguf", "/tmp/x", "C:\\x", "C:x", UNC, "a\0b", "", " "]
)
def test_models_stay_in_the_models_folder(choice):
    with pytest.raises(ValueError, match="inside ComfyUI's models folder"):
        host.model_source(choice)


@pytest.mark.parametrize(
    "prefix", ["../x", "3d/../../x", "..\\x", "/tmp/x", "C:\\x", "C:x", UNC, "link/x", "a\0b", "", "."]
)
@pytest.mark.parametrize("known", [True, False])
def test_saves_stay_in_the_output_folder(home, monkeypatch, prefix, known):
    (home / "output" / "link").symlink_to(home)
    if known:

        def refuse(*given):
            raise AssertionError("ComfyUI's own message holds the server's paths")

        places = SimpleNamespace(get_save_image_path=refuse)
        monkeypatch.setattr(host.comfyui, "module", {"folder_paths": places}.get)
    for save in (lambda: SaveGLB().save(TRIANGLE, prefix), lambda: SaveMesh().save(TRIANGLE, prefix, "stl")):
        with pytest.raises(ValueError, match="filename_prefix: expected a path inside ComfyUI's output") as refused:
            save()
        assert str(home) not in str(refused.value)


@pytest.mark.parametrize("save", [SaveGLB().save, lambda *given, **more: SaveMesh().save(*given, "glb", **more)])
def test_a_glb_carries_its_graph(home, monkeypatch, save):
    graph, canvas = {"1": {"class_type": "T2SaveGLB", "inputs": {}}}, {"nodes": [], "version": 0.4}
    plain, _ = save(TRIANGLE, "plain")["result"]
    name, _ = save(TRIANGLE, "with", prompt=graph, extra_pnginfo={"workflow": canvas, "more": 1})["result"]
    again, _ = save(TRIANGLE, "with", prompt=graph, extra_pnginfo={"workflow": canvas, "more": 1})["result"]
    extras = json_of(home / "output" / name)["asset"]["extras"]
    # Where ComfyUI's front end looks, in the form that core's Save GLB writes: text.
    assert {key: json.loads(value) for key, value in extras.items()} == {"prompt": graph, "workflow": canvas, "more": 1}
    assert (home / "output" / name).read_bytes() == (home / "output" / again).read_bytes()
    assert "extras" not in json_of(home / "output" / plain)["asset"]
    options = SimpleNamespace(args=SimpleNamespace(disable_metadata=True))
    monkeypatch.setattr(host.comfyui, "module", {"comfy.cli_args": options}.get)
    name, _ = save(TRIANGLE, "without", prompt=graph, extra_pnginfo={"workflow": canvas})["result"]
    assert (home / "output" / name).read_bytes() == (home / "output" / plain).read_bytes()


def test_save_then_load_in_one_graph(home):
    (home / "input" / "3d" / "a_00001_.stl").write_bytes(b"another file of the same name")
    name, file = SaveMesh().save(TRIANGLE, "3d/a", "stl")["result"]
    assert (name, file) == ("3d/a_00001_.stl", "3d/a_00001_.stl [output]")
    for given in (name, file):
        _, mesh = LoadMesh().load(host.NO_FILE, False, file_3d=given)
        assert torch.equal(mesh.vertices, TRIANGLE.vertices)
    with pytest.raises(ValueError, match="inside ComfyUI's"):
        LoadMesh().load(host.NO_FILE, False, file_3d="../secret.obj")


class File3D:
    """ComfyUI's File3D, as much of it as is used here."""

    def __init__(self, source, file_format=""):
        self.source, self.format = source, file_format or str(source).rsplit(".", 1)[-1]

    def get_source(self):
        return self.source


def test_file_3d_out_and_in(home, monkeypatch):
    api = SimpleNamespace(Types=SimpleNamespace(File3D=File3D))
    monkeypatch.setattr(host.comfyui, "module", {"comfy_api.latest": api}.get)
    for result in (
        SaveGLB().save(TRIANGLE, "a"),
        SaveMesh().save(TRIANGLE, "b", "glb"),
        PreviewMesh().preview(TRIANGLE),
    ):
        file = result["result"][-1]
        stream = File3D(BytesIO(Path(file.source).read_bytes()), "glb")
        for given in (file, stream):
            _, mesh = LoadMesh().load("absent.glb", False, given)
            torch.testing.assert_close(mesh.vertices, TRIANGLE.vertices)
    with pytest.raises(TypeError, match="file_3d: expected ComfyUI's FILE_3D or a file name, got int"):
        LoadMesh().load("absent.glb", False, 3)


def test_a_preview_goes_to_temp(home):
    found = PreviewMesh().preview(TRIANGLE)
    (shown,), (name, file) = found["ui"]["3d"], found["result"]
    assert shown["type"] == "temp" and name == file == f"{shown['filename']} [temp]"
    assert len(trimesh.load(home / "temp" / shown["filename"], force="mesh").faces) == 1
    assert host.input_path(name) == home / "temp" / shown["filename"]
    assert not list((home / "output").glob("*.glb"))
    assert PreviewMesh().preview(TRIANGLE)["result"] != found["result"]


def test_what_save_mesh_cannot_write_is_said_before_it_runs(home, monkeypatch):
    assert SaveMesh.VALIDATE_INPUTS("glb", "quantized", 1.0) is True
    assert SaveMesh.VALIDATE_INPUTS(None, None, None) is True
    assert SaveMesh.VALIDATE_INPUTS("fbx", "full", 0.0).startswith("format: expected one of glb, obj")
    assert SaveMesh.VALIDATE_INPUTS("glb", "tiny", 0.0).startswith("geometry: expected one of full")
    assert SaveMesh.VALIDATE_INPUTS("glb", "full", -1.0) == "max_mib: expected 0 to 4096, got -1.0"
    assert "max_mib: expected 0 for format stl" in SaveMesh.VALIDATE_INPUTS("stl", "full", 1.0)
    with pytest.raises(ValueError, match=r"max_mib: expected at least 0\.01 MiB.*, got 0\.0001"):
        SaveMesh().save(TRIANGLE, "a", "glb", max_mib=0.0001)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "comfyui_trellis2.nodes.files.meshes.find_spec", lambda name: None if name == "DracoPy" else found(name)
    )
    assert "quantized is the smallest" in SaveMesh.VALIDATE_INPUTS("glb", "draco", 0.0)
    assert SaveMesh.VALIDATE_INPUTS("stl", "draco", 0.0) is True
    with pytest.raises(ValueError, match="geometry: draco needs the package DracoPy"):
        SaveMesh().save(TRIANGLE, "draco", "glb", geometry="draco")
    assert not list((home / "output").rglob("*draco*"))
