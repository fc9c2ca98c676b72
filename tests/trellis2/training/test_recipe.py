"""Recipes: what is read, what is refused, and what --set changes."""

import json

import pytest
from comfyui_trellis2.trellis2.checkpoint.config import ConfigError
from comfyui_trellis2.trellis2.projection.blocks import block_channels
from comfyui_trellis2.trellis2.projection.framing import CROP
from comfyui_trellis2.trellis2.training.recipe import RECIPES, load_recipe, parse_recipe
from comfyui_trellis2.trellis2.training.tasks import TASKS


@pytest.fixture
def data(toy_data):
    return toy_data(5)


def test_what_it_reads_it_writes(data):
    recipe = parse_recipe(data, TASKS, "toy")
    assert parse_recipe(recipe.to_json(), TASKS, "again").to_json() == recipe.to_json()
    assert recipe.stages["shape_vae"].task == "shape_vae" and recipe.stages["shape_vae"].steps == 5


@pytest.mark.parametrize(
    "path, message",
    [
        (("learning",), r"toy: unknown keys \['learning'\]"),
        (("data", "folder"), r"toy\.data: unknown keys \['folder'\]"),
        (("stages", "shape_vae", "lr"), r"toy\.stages\.shape_vae: unknown keys \['lr'\]"),
    ],
)
def test_an_unknown_key(data, path, message):
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = 1
    with pytest.raises(ConfigError, match=message):
        parse_recipe(data, TASKS, "toy")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": 0}, "at least 1"),
        ({"resolution": 100}, "multiple of 16, got 100"),
        ({"ema": 1.0}, "drop_condition, guess_camera, ema"),
        ({"task": "everything"}, r"task: expected one of .*, got 'everything'"),
    ],
)
def test_values_that_cannot_be(data, change, message):
    data["stages"]["shape_vae"] |= change
    with pytest.raises(ConfigError, match=message):
        parse_recipe(data, TASKS, "toy")


def test_a_stage_without_its_networks(data):
    del data["networks"]["shape_slat_decoder"]
    with pytest.raises(ConfigError, match=r"the stage shape_vae needs \['shape_slat_decoder'\]"):
        parse_recipe(data, TASKS, "toy")


def test_changes_from_the_command_line(data, tmp_path):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(data))
    recipe = load_recipe(path, TASKS, ["stages.shape_vae.steps=7", "data.source=/some/folder", "data.cache=null"])
    assert (recipe.stages["shape_vae"].steps, recipe.data.source, recipe.data.cache) == (7, "/some/folder", None)
    with pytest.raises(ConfigError, match=r"unknown keys \['step'\]"):
        load_recipe(path, TASKS, ["stages.shape_vae.step=7"])
    with pytest.raises(ConfigError, match=r"--set stages\.nothing\.steps=7: expected KEY\.KEY=VALUE"):
        load_recipe(path, TASKS, ["stages.nothing.steps=7"])
    path.write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_recipe(path, TASKS)
    with pytest.raises(ConfigError, match=r"nowhere: expected a \.json file, or one of \['finetune', 'mini'\]"):
        load_recipe("nowhere", TASKS)


@pytest.mark.parametrize("name", sorted(file.stem for file in RECIPES.glob("*.json")))
def test_the_recipes_of_the_package(name):
    assert load_recipe(name, TASKS).stages


def test_flows_of_mini_take_what_their_tasks_read():
    networks = load_recipe("mini", TASKS).networks
    tokens = networks["image_encoder"]["hidden_size"]
    found = {role: net["args"]["proj_in_channels"] for role, net in networks.items() if "flow" in role}
    latents = tokens + 3 * CROP.side**2
    assert found == {
        "sparse_structure_flow_model": block_channels(tokens),
        "shape_slat_flow_model_512": latents,
        "tex_slat_flow_model_512": latents,
    }
