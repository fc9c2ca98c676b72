"""The checkpoint that comes with the pack: found, and put to the demo's use."""

import pytest
import torch
from comfyui_trellis2 import install
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.trellis2.checkpoint import builtin
from comfyui_trellis2.trellis2.checkpoint.builtin import find_built_in
from comfyui_trellis2.trellis2.checkpoint.layouts import Checkpoint
from comfyui_trellis2.trellis2.cli.main import main

weights = pytest.mark.skipif(find_built_in() is None, reason="the built-in checkpoint's weights are not in this tree")
BYTES = 41_000_000


def test_it_is_where_there_is_a_pipeline(tmp_path):
    assert find_built_in(tmp_path) is None
    (tmp_path / builtin.RELATIVE_PATH).mkdir(parents=True)
    assert find_built_in(tmp_path) is None
    (tmp_path / builtin.RELATIVE_PATH / "pipeline.json").touch()
    assert find_built_in(tmp_path) == tmp_path / builtin.RELATIVE_PATH


@pytest.mark.slow
def test_its_name_opens_it_unless_there_is_a_folder_of_that_name(tiny, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("comfyui_trellis2.trellis2.checkpoint.layouts.built_in", lambda: asked.append(1) or tiny)
    monkeypatch.chdir(tmp_path)
    assert Checkpoint.open("mini").config == Checkpoint.open(str(tiny)).config
    (tmp_path / "mini").symlink_to(tiny, target_is_directory=True)
    assert Checkpoint.open("mini").config == Checkpoint.open(str(tiny)).config
    assert asked == [1]


@weights
def test_it_is_complete_and_small():
    files = [file for file in find_built_in().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= BYTES
    checkpoint = Checkpoint.open("mini")
    assert (find_built_in() / "README.md").is_file()
    for role in (*checkpoint.config.models, "image_encoder"):
        assert all(file.is_relative_to(find_built_in()) for file in checkpoint.layout.files(role))


@pytest.mark.slow
@weights
def test_the_demo_makes_a_textured_object_of_its_picture(tmp_path):
    out = tmp_path / "demo.glb"
    picture = str(builtin.ROOT / install.DEMO_IMAGE)
    options = ["--model", "mini", *install.DEMO_OPTIONS, "--device", "cpu", "--steps", "5"]
    assert main(["generate", picture, "-o", str(out), *options]) == 0
    asset = load_textured_mesh(out)
    corners = asset.mesh.vertices[asset.mesh.faces.long()].view(-1, 3)
    assert len(asset.mesh.faces) > 1000
    # Objects fill the cube along their longest side, as those that it learned from.
    assert 0.8 < float((corners.amax(0) - corners.amin(0)).max()) <= 1.01
    assert corners.abs().max() <= 0.51
    (material,) = asset.materials
    texels = material.base_color_texture.image.float()
    seen = texels[texels.sum(-1) > 0]
    assert torch.stack([seen.quantile(q, 0) for q in (0.05, 0.95)]).diff(dim=0).max() > 10, "one flat colour"
