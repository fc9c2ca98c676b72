"""The reference's Euler samplers on a toy velocity: guidance, its interval and its rescaling, dense and sparse."""

import json

import pytest
import torch
from comfyui_trellis2.trellis2.sampling.flow_matching import (
    Guidance,
    dense_deviation,
    euler,
    guided,
    model_time,
    schedule,
    sparse_deviation,
    to_sample,
    to_velocity,
)

ATOL = 5e-5
DEFAULTS = {"rescale_t": 1.0, "guidance_strength": 1.0, "guidance_rescale": 0.0, "guidance_interval": (0.0, 1.0)}
CASES = (
    "euler_5",
    "euler_5_rt3",
    "cfg3_4",
    "cfg3_4_resc",
    "cfg1_3",
    "cfg0_3",
    "gi_ss_like",
    "gi_shape_like",
    "gi_tex_like",
    "gi_mid",
)

cases = pytest.mark.parametrize("case", CASES)
layouts = pytest.mark.parametrize("layout", ["dense", "sparse"])


@pytest.fixture(scope="module")
def data(arrays):
    return arrays("c5_samplers.npz")


@pytest.fixture(scope="module")
def described(golden):
    return json.loads(golden("c5_samplers.json").read_text())


def to_noise(x, velocity, t):
    """The noise that the velocity at x points away from."""
    return (1 - t) * velocity + x


def toy(data, layout, condition):
    """v = W x + b t + the mean of the condition's tokens, channel by channel."""
    mean = condition.mean(1)
    if layout == "dense":
        weight, offset = data["W"], (2, 4, 1, 1, 1)
        return lambda x, t: (
            torch.einsum("oc,bcxyz->boxyz", weight, x)
            + (data["bt"] * (model_time(t, 2, x.device)[:, None] / 1000)).reshape(offset)
            + mean.reshape(offset)
        )
    item = data["sp_coords"][:, 0].long()
    return lambda x, t: x @ data["W"].T + data["bt"] * (model_time(t, 2, x.device)[:, None] / 1000)[item] + mean[item]


def deviation_of(data, layout):
    if layout == "dense":
        return dense_deviation
    return sparse_deviation(torch.bincount(data["sp_coords"][:, 0].long()).tolist())


def trajectory(data, described, case, layout, **changed):
    """The samples after each step, and the clean samples that each step's velocity points to."""
    settings = DEFAULTS | described["cases"][case]["kwargs"] | changed
    sigma_min = described["sigma_min"]
    zeros = case.startswith("gi_") and case != "gi_mid"
    negative = toy(data, layout, data["neg_zero" if zeros else "neg_rand"])
    guidance = Guidance(
        settings["guidance_strength"], settings["guidance_rescale"], tuple(settings["guidance_interval"])
    )
    velocity = guided(toy(data, layout, data["cond"]), negative, guidance, deviation_of(data, layout), sigma_min)
    starts, clean = [], []

    def recorded(x, t):
        v = velocity(x, t)
        starts.append(x)
        clean.append(to_sample(x, v, t, sigma_min))
        return v

    noise = data[f"x_{layout}"]
    before = noise.clone()
    last = euler(recorded, noise, schedule(settings["steps"], settings["rescale_t"]))
    assert torch.equal(noise, before)
    return torch.stack([*starts[1:], last]), torch.stack(clean)


def test_every_case_is_tested(described):
    assert set(described["cases"]) <= set(CASES)


@cases
def test_schedule(described, case):
    settings = DEFAULTS | described["cases"][case]["kwargs"]
    assert schedule(settings["steps"], settings["rescale_t"]) == described["cases"][case]["t_seq"]


@cases
@layouts
def test_trajectory(data, described, close, case, layout):
    samples, clean = trajectory(data, described, case, layout)
    close(samples, data[f"{case}.{layout}.pred_x_t"], ATOL)
    close(clean, data[f"{case}.{layout}.pred_x_0"], ATOL)


@layouts
@pytest.mark.parametrize(
    "case, changed",
    [
        ("cfg3_4", {"guidance_strength": 3.03}),
        ("cfg3_4_resc", {"guidance_rescale": 0.707}),
        ("gi_shape_like", {"guidance_interval": (0.6001, 1.0)}),
        ("gi_ss_like", {"guidance_interval": (0.6, 0.9999)}),
        ("gi_mid", {"guidance_interval": (0.3, 0.66)}),
        ("euler_5_rt3", {"rescale_t": 3.03}),
    ],
)
def test_tolerance_sees_one_percent(data, described, case, changed, layout):
    samples, _ = trajectory(data, described, case, layout, **changed)
    assert (samples - data[f"{case}.{layout}.pred_x_t"]).abs().max() > ATOL


def test_deviation(data, close):
    ours = sparse_deviation(torch.bincount(data["sp_coords"][:, 0].long()).tolist())(data["x_sparse"])
    item = data["sp_coords"][:, 0].long()
    close(ours, data["std_sparse"][item], ATOL)
    close(ours[:, 0], data["std_sparse_population"][item], ATOL)
    assert (ours[:, 0] - data["std_sparse_unbiased"][item]).abs().min() > ATOL
    dense = dense_deviation(data["x_dense"])
    assert dense.shape == (2, 1, 1, 1, 1)
    close(dense.flatten(), data["std_dense"], ATOL)


def test_conversions(data, described, close):
    sigma_min, t, x = described["sigma_min"], float(data["h_t"]), data["x_dense"]
    close(to_sample(x, data["h_v"], t, sigma_min), data["h_pred_to_xstart"], ATOL)
    velocity = to_velocity(x, data["h_x0"], t, sigma_min)
    close(velocity, data["h_xstart_to_pred"], ATOL)
    close(to_noise(x, velocity, t), data["h_xstart_to_eps"], ATOL)
    close(to_noise(x, to_velocity(x, data["h_eps_to_xstart"], t, sigma_min), t), data["h_eps"], ATOL)
    # Each undoes the other.
    close(to_velocity(x, data["h_pred_to_xstart"], t, sigma_min), data["h_v"], ATOL)
    close(to_sample(x, data["h_xstart_to_pred"], t, sigma_min), data["h_x0"], ATOL)
