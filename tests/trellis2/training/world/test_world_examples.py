"""The procedural world as a source of examples and of cases that training has not seen."""

import importlib

import pytest
import torch
from comfyui_trellis2.trellis2.training.data.dataset import open_source
from comfyui_trellis2.trellis2.training.evaluation.evaluate import held_out

pytest.importorskip("comfyui_trellis2.trellis2.training.world", reason="the world is a package of its own")
world = importlib.import_module("comfyui_trellis2.trellis2.training.world")


def test_an_index_is_an_object():
    source, count = open_source("world"), len(world.TRAIN_FAMILIES)
    first, again, other = (source(k, resolution=32, image_size=64, views=1) for k in (0, 0, count))
    assert torch.equal(first.voxels.dual_grid.coords, again.voxels.dual_grid.coords)
    assert first.images.shape == (1, 64, 64, 3) and torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_held_out_cases_are_none_that_training_sees():
    instances, families = held_out("instances", 200), held_out("families", 20)
    assert len({(case.family, case.seed) for case in instances}) == 200
    assert {case.family for case in instances} <= set(world.TRAIN_FAMILIES)
    assert not {case.seed for case in instances} & set(world.TRAIN_SEEDS[:10_000])
    assert not {case.family for case in families} & set(world.TRAIN_FAMILIES)
    with pytest.raises(ValueError, match="split: expected"):
        held_out("everything", 1)


@pytest.mark.slow
def test_a_case_is_a_prepared_picture_and_what_it_shows():
    case = held_out("instances", 1)[0]()
    assert case.picture.mode == "RGB" and case.picture.width == case.picture.height
    assert case.voxels.field is not None and case.voxels.dual_grid.grid.shape[0] == 512
