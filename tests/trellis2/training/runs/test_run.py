"""A whole run: every stage, the packed checkpoint, and what it generates; and two cards against one."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.o_voxel.render.camera import Camera
from comfyui_trellis2.trellis2.checkpoint.config import PipelineConfig, parse
from comfyui_trellis2.trellis2.checkpoint.hub import FileSource
from comfyui_trellis2.trellis2.checkpoint.layouts import Folder
from comfyui_trellis2.trellis2.checkpoint.weights import read_metadata, read_tensors, save_weights
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded
from comfyui_trellis2.trellis2.sampling.flow_sampling import sample_structure_latent
from comfyui_trellis2.trellis2.training.data.latents import ENCODERS, LatentFolder
from comfyui_trellis2.trellis2.training.evaluation.evaluate import COLUMNS, Case, evaluate, means, table, write_rows
from comfyui_trellis2.trellis2.training.recipe import parse_recipe
from comfyui_trellis2.trellis2.training.runs import export as module
from comfyui_trellis2.trellis2.training.runs.encoding import EncodingSet, encode_objects
from comfyui_trellis2.trellis2.training.runs.export import pack
from comfyui_trellis2.trellis2.training.runs.run import Run
from comfyui_trellis2.trellis2.training.tasks import TASKS
from comfyui_trellis2.trellis2.values import EmptyOutputError, SparseStructure
from PIL import Image

NAMES = ("structure_vae", "shape_vae", "texture_vae", "structure_flow", "shape_flow", "texture_flow")
ROOT = Path(__file__).parents[4]
SIZE = {"image_size": 512, "views": 1}
STEPS = {"structure_vae": 20, "shape_vae": 15, "texture_vae": 12}
STEPS |= {"structure_flow": 10, "shape_flow": 5, "texture_flow": 5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, module_toy):
    """A run of every network: the VAEs at 64 voxels, the flows at 512."""
    toy_data, source, alone = module_toy
    data = toy_data(1)
    data["pipeline"] = {"default_pipeline_type": "512", "shape_slat_sampler": {"params": {"steps": 3}}}
    for name, steps in STEPS.items():
        data["stages"][name] |= {"steps": steps, "resolution": 512 if name.endswith("flow") else 64}
    folder = tmp_path_factory.mktemp("run")
    recipe, seen = parse_recipe(data, TASKS, "toy"), []
    run = Run.open(recipe, folder, alone, source=source)
    checkpoint = run.train(on_progress=lambda stage, fraction, metrics: seen.append((stage, fraction)))
    return recipe, folder, checkpoint, seen


def structure_of(example) -> SparseStructure:
    """The true one: so few steps teach the flow nothing that a structure could be read from."""
    coords = torch.unique(example.voxels.dual_grid.coords // 16, dim=0).to(torch.int32)
    return SparseStructure((coords,), 32, (((4, 8, 8, 8),),))


@pytest.mark.slow
def test_every_network_is_trained_and_packed_and_makes_a_mesh(trained, source):
    _, _, checkpoint, seen = trained
    assert [stage for stage, fraction in seen if fraction == 1 and stage in STEPS] == list(STEPS)
    pipeline, example = Pipeline.load(str(checkpoint), KeepLoaded("cpu")), source(0, resolution=512, **SIZE)
    condition = pipeline.condition([[Image.fromarray(example.images[0].numpy())]], resolution=512)
    with pipeline.model("sparse_structure_flow_model") as flow:
        noise = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
        sampler = pipeline.config.sparse_structure_sampler
        latent = sample_structure_latent(flow, noise, condition, sampler)
    assert bool(latent.isfinite().all()) and not torch.equal(latent, noise)
    shape = pipeline.sample_shape(condition, structure_of(example), seed=1)
    (asset,) = pipeline.decode(shape, pipeline.sample_texture(condition, shape, seed=1))
    assert len(asset.mesh.faces) > 100 and bool(asset.mesh.vertices.isfinite().all())
    # The toys stand in the middle third of the cube.
    assert asset.mesh.vertices[asset.mesh.faces.long()].abs().max() < 0.25
    # Both are as metallic as can be: the texture's network has learned that much.
    assert 0.6 < asset.field.attrs[:, 3].mean() < 1.4


@pytest.mark.slow
def test_the_checkpoint_holds_the_recipe_and_the_statistics(trained):
    recipe, folder, checkpoint, _ = trained
    pipeline = json.loads((checkpoint / "pipeline.json").read_text())["args"]
    assert set(pipeline["models"]) == set(recipe.networks) - {"image_encoder"}
    assert pipeline["shape_slat_sampler"]["params"]["steps"] == 3
    assert pipeline["shape_slat_sampler"]["params"]["rescale_t"] == 3.0  # the published one
    latents = LatentFolder.of(folder, ("shape", "texture"), 512)
    for key, role in (("shape", "shape_slat_normalization"), ("texture", "tex_slat_normalization")):
        tokens = torch.cat([latents(index).latents[key] for index in range(2)]).double()
        torch.testing.assert_close(torch.tensor(pipeline[role]["mean"]).double(), tokens.mean(0), rtol=1e-4, atol=1e-5)
        deviation = tokens.std(0, correction=0)
        torch.testing.assert_close(torch.tensor(pipeline[role]["std"]).double(), deviation, rtol=1e-3, atol=1e-3)
    dtypes = {value.dtype for file in checkpoint.rglob("*.safetensors") for value in read_tensors(file).values()}
    assert dtypes == {torch.float16}
    assert not list(folder.glob("*.partial"))


def test_what_is_finished_is_not_done_again(trained, source, alone):
    recipe, folder, checkpoint, _ = trained
    before, seen = {file: file.read_bytes() for file in checkpoint.rglob("*.safetensors")}, []
    run = Run.open(recipe, folder, alone, resume=True, source=source)
    assert run.train(on_progress=lambda *told: seen.append(told)) == checkpoint
    assert seen == []
    assert {file: file.read_bytes() for file in checkpoint.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_latents_of_other_encoders_or_another_source_are_made_again(toy, source, alone, tmp_path):
    recipe = toy(1, NAMES)
    run = Run.open(recipe, tmp_path / "run", alone, source=source)
    encoders = {name: run.network(role) for name, role in ENCODERS.items()}
    made = []

    def make(index):
        made.append(index)
        return source(index, resolution=64, image_size=32, views=1)

    latents = LatentFolder(tmp_path / "latents")
    dataset = EncodingSet(make, 2, "source")
    for _ in range(2):
        encode_objects(encoders, dataset, recipe.data, latents, alone)
    assert made == [0, 1]
    # A stage that has fewer objects leaves the statistics that another one learned with.
    before = latents.statistics()
    encode_objects(encoders, replace(dataset, objects=1), recipe.data, latents, alone)
    assert latents.statistics() == before
    with torch.no_grad():
        encoders["shape"].to_latent.bias += 1
    before = latents(0).latents
    encode_objects(encoders, dataset, recipe.data, latents, alone)
    assert made == [0, 1, 0, 1]
    after = latents(0).latents
    torch.testing.assert_close(after["shape"], before["shape"] + 1)
    assert all(torch.equal(after[name], before[name]) for name in ("texture", "structure", "coords"))
    # So are those of another source, and those of runs from before sources had fingerprints.
    encode_objects(encoders, replace(dataset, fingerprint="another"), recipe.data, latents, alone)
    assert made == [0, 1] * 3
    tensors = read_tensors(latents.path(0))
    save_weights(tensors, latents.path(0), {"encoders": read_metadata(latents.path(0))["encoders"]})
    encode_objects(encoders, replace(dataset, fingerprint="another"), recipe.data, latents, alone)
    assert made == [*[0, 1] * 3, 0]


@pytest.mark.slow
def test_what_a_base_on_the_hub_has_is_named_where_it_is(toy_data, tmp_path, monkeypatch, trained):
    published = json.loads(module.PUBLISHED.read_text())["pipeline"]
    (tmp_path / "pipeline.json").write_text(json.dumps(published))
    monkeypatch.setattr(module, "open_checkpoint", lambda source: Folder(FileSource.open(str(tmp_path), source)))
    data = toy_data(1, ["structure_vae"]) | {"networks": {}, "base": "microsoft/TRELLIS.2-4B"}
    checkpoint = pack(parse_recipe(data, TASKS, "toy"), tmp_path / "run", tmp_path / "checkpoint")
    packed = json.loads((checkpoint / "pipeline.json").read_text())["args"]
    assert packed["models"]["shape_slat_decoder"] == "microsoft/TRELLIS.2-4B/ckpts/shape_dec_next_dc_f16c32_fp16"
    decoder = "microsoft/TRELLIS-image-large/ckpts/ss_dec_conv3d_16l8_fp16"
    assert packed["models"]["sparse_structure_decoder"] == decoder
    del packed["models"], published["args"]["models"]
    ours, theirs = (parse(PipelineConfig, {"models": {}, **args}, "") for args in (packed, published["args"]))
    assert ours == theirs


@pytest.mark.slow
def test_a_checkpoint_is_tuned_further(trained, toy_data, source, alone, tmp_path):
    _, _, checkpoint, _ = trained
    data = toy_data(1, ["texture_vae", "shape_flow"]) | {"networks": {}, "base": str(checkpoint)}
    data["stages"]["texture_vae"]["learning_rate"] = 1e-9
    data["stages"]["shape_flow"]["resolution"] = 512
    recipe = parse_recipe(data, TASKS, "toy")
    tuned = Run.open(recipe, tmp_path / "run", alone, source=source).train()
    assert sorted(f.name for f in (tmp_path / "run/networks").glob("*.json")) == [
        "shape_slat_flow_model_512.json",
        "tex_slat_decoder.json",
        "tex_slat_encoder.json",
    ]
    for name in ("tex_slat_decoder", "sparse_structure_decoder", "shape_slat_flow_model_512"):
        start, end = (read_tensors(folder / f"ckpts/{name}.safetensors") for folder in (checkpoint, tuned))
        for key, value in start.items():
            torch.testing.assert_close(end[key], value, atol=1e-2, rtol=1e-2)
    before, after = (json.loads((folder / "pipeline.json").read_text())["args"] for folder in (checkpoint, tuned))
    assert before["shape_slat_normalization"] == after["shape_slat_normalization"]
    assert before["tex_slat_normalization"] != after["tex_slat_normalization"]
    assert Pipeline.load(str(tuned)).checkpoint.load_model("image_encoder").config.hidden_size == 32


@pytest.mark.slow
def test_an_image_encoder_that_is_tuned_keeps_its_description(trained, toy_data, source, alone, tmp_path):
    _, _, checkpoint, _ = trained
    data = toy_data(1, ["structure_flow"]) | {"networks": {}, "base": str(checkpoint)}
    data["stages"]["structure_flow"]["train_image_encoder"] = True
    tuned = Run.open(parse_recipe(data, TASKS, "toy"), tmp_path / "run", alone, source=source).train()
    assert (tmp_path / "run/networks/image_encoder/model.safetensors").exists()
    before, after = ((folder / "image_encoder/config.json").read_text() for folder in (checkpoint, tuned))
    assert json.loads(before) == json.loads(after)
    assert Pipeline.load(str(tuned)).checkpoint.load_model("image_encoder").config.hidden_size == 32


@pytest.mark.slow
def test_an_evaluation_prints_its_table(trained, source, tmp_path, monkeypatch):
    pipeline = Pipeline.load(str(trained[2]), KeepLoaded("cpu"))
    truth = structure_of(source(1, resolution=512, **SIZE))
    monkeypatch.setattr(pipeline, "sample_structure", lambda *args, **kwargs: truth)

    def case():
        example = source(1, resolution=512, **SIZE)
        return Case("box/1", Image.fromarray(example.images[0].numpy()), example.voxels, Camera(30, 20))

    rows = evaluate(pipeline, [case], steps=2)
    (row,) = rows
    assert row["structure_iou"] == 1 and 0 < row["f_score"] <= 1 and 0 < row["vae_f_score"] <= 1
    assert 0 < row["delta_e"] < 200
    text = table(rows)
    assert all(title in text for title, _, _ in COLUMNS.values()) and "box" in text and "0 could not be made" in text
    assert means(rows) == pytest.approx({key: row[key] for key in COLUMNS}, nan_ok=True)
    write_rows(tmp_path / "rows.csv", rows)
    assert (tmp_path / "rows.csv").read_text().startswith("name,camera,structure_iou,f_score,delta_e,vae_f_score,open")


@pytest.mark.slow
def test_what_cannot_be_made_scores_nothing(trained, source, monkeypatch):
    pipeline = Pipeline.load(str(trained[2]), KeepLoaded("cpu"))

    def refuse(*args, **kwargs):
        raise EmptyOutputError("empty structure for object 0")

    monkeypatch.setattr(pipeline, "sample_structure", refuse)
    example = source(0, resolution=512, **SIZE)
    case = Case("ball/0", Image.fromarray(example.images[0].numpy()), example.voxels, Camera())
    (row,) = evaluate(pipeline, [lambda: case])
    assert row["structure_iou"] == row["f_score"] == 0 and row["problem"] == "empty structure for object 0"
    assert "of which 1 could not be made" in table([row])


@pytest.mark.slow
def test_an_empty_structure_has_an_error_of_its_own(pipeline, monkeypatch):
    condition = pipeline.condition([[Image.new("RGB", (64, 64), (200, 0, 0))]], resolution=512)

    def nothing(logits, resolution):
        return [torch.zeros(0, 3, dtype=torch.int32)] * len(logits)

    monkeypatch.setattr("comfyui_trellis2.trellis2.sampling.stages.occupied_voxels", nothing)
    sampler = replace(pipeline.config.sparse_structure_sampler.params, steps=1)
    sampler = replace(pipeline.config.sparse_structure_sampler, params=sampler)
    with pytest.raises(EmptyOutputError, match="empty structure for object 0"):
        pipeline.sample_structure(condition, seed=0, resolution=32, sampler=sampler)


def test_an_error_that_is_not_the_models_ends_the_evaluation(pipeline, source, monkeypatch):
    """Counted as a score of 0 it would falsify the means unnoticed."""

    def fail(*args, **kwargs):
        raise ValueError("tokens_512: expected 4 dimensions, got 3")

    monkeypatch.setattr(pipeline, "sample_structure", fail)
    example = source(0, resolution=64, **SIZE)
    case = Case("ball/0", Image.fromarray(example.images[0].numpy()), example.voxels, Camera())
    with pytest.raises(ValueError, match="tokens_512"):
        evaluate(pipeline, [lambda: case])


TWO_CARDS = """
import importlib.util, json, sys
from pathlib import Path
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
def load(name, file, **places):
    spec = importlib.util.spec_from_file_location(name, file, **places)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
