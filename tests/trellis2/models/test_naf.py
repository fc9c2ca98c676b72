"""NAF at single pixels, against its definition: every pixel of the whole map, one after the other."""

import math

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.weights import randomize
from comfyui_trellis2.trellis2.models import naf
from comfyui_trellis2.trellis2.models.naf import NafConfig, NafUpsampler
from torch.nn import functional as F

CONFIG = NafConfig(dim=32, heads=4)
SIDE, TARGET, CHANNELS = 10, 30, 8


@pytest.fixture(scope="module")
def upsampler():
    model = NafUpsampler(CONFIG).requires_grad_(False).eval()
    randomize(model, torch.Generator().manual_seed(3))
    return model


@pytest.fixture(scope="module")
def given():
    draw = torch.Generator().manual_seed(0)
    return torch.rand(3, 60, 60, generator=draw), torch.randn(SIDE, SIDE, CHANNELS, generator=draw)


def whole_map(model, image, features):
    """[T T, C] float64, as the paper writes it."""
    state = {key.removeprefix("image_encoder."): value.double() for key, value in model.state_dict().items()}
    parts = []
    for name, kernel in (("encoder", 1), ("sem_encoder", 3)):

        def convolve(x, key, border):
            return F.conv2d(F.pad(x, (border,) * 4, mode="reflect"), state[f"{key}.weight"], state[f"{key}.bias"])

        x = convolve(image.double()[None], f"{name}.0", state[f"{name}.0.weight"].shape[-1] // 2)
        for block in (1, 2):
            for turn in (1, 2):
                key = f"{name}.{block}.norm{turn}"
                x = F.silu(F.group_norm(x, 8, state[f"{key}.weight"], state[f"{key}.bias"], 1e-5))
                x = convolve(x, f"{name}.{block}.conv{turn}", kernel // 2)
        parts.append(x)
    x = F.adaptive_avg_pool2d(torch.cat(parts, dim=1), TARGET)[0]
    heads, depth = CONFIG.heads, CONFIG.dim // CONFIG.heads
    x = x.view(heads, depth, TARGET, TARGET).permute(2, 3, 0, 1)
    turned = torch.empty_like(x)
    for row in range(TARGET):
        for column in range(TARGET):
            angles = [2 * math.pi * ((p + 0.5) / TARGET * 2 - 1) / state["rope.periods"] for p in (row, column)]
            angle = torch.cat(angles)
            first, second = x[row, column].chunk(2, dim=-1)
            cos, sin = angle.cos(), angle.sin()
            turned[row, column] = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    step = TARGET // SIDE
    keys = turned.view(SIDE, step, SIDE, step, heads, depth).mean(dim=(1, 3))
    values = features.double().view(SIDE, SIDE, heads, -1)
    out = torch.empty(TARGET, TARGET, CHANNELS, dtype=torch.float64)
    for row in range(TARGET):
        for column in range(TARGET):
            top, left = (min(max(p // step - 4, 0), SIDE - 9) for p in (row, column))
            near = keys[top : top + 9, left : left + 9].flatten(0, 1)
            scores = torch.einsum("hd,nhd->hn", turned[row, column], near) / depth**0.5
            shares = scores.softmax(dim=-1)
            inside = values[top : top + 9, left : left + 9].flatten(0, 1)
            out[row, column] = torch.einsum("hn,nhc->hc", shares, inside).flatten()
    return out.flatten(0, 1).float()


def test_every_pixel(upsampler, given):
    image, features = given
    expected = whole_map(upsampler, image, features)
    pixels = torch.arange(TARGET**2)[:, None]
    out = upsampler(image, features, TARGET, pixels, torch.ones(TARGET**2, 1))
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=0)
    assert expected.std() > 0.1


def test_a_few_pixels_in_small_parts(upsampler, given, monkeypatch):
    image, features = given
    pixels = torch.tensor([[0, 29, 870, 899], [31, 31, 450, 2]])
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, -1.0, 0.5, 0.0]])
    whole = upsampler(image, features, TARGET, torch.arange(TARGET**2)[:, None], torch.ones(TARGET**2, 1))
    expected = (whole[pixels] * weights[..., None]).sum(dim=1)
    for band, chunk in ((128, 2**27), (1, 1), (7, 7000)):
        monkeypatch.setattr(naf, "BAND_ROWS", band)
        monkeypatch.setattr(naf, "CHUNK_BYTES", chunk)
        out = upsampler(image, features, TARGET, pixels, weights)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    assert upsampler(image, features, TARGET, pixels[:0], weights[:0]).shape == (0, CHANNELS)


def test_what_it_cannot_do_is_refused(upsampler, given):
    image, features = given
    pixels, weights = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
    with pytest.raises(ValueError, match="at least 9 patches a side"):
        upsampler(image, features[:8, :8], 24, pixels, weights)
    with pytest.raises(ValueError, match="a multiple of these"):
        upsampler(image, features, TARGET + 1, pixels, weights)
    with pytest.raises(ValueError, match="a multiple of 4 channels, got"):
        upsampler(image, features[..., :7].contiguous(), TARGET, pixels, weights)
    with pytest.raises(ValueError, match="NAF: expected a multiple of 4 channels"):
        NafConfig(dim=32, heads=3)
