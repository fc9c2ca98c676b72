"""Named views against their visual hull: good ones, swapped, mirrored and turned ones; the node and the command."""

from math import radians, tan

import numpy as np
import pytest
import torch
from comfyui_trellis2.nodes.sockets import PreparedImages
from comfyui_trellis2.nodes.views import CheckViews
from comfyui_trellis2.o_voxel.ops.raster import rasterize
from comfyui_trellis2.o_voxel.render.camera import Bounds, Camera
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.image.check_views import check_views, direction_name, matte_of
from comfyui_trellis2.trellis2.image.views import NAMED_VIEWS, ViewDirection
from PIL import Image

FOV, SIDE = 25.0, 96
THREE = [NAMED_VIEWS[name] for name in ("front", "left", "back")]
# An object without any symmetry: (low, high) of its boxes.
BOXES = (
    ((-0.5, -0.2, -0.4), (0.5, 0.2, -0.2)),
    ((0.2, -0.2, -0.2), (0.45, 0.1, 0.4)),
    ((-0.5, 0.0, -0.2), (-0.3, 0.2, 0.1)),
)
SIDES = torch.tensor(
    [
        [0, 1, 3],
        [0, 3, 2],
        [4, 7, 5],
        [4, 6, 7],
        [0, 5, 1],
        [0, 4, 5],
        [2, 3, 7],
        [2, 7, 6],
        [0, 2, 6],
        [0, 6, 4],
        [1, 5, 7],
        [1, 7, 3],
    ]
)


def matte(azimuth: float, elevation: float = 0.0) -> torch.Tensor:
    """What a camera sees of BOXES, by the rasteriser and the renderer's camera."""
    corners = torch.tensor([(low, high) for low, high in BOXES])  # [B, 2, 3]
    pick = torch.tensor([[k >> 2 & 1, k >> 1 & 1, k & 1] for k in range(8)])
    vertices = corners[:, pick, torch.arange(3)].reshape(-1, 3)
    faces = torch.cat([SIDES + 8 * box for box in range(len(BOXES))]).int()
    camera = Camera(azimuth, elevation, 1.1 * 0.5 / tan(radians(FOV) / 2), FOV, (0.0, 0.0, 0.0))
    clip = camera.view(Bounds.around(vertices), (SIDE, SIDE)).to_clip(vertices)
    return rasterize(clip, faces, (SIDE, SIDE)).face >= 0


FRONT, LEFT, BACK = (matte(azimuth) for azimuth in (0.0, 90.0, 180.0))


def test_views_that_fit_are_called_good_in_inference_mode_too():
    with torch.inference_mode():
        found = check_views([FRONT.clone(), LEFT.clone(), BACK.clone()], THREE, FOV)
    assert found.good and not found.found
    assert min(found.coverage) > 0.98
    assert "the views fit together" in found.lines()
    assert (found.pictures == torch.tensor([222, 222, 222])).all(-1).float().mean() > 0.1


@pytest.mark.parametrize(
    ("mattes", "words"),
    [
        ([LEFT, FRONT, BACK], "front and left are swapped"),
        pytest.param([FRONT.flip(1), LEFT, BACK], "front is mirrored", marks=pytest.mark.slow),
    ],
)
def test_what_is_wrong_is_named(mattes, words):
    # Pictures of other sizes, cut elsewhere: only the outline counts.
    mattes = [torch.nn.functional.pad(mattes[0].float(), (7, 30, 0, 11)), *mattes[1:]]
    found = check_views(mattes, THREE, FOV)
    assert not found.good
    assert words in found.found
    assert found.agreement > found.mean + 0.01
    assert (found.pictures == torch.tensor([235, 96, 30], dtype=torch.uint8)).all(-1).any()


@pytest.mark.slow
def test_another_angle_is_named():
    four = [*THREE, NAMED_VIEWS["right"]]
    found = check_views([FRONT, matte(60.0), BACK, matte(270.0)], four, FOV)
    assert found.found[0] == "left is from another side, azimuth 60 or so"


@pytest.mark.slow
def test_what_outlines_cannot_tell_is_said():
    ball = (torch.linspace(-1, 1, SIDE)[:, None].square() + torch.linspace(-1, 1, SIDE).square()) < 0.8
    found = check_views([ball, ball], THREE[:2], FOV)
    assert found.good
    assert found.unseen[0] == "front and left are swapped"
    assert "not to be told from outlines: front and left are swapped" in found.lines()[-1]


def test_what_cannot_be_checked_is_said():
    with pytest.raises(ValueError, match="two or more pictures"):
        check_views([FRONT], THREE[:1])
    with pytest.raises(ValueError, match="matte 2: expected"):
        check_views([FRONT, torch.zeros(9, 9)], THREE[:2])
    with pytest.raises(ValueError, match="fov: expected 1 to 90"):
        check_views([FRONT, LEFT], THREE[:2], 120.0)


def test_names_and_mattes():
    assert direction_name(ViewDirection(-90.0, 15.0)) == "right"
    assert direction_name(ViewDirection(0.0, 90.0)) == "top"
    assert direction_name(ViewDirection(45.0, 10.0)) == "azimuth 45, elevation 10"
    cut = Image.new("RGBA", (4, 4), (0, 0, 0, 255))
    assert matte_of(cut).sum() == 16
    assert matte_of(cut.convert("RGB")).sum() == 0


def prepared(mattes):
    return tuple(Image.fromarray(np.repeat(255 * one.numpy().astype(np.uint8)[..., None], 3, 2)) for one in mattes)


def test_the_node_passes_the_views_on():
    images = PreparedImages(prepared([LEFT, FRONT]), (THREE[0], THREE[1]))
    result = CheckViews().check(images, FOV)
    same, report, picture = result["result"]
    assert same is images
    assert report.startswith("explained by the other views: front ")
    assert picture.shape[0] == 2 and picture.dtype == torch.float32
    with pytest.raises(ValueError, match="connect Views"):
        CheckViews().check(PreparedImages(images.images), FOV)


def test_the_command(tmp_path, capsys):
    for name, one in (("a", FRONT), ("b", BACK)):
        alpha = Image.fromarray(255 * one.numpy().astype(np.uint8))
        picture = Image.new("RGB", alpha.size, (90, 140, 200))
        picture.putalpha(alpha)
        picture.save(tmp_path / f"{name}.png")
    run = ["check-views", "--fov", str(FOV), "--view", f"front={tmp_path}/a.png"]
    assert main([*run, "--view", f"back={tmp_path}/b.png", "--picture", str(tmp_path / "c.png")]) == 0
    assert "the views fit together" in capsys.readouterr().out
    with Image.open(tmp_path / "c.png") as written:
        assert written.width == 2 * written.height
    assert main(run) == 1
    assert "two or more pictures" in capsys.readouterr().err
