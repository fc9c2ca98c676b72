"""The loop: it learns, goes on after a kill as if nothing had been, averages, and writes what it did."""

import csv
import math
from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.config import ConfigError
from comfyui_trellis2.trellis2.training.data.dataset import Source
from comfyui_trellis2.trellis2.training.data.latents import ENCODERS, LatentFolder
from comfyui_trellis2.trellis2.training.loop.state import EMA, saved_step
from comfyui_trellis2.trellis2.training.loop.trainer import TrainingError, learning_rate
from comfyui_trellis2.trellis2.training.recipe import StageConfig
from comfyui_trellis2.trellis2.training.runs.encoding import collate_objects, encode
from comfyui_trellis2.trellis2.training.runs.initialize import initialize
from comfyui_trellis2.trellis2.training.runs.networks import make_trainable, new_network
from comfyui_trellis2.trellis2.training.runs.run import Run
from comfyui_trellis2.trellis2.training.tasks.flows import repeated
from torch.nn import functional as F


class Killed(Exception):
    pass


def rows(folder, stage):
    with (folder / stage / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def without_time(table):
    return [{key: value for key, value in row.items() if key not in ("seconds", "waiting")} for row in table]


# Steps, and the factor by which the loss of two objects falls at least.
LEARNS = {"structure_vae": (20, 1.4), "shape_vae": (15, 1.3), "texture_vae": (15, 8)}


@pytest.mark.slow
@pytest.mark.parametrize("stage", LEARNS)
def test_a_vae_learns_two_objects(toy, source, alone, tmp_path, stage):
    steps, factor = LEARNS[stage]
    Run.open(toy(steps, [stage], {"structure": 16}, resolution=32), tmp_path, alone, source=source).train()
    table = rows(tmp_path, stage)
    assert table[-1]["loss"] * factor < table[0]["loss"]
    assert [row["step"] for row in table] == list(range(1, steps + 1))
    assert all(row["gradient_norm"] > 0 for row in table)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_exactly(toy, source, alone, tmp_path):
    recipe = toy(6, ["texture_vae"], save_every=2)
    Run.open(recipe, tmp_path / "whole", alone, source=source).train()

    def killer(stage, fraction, metrics):
        if fraction > 0.8:  # after step 5, whose state is not saved
            raise Killed

    with pytest.raises(Killed):
        Run.open(recipe, tmp_path / "killed", alone, source=source).train(on_progress=killer)
    assert saved_step(tmp_path / "killed/texture_vae/state.safetensors") == 4
    assert len(rows(tmp_path / "killed", "texture_vae")) == 5
    with pytest.raises(ConfigError, match="a run is there already"):
        Run.open(recipe, tmp_path / "killed", alone, source=source)
    Run.open(recipe, tmp_path / "killed", alone, resume=True, source=source).train()
    whole, killed = (without_time(rows(tmp_path / name, "texture_vae")) for name in ("whole", "killed"))
    assert whole == killed and len(whole) == 6
    files = [(tmp_path / name / "networks/tex_slat_decoder.safetensors").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_parts_of_a_batch_give_the_same_losses(toy, source, alone, tmp_path):
    for micro_batch in (2, 1):
        recipe = toy(3, ["texture_vae"], micro_batch=micro_batch)
        Run.open(recipe, tmp_path / str(micro_batch), alone, source=source).train()
    whole, parts = (rows(tmp_path / name, "texture_vae") for name in ("2", "1"))
    for a, b in zip(whole, parts, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)


@pytest.mark.slow
def test_another_recipe_does_not_go_on(toy, source, alone, tmp_path):
    Run.open(toy(4, ["structure_vae"]), tmp_path, alone, source=source)
    # A stage that has not begun may still change.
    Run.open(toy(2, ["structure_vae"]), tmp_path, alone, resume=True, source=source).train()
    with pytest.raises(ConfigError, match=r"other values of \['stages\.structure_vae\.steps'\]"):
        Run.open(toy(3, ["structure_vae"]), tmp_path, alone, resume=True, source=source)
    Run.open(toy(2, ["structure_vae"], {"workers": 5}), tmp_path, alone, resume=True, source=source)


def test_terms_and_stages_that_are_not_there(toy, source, alone, tmp_path):
    with pytest.raises(ConfigError, match=r"expected terms among \['materials', 'squared', 'kl'\], got \['color'\]"):
        Run.open(toy(2, ["texture_vae"], weights={"color": 1}), tmp_path / "a", alone, source=source)
    with pytest.raises(ConfigError, match="the stage shape_flow needs a number of objects"):
        Run.open(toy(2, ["shape_flow"], {"objects": 0}), tmp_path / "b", alone, source=source)
    with pytest.raises(ConfigError, match=r"stage: expected some of \['texture_vae'\], got \['shape_vae'\]"):
        Run.open(toy(2, ["texture_vae"]), tmp_path / "c", alone, source=source).train(["shape_vae"])


def test_a_loss_that_is_no_number_stops_the_run(toy, source, alone, tmp_path):
    recipe = toy(3, ["texture_vae"])
    stage = replace(recipe.stages["texture_vae"], weights={"kl": float("nan")})  # a recipe's file would be refused
    recipe = replace(recipe, stages={"texture_vae": stage})
    with pytest.raises(TrainingError, match="step 1: a loss is not finite"):
        Run.open(recipe, tmp_path, alone, source=source).train()


def test_the_learning_rate_rises_and_falls():
    stage = StageConfig(task="shape_vae", steps=110, batch=1, learning_rate=2.0, warmup=10, final_rate=0.1)
    rates = [learning_rate(stage, step) for step in range(111)]
    assert rates[:10] == pytest.approx([0.2 * (k + 1) for k in range(10)])
    assert rates[10] == 2.0 and rates[60] == pytest.approx(1.1) and rates[110] == pytest.approx(0.2)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_the_average_follows_its_formula():
    layer = torch.nn.Linear(3, 2)
    average, decay = EMA(layer, 0.9), 0.9
    expected = layer.weight.detach().clone().double()
    for step in range(30):
        with torch.no_grad():
            layer.weight += step
        average.update(step)
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * layer.weight.detach().double()
    torch.testing.assert_close(average.values["weight"].double(), expected, rtol=1e-5, atol=1e-4)
    average.copy_to_module()
    assert torch.equal(layer.weight.detach(), average.values["weight"])


def test_new_networks_start_near_the_identity(toy_data):
    networks = toy_data(1)["networks"]
    for role, description in networks.items():
        model = make_trainable(new_network(role, description, "cpu"))
        initialize(model, torch.Generator().manual_seed(0))
        assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()), role
        weights = [p for p in model.parameters() if p.ndim > 1 and bool(p.any())]
        assert weights and all(p.std() < 1.5 for p in weights), role
        assert math.isclose(sum(p.requires_grad for p in model.parameters()), len(list(model.parameters())), abs_tol=3)


@pytest.mark.slow
def test_coarse_pictures_leave_the_encoder_blind_to_detail(toy, source, alone, tmp_path):
    recipe = toy(3, ["structure_vae", "structure_flow"], {"picture": 128}, resolution=64)
    sizes = []

    def recorded(index, **size):
        sizes.append(size["image_size"])
        return source(index, **size)

    seen = Source(recorded, "toy")

    run = Run.open(recipe, tmp_path, alone, source=seen)
    before = run.network("image_encoder").embeddings.patch_embeddings.weight.detach().clone()
    run.train()
    assert set(sizes) == {128}
    encoder = run.network("image_encoder").eval()
    weight = encoder.embeddings.patch_embeddings.weight.detach()
    means = F.avg_pool2d(before, 4)
    assert not torch.allclose(F.avg_pool2d(weight, 4), means, atol=1e-5)  # it has learned
    sharp = torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    dull = repeated(F.avg_pool2d(sharp, 4), 4)
    with torch.no_grad():
        torch.testing.assert_close(encoder(sharp), encoder(dull), atol=1e-4, rtol=1e-4)


def test_a_picture_that_does_not_divide_what_the_encoder_sees(toy):
    with pytest.raises(ConfigError, match=r"data\.picture: expected a divisor of 512, got 100"):
        toy(1, ["structure_flow"], {"picture": 100})


def test_stages_have_objects_and_pictures_of_their_own(toy, source, alone, tmp_path):
    recipe = toy(1, ["structure_vae", "structure_flow"], {"cache": str(tmp_path / "cache")}, resolution=64)
    flow = replace(recipe.stages["structure_flow"], objects=5, views=3)
    recipe = replace(recipe, stages={**recipe.stages, "structure_flow": flow})
    run = Run.open(recipe, tmp_path / "run", alone, source=source)
    run.make_objects(["structure_flow"])
    assert len(list((tmp_path / "cache/toy/64-structure/512x3").glob("*.safetensors"))) == 5
    run.make_latents(["structure_flow"])
    folder = tmp_path / "run/latents_64/structure"
    assert len(list(folder.glob("*.safetensors"))) == 5
    assert set(LatentFolder(folder)(4).latents) == {"structure", "support"} and len(LatentFolder(folder)(4).images) == 3


def test_flows_begin_on_the_first_objects(toy, source, alone, tmp_path):
    recipe = toy(2, ["structure_flow", "texture_flow"], {"objects": 3, "first": 1, "picture": 64}, resolution=32)
    run = Run.open(recipe, tmp_path, alone, source=source)
    run.train()
    for stage in ("structure_flow", "texture_flow"):
        assert all(1 <= row["objects"] <= 3 and row["waiting"] >= 0 for row in rows(tmp_path, stage))
    # They are in memory alone; the normalisation is that of the first.
    assert not list(tmp_path.glob("latents_*/**/*.safetensors"))
    statistics = LatentFolder.of(tmp_path, ("shape", "texture"), 32).statistics()
    encoder = run.network(ENCODERS["texture"])
    example = source(0, resolution=32, image_size=64, views=1)
    batch = collate_objects(("texture",), 32, [(example, 0)])
    latent = encode({"texture": encoder}, batch, alone.device)[0].latents["texture"]
    torch.testing.assert_close(torch.tensor(statistics["texture"].mean), latent.mean(0), atol=1e-4, rtol=1e-4)