load("comfyui_trellis2", root / "__init__.py", submodule_search_locations=[str(root)])
toys = load("toys", root / "tests/trellis2/training/conftest.py")
from comfyui_trellis2.trellis2.training.loop.distributed import init_distributed
from comfyui_trellis2.trellis2.training.recipe import parse_recipe
from comfyui_trellis2.trellis2.training.runs.run import Run
from comfyui_trellis2.trellis2.training.tasks import TASKS
recipe = parse_recipe(json.loads((folder / "two.json").read_text()), TASKS, "two")
with init_distributed("cpu") as context:
    assert context.world_size == 2
    Run.open(recipe, folder / "two", context, source=toys.SOURCE).train()
"""


@pytest.mark.slow
def test_two_cards_give_the_losses_of_one(toy_data, source, alone, tmp_path):
    data = toy_data(3, ["structure_vae"], {"structure": 16})
    (tmp_path / "two.json").write_text(json.dumps(data))
    (tmp_path / "two.py").write_text(TWO_CARDS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "two.py", str(ROOT), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    Run.open(parse_recipe(data, TASKS, "one"), tmp_path / "one", alone, source=source).train()
    for stage in data["stages"]:
        tables = []
        for name in ("one", "two"):
            with (tmp_path / name / stage / "metrics.csv").open(newline="") as file:
                tables.append([float(row["loss"]) for row in csv.DictReader(file)])
        assert tables[0] == pytest.approx(tables[1], rel=1e-3) and len(tables[0]) == 3
    files = [read_tensors(tmp_path / name / "networks/sparse_structure_decoder.safetensors") for name in ("one", "two")]
    for key, value in files[0].items():
        torch.testing.assert_close(files[1][key], value, atol=2e-3, rtol=1e-2)
