"""The Views node: pictures from named sides, prepared or not, to Image Condition; what it refuses."""

from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.nodes.image import (
    OBJECTS,
    VIEWS,
    ConditionOnImage,
    PrepareImage,
    guiding_pictures,
    view_settings,
)
from comfyui_trellis2.nodes.sockets import PreparedImages
from comfyui_trellis2.nodes.views import Views
from comfyui_trellis2.trellis2.image.views import ViewBlend, ViewDirection
from comfyui_trellis2.trellis2.projection.camera import ViewRig
from comfyui_trellis2.trellis2.projection.framing import CROP


def rgba(shade, batch=1):
    """Pictures [batch, 24, 24, 4] of a square."""
    picture = torch.zeros(batch, 24, 24, 4)
    picture[:, 6:18, 6:18] = torch.tensor([shade, shade, shade, 1.0])
    return picture


def shades(images):
    return [image.getpixel((5, 5))[0] for image in images.images]


def test_sides_come_in_one_order_with_their_directions():
    prepared = PrepareImage().prepare(rgba(0.4), "object (Remove Background)")["result"][0]
    found = Views().collect(
        right=rgba(0.8),
        top=rgba(1.0),
        front=prepared,
        more=rgba(0.6, 2),
        more_angles="45 20; azimuth=-30",
        elevation=10,
    )
    images, preview = found["result"]
    assert shades(images) == [102, 204, 255, 153, 153]
    assert images.directions == (
        ViewDirection(0, 10),
        ViewDirection(270, 10),
        ViewDirection(0, 90),
        ViewDirection(45, 20),
        ViewDirection(-30, 0),
    )
    assert preview.shape == (5, 512, 512, 3)
    assert found["ui"]["text"][0].startswith("right: alpha")  # the prepared one was cut before


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ({}, "expected at least one picture"),
        ({"front": rgba(0.5, 2)}, "front: expected one picture, got 2; connect a batch to more"),
        (
            {"more": rgba(0.5, 2), "more_angles": "45"},
            "more_angles: expected 2 directions, one a picture of .*1",
        ),
        ({"front": rgba(0.5), "more_angles": "45"}, "expected 0 directions"),
        ({"more": rgba(0.5), "more_angles": "behind"}, "view: expected front"),
    ],
)
def test_what_does_not_fit_is_refused(sides, words):
    with pytest.raises(ValueError, match=words):
        Views().collect(**sides)


def test_pictures_with_directions_are_one_object():
    images = Views().collect(front=rgba(0.4), back=rgba(0.8))["result"][0]
    directions = (ViewDirection(0), ViewDirection(180))
    assert view_settings(images, OBJECTS, "blend", 0.5) == ([images.images], ViewBlend(directions, 0.5))
    assert view_settings(images, OBJECTS, "cycle", 0.5) == ([images.images], "cycle")
    plain = PreparedImages(images.images)
    assert view_settings(plain, OBJECTS, "average", 0.5) == ([(image,) for image in images.images], "average")
    assert view_settings(plain, VIEWS, "average", 0.5) == ([images.images], "average")
    with pytest.raises(ValueError, match=r"blend: .*connect Views"):
        view_settings(plain, VIEWS, "blend", 0.5)


def test_new_widgets_are_last():
    declared = ConditionOnImage.INPUT_TYPES()
    assert declared["required"]["view_mode"][0] == ["average", "cycle", "blend"]
    assert list(declared["optional"])[-2:] == ["view_temperature", "fov"]


class Projecting:
    """A pipeline that projects pictures, or does not."""

    def __init__(self, projects, crop=None):
        self.config = SimpleNamespace(projects=projects, crop=crop)


def test_a_model_that_projects_gets_pictures_before_their_crop_and_cameras():
    views = Views().collect(front=rgba(0.4), back=rgba(0.8))["result"][0]
    assert [cut.size for cut in views.cuts] == [(24, 24)] * 2 and views.images[0].size != (24, 24)
    directions = (ViewDirection(0), ViewDirection(180))
    given = guiding_pictures(Projecting(True), views, OBJECTS, "average", 0.5, 30.0)
    assert given == ([views.cuts], ViewRig(30.0, directions))
    assert guiding_pictures(Projecting(True), views, OBJECTS, "average", 0.5, 0.0)[1] == ViewRig(None, directions)
    assert guiding_pictures(Projecting(True), views, OBJECTS, "cycle", 0.5, 0.0)[1] == "cycle"
    plain = guiding_pictures(Projecting(False), views, OBJECTS, "average", 0.5, 30.0)
    assert plain == view_settings(views, OBJECTS, "average", 0.5)
    prepared = PrepareImage().prepare(rgba(0.4, 2), "object (Remove Background)")["result"][0]
    objects, rig = guiding_pictures(Projecting(True), prepared, OBJECTS, "average", 0.5, 0.0)
    assert objects == [(cut,) for cut in prepared.cuts] and rig == ViewRig()
    # Pictures of a node that kept none: as they are.
    bare = PreparedImages(prepared.images)
    assert guiding_pictures(Projecting(True), bare, VIEWS, "average", 0.5, 0.0)[0] == [bare.images]


def test_a_model_that_reads_crops_gets_the_sides_or_refuses():
    views, model = Views().collect(front=rgba(0.4), left=rgba(0.8))["result"][0], Projecting(False, crop=CROP)
    _, rig = guiding_pictures(model, views, OBJECTS, "average", 0.5, 0.0)
    assert rig == ViewRig(None, views.directions) and len(rig.directions) == 2
    with pytest.raises(ValueError, match="view_mode cycle: expected average or blend"):
        guiding_pictures(model, views, OBJECTS, "cycle", 0.5, 0.0)
