"""The generate command's pictures: what --background cuts, prints and refuses. Nothing is sampled."""

import re

import numpy as np
import pytest
from comfyui_trellis2.trellis2.checkpoint.tiny import make_tiny_pixal3d
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.image import cut_out
from comfyui_trellis2.trellis2.image.views import ViewBlend, ViewDirection
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.projection.camera import ViewRig
from PIL import Image

RED, GREY = (200, 40, 30), (240, 240, 240)


def disc(mode="RGB"):
    y, x = np.mgrid[0:160, 0:160]
    inside = np.hypot(y - 80, x - 80) < 40
    picture = Image.fromarray(np.where(inside[..., None], RED, GREY).astype(np.uint8))
    if mode == "RGBA":
        picture.putalpha(Image.fromarray((255 * inside).astype(np.uint8)))
    return picture


@pytest.fixture
def generate(tiny, tmp_path, monkeypatch):
    """Runs generate on one picture: (exit status, the pictures that reach the pipeline)."""
    seen = []

    def stop(pipeline, objects, **settings):
        seen.extend(objects)
        raise ValueError("stopped before sampling")

    monkeypatch.setattr(Pipeline, "sample", stop)

    def run(picture, *options):
        picture.save(tmp_path / "picture.png")
        arguments = [str(tmp_path / "picture.png"), "-o", str(tmp_path / "out.glb"), "--model", str(tiny)]
        return main(["generate", *arguments, "--device", "cpu", *options]), seen

    return run


@pytest.mark.parametrize(
    ("mode", "options", "line"),
    [
        ("RGB", (), "plain background removed"),
        ("RGB", ("--background", "plain"), "plain background removed"),
        ("RGBA", (), "picture.png: alpha or mask\n"),
        ("RGBA", ("--background", "none"), "alpha or mask, as it is"),
    ],
    ids=["auto", "plain", "alpha by auto", "none"],
)
def test_the_object_reaches_the_model_on_black(generate, capsys, mode, options, line):
    status, seen = generate(disc(mode), *options)
    printed = capsys.readouterr()
    assert line in printed.out and "not sure" not in printed.out
    assert status == 1 and "stopped before sampling" in printed.err
    ((picture,),) = seen
    values = np.asarray(picture)
    assert (values[[0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()
    middle = values[values.shape[0] // 2, values.shape[1] // 2]
    assert np.abs(middle.astype(int) - RED).max() <= 2


def test_what_is_not_sure_is_printed(generate, capsys):
    values = np.full((160, 160, 3), GREY, np.uint8)
    values[110:125, 20:140] = RED
    for column in range(20, 140, 6):  # a comb
        values[40:110, column : column + 2] = RED
    assert generate(Image.fromarray(values))[1]
    assert "picture.png: not sure: the object has parts or gaps about as thin" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--background", "plain"), "picture.png: the picture's border is not plain"),
        ((), "picture.png: the picture's border is not plain"),
        (("--background", "none"), "picture.png: .*remove the background"),
        (("--background", "rembg"), "pip install rembg"),
    ],
    ids=["plain", "auto", "none", "rembg"],
)
def test_a_picture_that_cannot_be_cut_ends_before_the_model_is_loaded(generate, capsys, monkeypatch, options, message):
    monkeypatch.setitem(cut_out.__globals__, "has_rembg", lambda: False)
    monkeypatch.setattr(Pipeline, "load", lambda *a, **k: pytest.fail("loaded"))
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    status, seen = generate(Image.fromarray(noise), *options)
    assert status == 1 and seen == []
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(message, printed.err)


# Views


@pytest.fixture
def views(tiny, tmp_path, monkeypatch):
    """Runs generate with options on pictures a.png and b.png: (exit status, objects, view mode)."""
    seen = {}

    def stop(pipeline, objects, view_mode, **settings):
        seen.update(objects=objects, mode=view_mode)
        raise ValueError("stopped before sampling")

    monkeypatch.setattr(Pipeline, "sample", stop)
    for name in ("a", "b"):
        disc("RGBA").save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)

    def run(*options):
        status = main(["generate", "-o", "out.glb", "--model", str(tiny), "--device", "cpu", *options])
        return status, seen.get("objects"), seen.get("mode")

    return run


def test_named_views_reach_the_pipeline(views):
    options = ("--view", "left=b.png", "--view", "azimuth=200,elevation=10:b.png", "--view-mode", "blend")
    _, objects, mode = views("a.png", *options, "--view-temperature", "0.5")
    assert [len(pictures) for pictures in objects] == [3]
    assert mode == ViewBlend((ViewDirection(0), ViewDirection(90), ViewDirection(200, 10)), 0.5)
    assert views("--view", "left=b.png", "--view", "top=a.png")[2] == "average"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "expected a picture"),
        (("a.png", "b.png", "--view", "left=b.png"), "expected one picture beside --view"),
        (("a.png", "b.png", "--view-mode", "blend"), "expected the side of each picture"),
        (("--view", "left=c.png"), "c.png: no such file"),
    ],
)
def test_views_without_sides_are_refused(views, capsys, options, words):
    status, objects, _ = views(*options)
    assert status == 1 and objects is None and words in capsys.readouterr().err


@pytest.mark.parametrize("view", ["behind=a.png", "a.png", "left="])
def test_a_view_without_a_side_is_refused(views, capsys, view):
    with pytest.raises(SystemExit):
        views("--view", view)
    assert "view: expected" in capsys.readouterr().err


@pytest.fixture(scope="module")
def pixal3d(tmp_path_factory):
    return make_tiny_pixal3d(tmp_path_factory.mktemp("models") / "owner" / "pixal3d")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ViewRig()),
        (("--fov", "20"), ViewRig(20.0)),
        (("--view", "back={}", "--fov", "30"), ViewRig(30.0, (ViewDirection(0), ViewDirection(180)))),
    ],
)
def test_a_model_that_projects_gets_cut_outs_and_cameras(pixal3d, tmp_path, monkeypatch, options, expected):
    seen = {}

    def stop(pipeline, objects, **settings):
        seen.update(objects=objects, **settings)
        raise ValueError("stopped before sampling")

    monkeypatch.setattr(Pipeline, "sample", stop)
    picture = tmp_path / "picture.png"
    disc("RGBA").save(picture)
    options = [option.format(picture) for option in options]
    arguments = ["generate", str(picture), "-o", str(tmp_path / "out.glb"), "--model", str(pixal3d), "--device", "cpu"]
    assert main([*arguments, *options]) == 1
    assert seen["view_mode"] == expected
    assert [image.mode for image in seen["objects"][0]] == ["RGBA"] * (1 + ("--view" in options))
    assert seen["objects"][0][0].size == (160, 160)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--resolution", "512"), "pipeline_type '512'"),
        (("--view-mode", "cycle"), "--view-mode: expected average"),
        (("--fov", "175"), "fov: expected 1 to 170 degrees"),
    ],
)
def test_what_pixal3d_cannot_do_is_said_before_anything_is_computed(pixal3d, tmp_path, capsys, options, words):
    picture = tmp_path / "picture.png"
    disc("RGBA").save(picture)
    arguments = ["generate", str(picture), "-o", str(tmp_path / "out.glb"), "--model", str(pixal3d), "--device", "cpu"]
    assert main([*arguments, *options]) == 1
    assert words in capsys.readouterr().err
