"""The VAEs alone: every part put together, with untrained networks; and the scanned figure that they are shown."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.voxels.from_mesh import fitted, voxelize
from comfyui_trellis2.trellis2.checkpoint.hub import MissingFileError
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded
from comfyui_trellis2.trellis2.training.recipe import parse_recipe
from comfyui_trellis2.trellis2.training.runs.run import Run
from comfyui_trellis2.trellis2.training.tasks import TASKS
from PIL import Image


@pytest.fixture(scope="module")
def surfaces():
    """The module of the benches that makes test surfaces."""
    path = Path(__file__).resolve().parents[2] / "bench" / "surfaces.py"
    spec = importlib.util.spec_from_file_location("surfaces", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["surfaces"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scanned(surfaces, tmp_path_factory):
    return save_mesh(tmp_path_factory.mktemp("scan") / "scan.glb", surfaces.scan(48)).path


@pytest.fixture(scope="module")
def checkpoint(module_toy, tmp_path_factory):
    """A few steps of the two VAEs of the toy recipe."""
    toy_data, source, alone = module_toy
    recipe = parse_recipe(toy_data(15, ("shape_vae", "texture_vae")), TASKS, "toy")
    return Run.open(recipe, tmp_path_factory.mktemp("run"), alone, source=source).train()


def test_the_scan_is_a_figure_of_many_colours(surfaces):
    first, second = surfaces.scan(48), surfaces.scan(48)
    assert torch.equal(first.mesh.vertices, second.mesh.vertices)
    assert torch.equal(first.vertex_colors, second.vertex_colors)
    assert 0.7 < float((first.mesh.vertices.amax(0) - first.mesh.vertices.amin(0)).max()) < 1
    red, green, blue, _ = first.vertex_colors.unbind(1)
    for share in ((red > 3 * green), (red + green + blue < 0.6), (red > 1.15 * blue)):  # cloth, eyes, ears
        assert 0.002 < share.float().mean() < 0.5


@pytest.mark.slow
def test_latents_are_the_encoders_means_and_decode_to_an_asset(checkpoint, source):
    pipeline = Pipeline.load(str(checkpoint), KeepLoaded("cpu"))
    voxels = source(1, resolution=64, image_size=512, views=1).voxels
    shape, texture = pipeline.encode(voxels)
    assert shape.resolutions == texture.resolutions == (64,)
    cells = torch.unique(voxels.dual_grid.coords // 16, dim=0)
    assert torch.equal(torch.unique(shape.slat.coords.voxels, dim=0), cells)
    assert torch.equal(shape.slat.coords.voxels, texture.slat.coords.voxels)
    asset, again = pipeline.reconstruct(voxels), pipeline.reconstruct(voxels)
    assert torch.equal(asset.mesh.vertices, again.mesh.vertices) and torch.equal(asset.field.attrs, again.field.attrs)
    assert len(asset.mesh.faces) and asset.field.grid.shape == (64, 64, 64)
    assert pipeline.encode(type(voxels)(voxels.dual_grid))[1] is None


@pytest.mark.slow
def test_a_scan_is_rebuilt_and_shown(checkpoint, scanned, tmp_path, capsys):
    out, picture = tmp_path / "out.glb", tmp_path / "out.png"
    options = ["--resolution", "64", "--size", "40", "--device", "cpu", "--picture", str(picture)]
    assert main(["reconstruct", str(checkpoint), str(scanned), "-o", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert "F-score at 0.5% of the cube: 0." in said and "F-score at 2.0% of the cube: 0." in said
    assert len(load_textured_mesh(out).mesh.faces) > 0
    shown = np.asarray(Image.open(picture))
    assert shown.shape == (80, 160, 3)
    assert shown[:40].std() > 10, "the original is drawn"


def test_a_checkpoint_without_encoders_says_so(tiny, scanned):
    pipeline = Pipeline.load(str(tiny), KeepLoaded("cpu"))
    voxels = voxelize(fitted(load_textured_mesh(scanned)), Grid.cube(32))
    with pytest.raises(MissingFileError, match=r"_slat_encoder: pipeline\.json has no such model"):
        pipeline.reconstruct(voxels)
