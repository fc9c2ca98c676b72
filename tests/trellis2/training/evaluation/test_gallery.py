"""The gallery, with a tiny random checkpoint and few steps."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.render import Camera
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.pipeline import Asset
from comfyui_trellis2.trellis2.training.evaluation import gallery
from comfyui_trellis2.trellis2.training.evaluation.evaluate import WorldCase, held_out
from comfyui_trellis2.trellis2.training.evaluation.gallery import Exhibit, exhibits, write_gallery
from comfyui_trellis2.trellis2.values import EmptyOutputError
from PIL import Image

NAME = held_out("instances", 1)[0].name


@pytest.mark.slow
def test_pictures_stand_beside_what_is_made_of_them(tiny, tmp_path, capsys):
    options = ["--object", NAME, "--steps", "1", "--size", "48", "--device", "cpu"]
    assert main(["gallery", str(tiny), "-o", str(tmp_path), *options]) == 0
    assert f"{NAME}: made" in capsys.readouterr().out
    family = NAME.split("/")[0]
    strip = np.asarray(Image.open(tmp_path / f"{family}.png"))
    assert strip.shape == (48, 5 * 48, 3)
    assert all(part.std() > 3 for part in np.split(strip, 5, axis=1)), "an empty view"
    picture = Image.open(tmp_path / "pictures" / f"{family}.png")
    assert picture.mode == "RGBA" and picture.size == (512, 512) and picture.getextrema()[3] == (0, 255)


@pytest.mark.slow
def test_the_picture_is_the_one_that_evaluate_shows(tiny, monkeypatch):
    shown = []

    def refuse(pipeline, picture, steps, seed):
        shown.append(picture)
        raise EmptyOutputError("empty structure for object 0")

    monkeypatch.setattr(gallery, "generate", refuse)
    monkeypatch.setattr("comfyui_trellis2.trellis2.training.evaluation.evaluate.RESOLUTION", 32)
    (exhibit,) = exhibits(None, [NAME], tile=8)
    family, seed = NAME.split("/")
    assert shown[0].tobytes() == WorldCase(family, int(seed))().picture.tobytes()
    assert exhibit.problem and len(exhibit.views.flatten(0, 2).unique(dim=0)) == 1


@pytest.mark.slow
def test_an_error_that_is_not_the_models_is_raised(tiny, monkeypatch):
    def fail(pipeline, picture, steps, seed):
        raise ValueError("tokens_512: expected 4 dimensions, got 3")

    monkeypatch.setattr(gallery, "generate", fail)
    with pytest.raises(ValueError, match="tokens_512"):
        next(exhibits(None, [NAME], tile=8))


def test_an_asset_without_faces_is_an_empty_output():
    nothing = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(EmptyOutputError, match="empty surface"):
        gallery.render_sides(Asset(nothing, None), Camera(0, 20), 8)


def test_transparent_places_show_paper():
    exhibit = Exhibit("a/1", Image.new("RGBA", (16, 16)), torch.zeros(4, 8, 8, 3))
    assert exhibit.strip()[:, :8].mul(255).round().unique().tolist() == sorted(gallery.BACKGROUND)


def test_all_stand_above_each_other_and_a_family_may_come_twice(tmp_path):
    pictures = [Image.new("RGBA", (16, 16), (red, 0, 0, 255)) for red in (10, 20, 30)]
    shown = [Exhibit(name, picture, torch.zeros(4, 8, 8, 3)) for name, picture in zip("aab", pictures, strict=True)]
    assert list(write_gallery(tmp_path, iter(shown))) == shown
    strips = [np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("a", "a_2", "b")]
    assert [strip[0, 0, 0] for strip in strips] == [10, 20, 30]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), np.concatenate(strips))


@pytest.mark.parametrize("name", ["chair", "chair/", "chair/x"])
def test_what_is_no_object_is_said(name):
    with pytest.raises(ValueError, match="expected family/seed"):
        next(exhibits(None, [name]))
