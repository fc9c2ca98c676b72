"""Background removal on pictures whose true matte is known, and what it says where it cannot know."""

import sys
import types

import numpy as np
import pytest
from comfyui_trellis2.trellis2.image import (
    ALPHA,
    AUTO,
    PLAIN,
    REMBG,
    BackgroundError,
    cut_out,
    prepare_image,
    remove_background,
)
from comfyui_trellis2.trellis2.image import cut_out as cut_out_module
from PIL import Image

from . import scenes as pictures


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def disc(size=200, radius=50, colour=(200, 40, 30), under=(240, 240, 240), at=None):
    """A disc with a soft edge on one colour, its true alpha [H, W] beside it."""
    y, x = np.mgrid[0:size, 0:size]
    row, column = at or (size / 2, size / 2)
    alpha = np.clip(radius + 0.5 - np.hypot(y - row, x - column), 0, 1)
    values = alpha[..., None] * np.array(colour) + (1 - alpha[..., None]) * np.array(under)
    return Image.fromarray((values + 0.5).astype(np.uint8)), alpha


@pytest.fixture(scope="module")
def scenes():
    return pictures.scenes()


@pytest.mark.slow
def test_thirty_pictures_are_cut_well_or_refused(scenes):
    assert len(scenes) == 30
    rows, wrong = [], []
    for scene in scenes:
        try:
            matte = remove_background(scene.picture)
        except BackgroundError as error:
            rows.append(f"{scene.kind:15} {scene.name:28} refused: {str(error)[:50]}")
            if scene.kind in pictures.CLEAN:
                wrong.append(rows[-1])
            continue
        found = iou(matte.alpha > 127, scene.alpha > 0.5)
        rows.append(f"{scene.kind:15} {scene.name:28} {found:.4f} {matte.confidence:.3f} {matte.reason[:40]}")
        if found < (0.97 if scene.kind in pictures.CLEAN else 0.9):
            wrong.append(rows[-1])
    assert wrong == [], "\n".join(rows)


@pytest.mark.slow
def test_gaps_between_thin_parts_are_open():
    values = np.full((640, 640, 3), 235.0)
    alpha = np.zeros((640, 640), bool)
    alpha[440:500, 80:560] = True
    for column in range(80, 560, 6):
        alpha[160:440, column : column + 2] = True
    values[alpha] = (120, 50, 20)
    matte = remove_background(Image.fromarray(values.astype(np.uint8)))
    assert iou(matte.alpha > 127, alpha) > 0.97
    assert "thin" in matte.reason


@pytest.mark.slow
def test_pale_stripes_of_the_object_are_no_gaps():
    picture, alpha = disc(640, 200)
    values = np.array(picture)
    stripes = (np.arange(640) % 24 < 3)[:, None] & (alpha > 0.99)
    values[stripes] = (215, 210, 205)  # the background is (240, 240, 240)
    matte = remove_background(Image.fromarray(values))
    assert iou(matte.alpha > 127, alpha > 0.5) > 0.98


def test_a_floor_in_the_cut_is_told():
    picture, alpha = disc(400, 60, at=(170, 200))
    y, x = np.mgrid[0:400, 0:400]
    floor = 0.8 * np.exp(-((((y - 270) / 60) ** 2 + ((x - 200) / 120) ** 2) ** 2))
    shaded = np.array(picture) * (1 - floor * (1 - alpha))[..., None] + (floor * (1 - alpha))[..., None] * (40, 60, 20)
    with pytest.raises(BackgroundError, match=r"shadow or the floor.*outline is sharp"):
        remove_background(Image.fromarray(shaded.astype(np.uint8)))


@pytest.mark.parametrize("at", [(200, 100), (190, 10)], ids=["one side", "a corner"])
def test_an_object_may_be_cut_by_the_edge(at):
    picture, alpha = disc(at=at)
    assert iou(remove_background(picture).alpha > 127, alpha > 0.5) > 0.98


