"""Stages beside each other: what waits for what, and that the result is that of one after the other."""

import json
import subprocess

import pytest
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.training.recipe import load_recipe, parse_recipe
from comfyui_trellis2.trellis2.training.runs.concurrent_stages import plan_jobs
from comfyui_trellis2.trellis2.training.tasks import TASKS


def needs(recipe, finished=()):
    return {job.name: set(job.needs) for job in plan_jobs(recipe, finished)}


def test_what_waits_for_what():
    found = needs(load_recipe("mini", TASKS))
    assert found["structure_vae"] == found["shape_vae"] == found["texture_vae"] == set()
    assert found["latents of structure_flow"] == {"structure_vae", "objects of structure_flow"}
    assert found["structure_flow"] == {"latents of structure_flow"}
    assert found["shape_vae_fine"] == {"shape_vae"}
    # The picture's encoder is the structure flow's, as last trained; and the two fill one folder, one after the other.
    assert found["shape_flow"] == {"latents of shape_flow", "structure_flow"}
    assert found["latents of shape_flow"] == {"shape_vae_fine", "texture_vae_fine", "objects of shape_flow"}
    assert found["latents of texture_flow"] > {"latents of shape_flow"}
    assert found["structure_flow_longer"] >= {"structure_flow", "latents of structure_flow_longer"}
    order = list(found)
    assert all(order.index(before) < order.index(name) for name in order for before in found[name])


def test_what_is_finished_is_not_waited_for():
    finished = ["structure_vae", "structure_flow", "shape_vae", "texture_vae"]
    found = needs(load_recipe("mini", TASKS), [*finished, "shape_vae_fine", "texture_vae_fine"])
    assert found["shape_flow"] == {"latents of shape_flow"}
    assert found["latents of shape_flow"] == {"objects of shape_flow"}
    assert "structure_vae" not in found and "objects of structure_flow" not in found


def test_a_stage_waits_for_those_that_need_what_it_changes(toy_data, toy):
    recipe = toy(1)
    again = {**recipe.to_json(), "networks": toy_data(1)["networks"]}
    again["stages"]["encoder_again"] = {**again["stages"]["structure_flow"], "task": "structure_flow"}
    found = needs(parse_recipe(again, TASKS, "toy"))
    assert found["encoder_again"] >= {"structure_flow", "shape_flow", "texture_flow"}
    again["stages"]["vae_again"] = {**again["stages"]["shape_vae"], "task": "shape_vae"}
    assert needs(parse_recipe(again, TASKS, "toy"))["vae_again"] >= {"shape_vae", "shape_flow", "texture_flow"}


def test_objects_are_made_once():
    found = needs(load_recipe("mini", TASKS))
    # Flows of the same objects share them; one that needs more has more made.
    assert "objects of texture_flow" not in found
    assert found["latents of texture_flow"] >= {"objects of shape_flow"}
    assert found["latents of structure_flow"] == {"structure_vae", "objects of structure_flow"}
    assert found["latents of structure_flow_longer"] >= {"objects of structure_flow_longer"}


def test_flows_that_begin_on_the_first_objects_wait_for_encoders_alone():
    found = needs(load_recipe("mini", TASKS, ["data.first=512"]))
    assert not any(name.startswith(("objects", "latents")) for name in found)
    assert found["structure_flow"] == {"structure_vae"}
    assert found["shape_flow"] == {"structure_flow", "shape_vae_fine", "texture_vae_fine"}


@pytest.fixture
def recipe(toy_data, meshes, tmp_path):
    data = {"source": str(meshes), "cache": str(tmp_path / "objects"), "objects": 2, "structure": 16}
    recipe = toy_data(2, ["structure_vae", "texture_vae", "structure_flow"], data, resolution=32)
    recipe["networks"]["sparse_structure_flow_model"]["args"]["resolution"] = 4
    (tmp_path / "toy.json").write_text(json.dumps(recipe), encoding="utf-8")
    return tmp_path / "toy.json"


@pytest.fixture
def train(program, tmp_path):
    """`trellis2 train toy.json -o ...` as another process."""
    start = [*program, "train", "toy.json", "-o"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False, "timeout": 300}
    return lambda *arguments: subprocess.run([*start, *arguments], **options)


@pytest.mark.slow
def test_two_at_once_make_what_one_makes(recipe, train, tmp_path):
    done = train("both", "--beside", "cpu,cpu")
    assert done.returncode == 0, done.stderr
    assert main(["train", str(recipe), "-o", str(tmp_path / "alone"), "--device", "cpu"]) == 0
    files = sorted(file.relative_to(tmp_path / "alone") for file in (tmp_path / "alone/checkpoint").rglob("*.*"))
    assert len(files) > 8
    for file in files:
        assert (tmp_path / "both" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes(), file


@pytest.mark.slow
def test_a_process_that_fails_stops_the_run(recipe, meshes, train):
    (meshes / "tetrahedron.obj").write_text("v 0 0 0\n", encoding="utf-8")
    done = train("run", "--beside", "cpu")
    assert done.returncode == 1
    assert "its process ended with code 1" in done.stderr.splitlines()[-1]
