"""What Pixal3D does around its networks: the crop, pictures of views, the cascade's voxels, and the order of the noise.

The file beside this test holds some of the arrays; all come with the whole set (`--goldens`).
"""

import json

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.image import prepare_image
from comfyui_trellis2.trellis2.image.prepare import resized
from comfyui_trellis2.trellis2.projection.camera import MARGIN, Pose, ViewRig
from comfyui_trellis2.trellis2.projection.pictures import view_pictures
from comfyui_trellis2.trellis2.sampling.noise import draw_noise
from comfyui_trellis2.trellis2.sampling.stages import cascade_voxels
from PIL import Image

SIZES = (1024, 1152, 1280, 1408, 1536)


@pytest.fixture(scope="module")
def data(arrays):
    return arrays("c9_pixal3d_misc.npz")


@pytest.fixture(scope="module")
def described(golden):
    return json.loads(golden("c9_pixal3d_misc.json").read_text())


def need(data, *names):
    missing = [name for name in names if name not in data]
    return pytest.skip(f"no {missing} in this set") if missing else [data[name] for name in names]


def pixels(image):
    return torch.from_numpy(np.array(image))


@pytest.mark.parametrize("name", ["small", "odd", "edge", "big", "last"])
def test_the_crop_of_one_picture(data, name):
    given, expected = need(data, f"pre.{name}.in", f"pre.{name}.out")
    image = Image.fromarray(given.numpy())
    assert torch.equal(pixels(prepare_image(image, margin=MARGIN)), expected)
    if min(expected.shape[:2]) > 20:  # of a smaller one the margin is less than two pixels
        assert pixels(prepare_image(image)).shape != expected.shape


@pytest.mark.parametrize("which", [0, 1])
def test_the_resize(data, which):
    given, expected = need(data, "pre.odd.out", f"resized{which}.out")
    image = Image.fromarray(given.numpy())
    assert torch.equal(pixels(resized(image, expected.shape[0])), expected)


def test_pictures_of_views_are_not_rounded(data):
    given, expected = need(data, "mv_prepare.in", "mv_prepare.out")
    pose = Pose(((1, 0, 0, 0), (0, 0, -1, -2), (0, 1, 0, 0), (0, 0, 0, 1)), 20.0)
    size = expected.shape[-1]
    pictures, _, _ = view_pictures([Image.fromarray(given.numpy())], ViewRig(poses=(pose,)), [size])
    assert torch.equal(pictures[size][0], expected)


@pytest.mark.parametrize("resolution", SIZES)
def test_a_voxel_of_the_cascade(data, resolution):
    (table,) = need(data, f"quant.table_{resolution}")
    line = torch.arange(512, dtype=torch.int32)
    for value, wanted in zip(line.tolist(), table.tolist(), strict=True):
        fine = torch.full((1, 3), value, dtype=torch.int32)
        ((found,), _) = cascade_voxels(fine, 512, resolution, 10**9, on_faces=True)
        assert found.tolist() == [wanted] * 3


@pytest.mark.parametrize("case", range(5))
def test_the_cap_of_the_cascade(data, described, case):
    about = described[f"quant.case{case}"]
    fine, expected = need(data, "quant.hr_coords", f"quant.case{case}.coords")
    voxels, reached = cascade_voxels(fine[:, 1:].int(), 512, about["hr"], about["max_num_tokens"], on_faces=True)
    assert (reached, len(voxels)) == (about["result"], about["tokens"])
    assert torch.equal(voxels, expected[:, 1:].int())


def test_the_noise_is_one_stream(data, described):
    history = []
    for name in ("ss", "lr", "hr", "tex"):
        (expected,) = need(data, f"noise.{name}")
        about = described[f"noise.{name}"]
        shape = tuple(about["shape"][1:]) if name == "ss" else tuple(about["shape"])
        (noise,) = draw_noise([about["seed"]], [shape], [history])
        assert torch.equal(noise.flatten()[: len(expected)], expected)
        history.append(shape)
