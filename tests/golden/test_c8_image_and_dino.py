"""The reference's preprocess_image and DinoV3FeatureExtractor, run on a tiny random DINOv3."""

import json

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.image import prepare_image, to_pixels
from comfyui_trellis2.trellis2.models.dino import DinoConfig, DinoVisionTransformer, to_transformers_keys
from PIL import Image
from safetensors.torch import load_file

ATOL = 5e-5


@pytest.fixture
def data(golden):
    with np.load(golden("c8_dinov3_tiny.data.npz")) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def state(golden):
    return load_file(golden("c8_dinov3_tiny.safetensors"))


@pytest.fixture
def config(golden):
    return DinoConfig.from_transformers(json.loads(golden("c8_dinov3_tiny.json").read_text()))


@pytest.fixture
def model(config, state):
    model = DinoVisionTransformer(config, device="meta")
    model.load_state_dict(state, strict=True, assign=True)
    return model


@pytest.mark.parametrize("name", ["small", "odd", "big"])
def test_prepare_image_bytes(golden, name):
    with np.load(golden("c8_preprocess_image.npz")) as arrays:
        image, expected = arrays[f"{name}_in"], arrays[f"{name}_out"]
    rgba = Image.fromarray(image)
    assert np.array_equal(np.asarray(prepare_image(rgba)), expected)
    assert np.array_equal(np.asarray(prepare_image(rgba.convert("RGB"), rgba.getchannel("A"))), expected)


@pytest.mark.parametrize("size", [64, 96])
def test_to_pixels(data, size):
    image = Image.fromarray(data["image"].numpy())
    pixels = to_pixels(image, size)
    torch.testing.assert_close(pixels, data[f"pixel_values_{size}"][0], atol=1e-6, rtol=0)
    # Undone, the normalisation gives back the resized bytes.
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    restored = ((pixels.permute(1, 2, 0) * std + mean) * 255).round().to(torch.uint8)
    assert torch.equal(restored, data[f"resized_{size}"])


@pytest.mark.parametrize("size", [64, 96])
def test_features(model, data, size):
    features = model(data[f"pixel_values_{size}"])
    torch.testing.assert_close(features, data[f"features_{size}"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("size", [64, 96])
def test_image_to_features(model, data, size):
    features = model(to_pixels(Image.fromarray(data["image"].numpy()), size)[None])
    torch.testing.assert_close(features, data[f"features_{size}"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("key", ["layer.1.attention.k_proj.weight", "layer.0.layer_scale2.lambda1"])
def test_tolerance_sees_one_percent(config, state, data, key):
    state[key] = state[key] * 1.01
    model = DinoVisionTransformer(config)
    model.load_state_dict(state)
    assert (model(data["pixel_values_64"]) - data["features_64"]).abs().max() > ATOL


@pytest.mark.parametrize("dtype, rms", [(torch.float64, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
def test_other_dtypes_stay_close(config, state, data, dtype, rms):
    model = DinoVisionTransformer(config, dtype=dtype)
    model.load_state_dict(state)
    features = model(data["pixel_values_96"])
    assert features.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (features - data["features_96"]).square().mean().sqrt() < rms


def test_release_5_names_give_the_same_features(config, state, data):
    renamed = {f"model.{key}" if key.startswith("layer.") else key: value for key, value in state.items()}
    model = DinoVisionTransformer(config)
    model.load_state_dict(to_transformers_keys(renamed))
    torch.testing.assert_close(model(data["pixel_values_64"]), data["features_64"], atol=ATOL, rtol=0)
