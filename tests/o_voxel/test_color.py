"""The sRGB curve for numbers of files, and bytes."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.color import linear_to_srgb, to_bytes, to_linear, to_srgb


def test_both_encodings_are_one_curve():
    values = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(linear_to_srgb(values), to_srgb(torch.from_numpy(values)).numpy(), atol=1e-12)
    above = linear_to_srgb([1.0, 2.0, 8.0])
    np.testing.assert_allclose(to_linear(torch.from_numpy(above)).numpy(), [1.0, 2.0, 8.0], rtol=1e-12)


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("half up", [0, 0, 128, 254, 255, 255, 255, 0, 1]),
        ("half even", [0, 0, 128, 254, 255, 255, 255, 0, 0]),
        ("down", [0, 0, 127, 253, 254, 255, 255, 0, 0]),
    ],
)
def test_bytes(rounding, expected):
    half = float(np.float32(0.5 / 255))
    assert np.float32(half) * np.float32(255) == np.float32(0.5)
    values = torch.tensor([-1.0, 0.0, 0.5, 0.9945, 0.99999, 1.0, float("inf"), float("nan"), half])
    assert to_bytes(values, rounding).tolist() == expected
    assert to_bytes(values).dtype == torch.uint8


def test_every_byte_comes_back():
    levels = torch.arange(256, dtype=torch.uint8)
    for rounding in ("half up", "half even"):
        assert torch.equal(to_bytes(levels.float() / 255, rounding), levels)


def test_bad_arguments():
    with pytest.raises(ValueError, match="rounding: expected one of"):
        to_bytes(torch.rand(2), "up")
    with pytest.raises(ValueError, match=r"expected a float tensor, got torch\.uint8"):
        to_bytes(torch.zeros(2, dtype=torch.uint8))
