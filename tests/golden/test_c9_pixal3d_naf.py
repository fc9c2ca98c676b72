"""NAF, evaluated at single pixels, against the original's whole maps. They come with the whole set (`--goldens`)."""

import json

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.weights import load_weights, read_tensors
from comfyui_trellis2.trellis2.models import naf as module
from comfyui_trellis2.trellis2.models.naf import NafConfig, NafUpsampler
from torch.nn import functional as F

ATOL = 5e-5

cases = pytest.mark.parametrize("case", range(5))


@pytest.fixture(scope="module")
def described(golden):
    return json.loads(golden("c9_pixal3d_naf.json").read_text())


@pytest.fixture(scope="module")
def data(arrays):
    return arrays("c9_pixal3d_naf.npz")


@pytest.fixture(scope="module")
def upsampler(golden, described):
    path = golden("c9_pixal3d_naf.safetensors")
    tensors = read_tensors(path)
    config = NafConfig.of(tensors)
    assert (config.dim, config.heads) == (described["args"]["dim"], described["args"]["heads_attn"])
    with torch.device("meta"):
        model = NafUpsampler(config)
    return load_weights(model, tensors, str(path))


def inputs(described, data, case):
    about = described["cases"][case]
    images, features = data[f"case{case}.image"].float() / 255, data[f"case{case}.features"]
    return about, [(image, feature.movedim(0, -1)) for image, feature in zip(images, features, strict=True)]


@cases
@pytest.mark.parametrize("small", [False, True], ids=["whole", "in parts"])
def test_every_pixel(described, data, upsampler, close, monkeypatch, case, small):
    if small:  # bands and chunks of odd sizes
        monkeypatch.setattr(module, "BAND_ROWS", 7)
        monkeypatch.setattr(module, "CHUNK_BYTES", 1_000_003)
    about, items = inputs(described, data, case)
    target = about["T"]
    pixels = torch.arange(target**2)[:, None]
    for (image, features), expected in zip(items, data[f"case{case}.out"], strict=True):
        out = upsampler(image, features, target, pixels, torch.ones(target**2, 1))
        close(out, expected.flatten(1).T, ATOL)


@cases
def test_queries_and_keys(described, data, upsampler, close, case):
    about, [(image, _), *_] = inputs(described, data, case)
    target, side = about["T"], about["h"]
    if about["resized_to_4T"]:
        image = F.interpolate(image[None], size=(4 * target,) * 2, mode="bilinear", align_corners=False)[0]
    columns = torch.arange(0, target, max(1, target // 12))
    queries, keys = upsampler.image_encoder(image, target, side, target // 2 * target + columns)
    close(queries.flatten(1).T, data[f"case{case}.q_row_mid"], ATOL)
    close(keys.flatten(1).T[:16].unflatten(1, (side, side)), data[f"case{case}.k_first16"][0], ATOL)


@cases
def test_a_sum_of_pixels_is_the_sum_of_their_features(described, data, upsampler, close, case):
    about, [(image, features), *_] = inputs(described, data, case)
    draw = torch.Generator().manual_seed(case)
    pixels = torch.randint(about["T"] ** 2, (53, 4), generator=draw)
    weights = torch.rand(53, 4, generator=draw)
    told = []
    out = upsampler(image, features, about["T"], pixels, weights, told.append)
    whole = data[f"case{case}.out"][0].flatten(1).T
    close(out, (whole[pixels] * weights[..., None]).sum(dim=1), ATOL)
    assert told[-1] == 1
