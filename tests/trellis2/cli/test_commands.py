"""The commands on files: mesh to asset, to picture."""

import numpy as np
import pytest
import trimesh
from comfyui_trellis2.o_voxel import asset as asset_module
from comfyui_trellis2.o_voxel.asset import PRESETS
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.trellis2.cli import meshes
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.training.world import make_object
from PIL import Image


@pytest.fixture(scope="module")
def mug(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "mug.glb"
    save_mesh(path, make_object("mug", 1))
    return path


@pytest.mark.slow
def test_a_mesh_becomes_an_asset_and_a_picture(mug, tmp_path, capsys):
    light, picture = tmp_path / "light.glb", tmp_path / "light.png"
    options = [
        "--preset",
        "preview",
        "--faces",
        "800",
        "--texture-size",
        "256",
        "--resolution",
        "64",
        "--device",
        "cpu",
    ]
    assert main(["asset", str(mug), "-o", str(light), *options]) == 0
    assert "triangles" in capsys.readouterr().out
    loaded = load_textured_mesh(light)
    assert len(loaded.mesh.faces) <= 800
    assert loaded.materials[0].base_color_texture.image.shape == (256, 256, 3)
    assert main(["render", str(light), "-o", str(picture), "--size", "64"]) == 0
    assert main(["render", str(mug), "-o", str(tmp_path / "mug.png"), "--size", "64"]) == 0
    ours, original = (
        np.asarray(Image.open(tmp_path / name).convert("RGB"), np.float32) for name in ("light.png", "mug.png")
    )
    assert ours.std() > 10
    assert np.abs(ours - original)[:64].mean() < 6


@pytest.mark.slow
def test_an_asset_for_an_engine(mug, tmp_path, capsys):
    small = ["--preset", "preview", "--faces", "400", "--texture-size", "64", "--resolution", "48", "--device", "cpu"]
    engine = ["--lods", "2", "--lod-ratio", "0.25", "--collision", "1", "--pivot", "base", "--directx-normals"]
    assert main(["asset", str(mug), "-o", str(tmp_path / "mug.glb"), *small, *engine]) == 0
    said = capsys.readouterr().out
    found = {path.stem: load_textured_mesh(path) for path in tmp_path.glob("*.glb")}
    assert set(found) == {"mug_lod0", "mug_lod1", "mug_collision"}
    assert all(name in said for name in found)
    assert len(found["mug_lod1"].mesh.faces) < len(found["mug_lod0"].mesh.faces)
    assert float(found["mug_lod0"].mesh.vertices[:, 2].min()) == pytest.approx(0.0, abs=1e-5)
    assert main(["asset", str(mug), "-o", str(tmp_path / "one.glb"), *small, *engine, "--one-file"]) == 0
    assert (tmp_path / "one.glb").is_file()


def test_parts_that_are_left_out_are_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(asset_module, "simplify", lambda mesh, faces, progress: mesh)
    rings = [trimesh.creation.torus(0.1, 0.03, 24, 12).apply_translation((x, 0, 0)) for x in (-0.3, 0.0, 0.3)]
    trimesh.util.concatenate(rings).export(tmp_path / "rings.glb")
    options = ["--faces", "40", "--texture-size", "0", "--resolution", "64", "--device", "cpu"]
    assert main(["asset", str(tmp_path / "rings.glb"), "-o", str(tmp_path / "light.glb"), *options]) == 0
    assert "2 of 3 parts" in capsys.readouterr().out


def test_the_presets_are_those_of_the_library():
    import argparse

    parser = argparse.ArgumentParser()
    meshes.add_asset_options(parser, None, "help")
    (action,) = (action for action in parser._actions if action.dest == "preset")
    assert tuple(action.choices) == tuple(PRESETS)


def test_a_message_and_no_traceback(tmp_path, capsys):
    assert main(["asset", str(tmp_path / "absent.glb"), "-o", str(tmp_path / "out.glb")]) == 1
    assert "absent.glb: no such file" in capsys.readouterr().err