def test_the_edge_is_soft_and_has_no_fringe():
    picture, alpha = disc()
    matte = remove_background(picture)
    assert matte.image.size == picture.size and matte.image.mode == "RGBA"
    assert matte.confidence > 0.93 and matte.reason == ""
    assert np.abs(matte.alpha / 255 - alpha).max() < 0.2
    edge = (matte.alpha > 25) & (matte.alpha < 230)
    assert edge.sum() > 100
    colours = np.asarray(matte.image)[edge][:, :3].astype(int)
    assert np.abs(colours - (200, 40, 30)).max() < 30  # the background is (240, 240, 240)


@pytest.mark.slow
def test_the_same_picture_gives_the_same_bytes_and_is_not_changed():
    picture, _ = disc()
    before = picture.tobytes()
    assert remove_background(picture).image.tobytes() == remove_background(picture).image.tobytes()
    assert picture.tobytes() == before


@pytest.mark.slow
def test_large_pictures_come_out_at_the_size_that_is_prepared():
    picture, _ = disc(1300, 400)
    assert remove_background(picture).image.size == (1024, 1024)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("RGB", (90, 90), (7, 8, 9)), "no object was found"),
        (Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)), "not plain"),
        (disc(200, 101)[0], "three sides"),
        (disc(200, 40, (241, 241, 241))[0], "no object was found"),
        (Image.new("RGB", (1, 1)), "too small"),
    ],
    ids=["one colour", "noise", "three sides", "white on white", "one pixel"],
)
def test_what_cannot_be_known_is_refused(picture, message):
    with pytest.raises(BackgroundError, match=message):
        remove_background(picture)


def test_a_letterbox_is_not_an_object():
    values = np.zeros((120, 160, 3), np.uint8)
    values[20:100] = np.random.default_rng(0).integers(60, 256, (80, 160, 3))
    with pytest.raises(BackgroundError, match=r"plain|side to side"):
        remove_background(Image.fromarray(values))


def test_auto_leaves_alpha_as_it_is():
    picture, alpha = disc()
    picture.putalpha(Image.fromarray((255 * alpha).astype(np.uint8)))
    for background in (AUTO, ALPHA):
        cut = cut_out(picture, background)
        assert cut.image.tobytes() == picture.tobytes() and cut.warning == ""
        assert prepare_image(cut.image).tobytes() == prepare_image(picture).tobytes()


@pytest.mark.slow
def test_auto_cuts_an_opaque_picture_and_alpha_only_does_not():
    picture, alpha = disc()
    for background in (AUTO, PLAIN):
        cut = cut_out(picture.convert("RGBA"), background)
        assert iou(np.asarray(cut.image)[..., 3] > 127, alpha > 0.5) > 0.98
        assert "plain background removed" in cut.used
    with pytest.raises(ValueError, match="remove the background"):
        prepare_image(cut_out(picture, ALPHA).image)


def test_an_inverted_alpha_is_told():
    picture, alpha = disc()
    picture.putalpha(Image.fromarray((255 * (1 - alpha)).astype(np.uint8)))
    with pytest.raises(ValueError, match=r"inverted.*border.*mask_marks"):
        cut_out(picture)
    assert cut_out(picture, ALPHA).image is picture


def test_another_background_is_refused():
    with pytest.raises(ValueError, match=r"background: expected one of auto.*got 'magic'"):
        cut_out(Image.new("RGB", (9, 9)), "magic")


def test_rembg_is_asked_where_ours_is_not_sure(monkeypatch):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    module = sys.modules[cut_out_module.__module__]
    monkeypatch.setattr(module, "has_rembg", lambda: False)
    with pytest.raises(ImportError, match="pip install rembg"):
        cut_out(picture, REMBG)
    with pytest.raises(BackgroundError, match="not plain"):
        cut_out(picture)
    asked = []
    fake = types.ModuleType("rembg")
    fake.new_session = lambda name: asked.append(name) or name
    fake.remove = lambda image, session: Image.merge("RGBA", [*image.split(), Image.new("L", image.size, 99)])
    monkeypatch.setitem(sys.modules, "rembg", fake)
    monkeypatch.setattr(module, "has_rembg", lambda: True)
    for background in (REMBG, AUTO):
        cut = cut_out(picture, background)
        assert cut.image.mode == "RGBA" and cut.image.getchannel("A").getextrema() == (99, 99)
        assert "rembg" in cut.used
    with pytest.raises(BackgroundError):
        cut_out(picture, PLAIN)
    assert asked == ["isnet-general-use"] * 2
