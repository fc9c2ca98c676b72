"""Pixal3D's projection: single views and several ones, distances, and the frame, against the original's numbers.

The file beside this test holds some of the cases; all come with the whole set (`--goldens`).
"""

import json
import math

import pytest
import torch
from comfyui_trellis2.trellis2.projection.camera import canonical, distance_of, focal_pixels, relative_to_first
from comfyui_trellis2.trellis2.projection.frame import grid_points
from comfyui_trellis2.trellis2.projection.project import corners, project, sampled
from torch.nn import functional as F

ATOL, MATRIX, TOKENS, DISTANCE = 2e-4, 2e-6, 5e-6, 2e-6
PREFIX = 5  # the class token and registers

cases = pytest.mark.parametrize("case", range(8))
sets = pytest.mark.parametrize("views", ["orbit", "free", "noncanonical", "single"])


@pytest.fixture(scope="module")
def described(golden):
    return json.loads(golden("c9_pixal3d_projection.json").read_text())


@pytest.fixture(scope="module")
def numbers(arrays):
    """numbers("case0.") holds the arrays of a case; the test is skipped where the set lacks it."""
    data = arrays("c9_pixal3d_projection.npz")

    def of(prefix):
        found = {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}
        return found or pytest.skip(f"no {prefix}* in this set")

    return of


def voxels_of(rows, grid):
    rows = rows.long()
    return torch.stack([rows // grid**2, rows // grid % grid, rows % grid], dim=1).int()


def close_pixels(actual, expected, size):
    """Of points far outside of the picture, rounding moves more."""
    assert ((actual - expected).abs() <= 1e-3 + 1e-5 * (expected - size / 2).abs()).all()


@cases
def test_single_views(described, numbers, close, case):
    about, data = described["cases"][case], numbers(f"case{case}.")
    size, grid = about["image_size"], about["grid"]
    values = data["map"].movedim(1, -1) if about["map_layout"] == "BCHW" else data["map"]
    voxels = voxels_of(data["rows"], grid)
    for item in range(about["batch"]):
        points = grid_points(voxels, grid, float(data["mesh_scale"][item]))
        if item == 0:
            torch.testing.assert_close(points, data["world"], atol=1e-6, rtol=0)
        pixels = project(points, canonical(float(data["distance"][item])), data["fov"][item], size)
        close_pixels(pixels, data["uv"][item], size)
        at = corners(pixels, size, values.shape[1])
        close(sampled(values[item].flatten(0, 1), at), data["out"][item], ATOL)


@sets
def test_several_views(described, numbers, close, views):
    about, data = described["mv"][views], numbers(f"mv.{views}.")
    size, grid, scale = about["image_size"], about["grid"], float(data["mesh_scale"])
    cameras = relative_to_first(data["c2w"])
    torch.testing.assert_close(cameras, data["M"], atol=MATRIX, rtol=0)
    tokens = F.layer_norm(data["tokens"], data["tokens"].shape[-1:], eps=1e-5)
    points = grid_points(voxels_of(data["rows"], grid), grid, scale)
    found = []
    for view in range(about["views"]):
        pixels = project(points, cameras[view], data["fov"][view], size)
        close_pixels(pixels, data["uv"][view], size)
        found.append(sampled(tokens[view, PREFIX:], corners(pixels, size, size // 16)))
        close(found[-1], data["per_view"][view], ATOL)
    close(torch.stack(found).mean(dim=0), data["proj"], ATOL)
    torch.testing.assert_close(tokens[:, :PREFIX].mean(dim=0), data["global"], atol=TOKENS, rtol=0)


def test_distances(arrays):
    data = arrays("c9_pixal3d_misc.npz")
    for fov, usual, scaled, focal in zip(
        *(data[f"dist.{name}"].tolist() for name in ("fov", "default", "scale_0.8_extend_10_S1024", "f_pixels_512")),
        strict=True,
    ):
        assert distance_of(fov) == pytest.approx(usual, rel=DISTANCE)
        assert distance_of(fov, 0.8, 1024, 10) == pytest.approx(scaled, rel=DISTANCE)
        assert focal_pixels(fov, 512) == pytest.approx(focal, rel=DISTANCE)
    measured = zip(data["moge.fx_normalised"].tolist(), data["moge.fov_distance"].tolist(), strict=True)
    for focal, (fov, distance) in measured:
        assert 2 * math.atan(0.5 / focal) == pytest.approx(fov, rel=DISTANCE)
        assert distance_of(fov) == pytest.approx(distance, rel=DISTANCE)


@pytest.mark.parametrize("wrong", ["centres", "half a pixel", "mirrored"])
def test_the_tolerance_sees(described, numbers, wrong):
    about, data = described["cases"][0], numbers("case0.")
    size, grid = about["image_size"], about["grid"]
    voxels = voxels_of(data["rows"], grid)
    points = grid_points(voxels, grid)
    if wrong == "centres":
        points = points * (1 - 1 / grid)
    if wrong == "mirrored":
        points = points * torch.tensor([-1.0, 1.0, 1.0])
    pixels = project(points, canonical(float(data["distance"][0])), data["fov"][0], size)
    if wrong == "half a pixel":
        pixels = pixels + 0.5
    values = data["map"][0]
    out = sampled(values.flatten(0, 1), corners(pixels, size, len(values)))
    assert (out - data["out"][0]).abs().max() > 100 * ATOL
