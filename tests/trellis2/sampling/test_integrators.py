"""Integrators: their order on a field with a known solution, where and how often they evaluate, schedules of others."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint import config
from comfyui_trellis2.trellis2.sampling.flow_matching import (
    Guidance,
    evaluation_times,
    guided,
    integrate,
    schedule,
    to_sample,
)

SIGMA_MIN = 1e-5
ORDERS = {"euler": 1, "heun": 2, "rk4": 4}
orders = pytest.mark.parametrize("integrator", list(ORDERS))


def towards_gaussian(mean, spread):
    """(velocity, solution from x at time 1) of the flow to a normal distribution, sigma_min 0.

    x_t is normal of mean (1 - t) mean and variance v(t) = ((1 - t) spread)^2 + t^2, so a path keeps its (x - mean_t) /
    sqrt(v).
    """

    def velocity(x, t):
        away, variance = x - (1 - t) * mean, ((1 - t) * spread) ** 2 + t**2
        return -mean + (t - (1 - t) * spread**2) / variance * away

    return velocity, lambda x: mean + spread * x


@orders
def test_order_of_convergence(integrator):
    velocity, solution = towards_gaussian(torch.tensor([0.3, -1.1, 2.0]).double(), 0.6)
    noise = torch.tensor([[0.5, -0.4, 1.2], [-2.0, 0.1, 0.7]]).double()

    def error(steps):
        times = schedule(steps, 1.0)
        return float((integrate(lambda k: velocity, noise, times, integrator) - solution(noise)).norm())

    assert math.log2(error(80) / error(160)) == pytest.approx(ORDERS[integrator], abs=0.1)


@orders
def test_against_another_library(integrator):
    """With steps as small as this, all find what SciPy's adaptive solver finds on a field without a formula."""
    from scipy.integrate import solve_ivp

    def velocity(x, t):
        return torch.sin(3 * x) * (1 + t) + t * x.flip(-1)

    noise = torch.tensor([0.3, -0.8, 1.4]).double()
    wanted = solve_ivp(
        lambda t, x: velocity(torch.from_numpy(x), t).numpy(), (1, 0), noise.numpy(), rtol=1e-10, atol=1e-12
    ).y[:, -1]
    found = integrate(lambda k: velocity, noise, schedule(100, 1.0), integrator).numpy()
    assert np.abs(found - wanted).max() < {"euler": 0.1, "heun": 2e-3, "rk4": 1e-5}[integrator]


def test_the_names_are_those_of_the_configuration():
    assert tuple(ORDERS) == config.INTEGRATORS
    with pytest.raises(config.ConfigError, match=r"expected one of \['euler', 'heun', 'rk4'\], got 'dpm'"):
        settings(integrator="dpm")


@pytest.mark.parametrize(("integrator", "forwards"), [("euler", 12), ("heun", 23), ("rk4", 47)])
def test_evaluations(integrator, forwards):
    """None at time 0; the edges of steps to the last digit, which may be those of the guidance interval."""
    times, seen = schedule(12, 3.0), []
    noise = torch.ones(3)
    before = noise.clone()
    integrate(lambda k: lambda x, t: seen.append(t) or x, noise, times, integrator)
    assert torch.equal(noise, before)
    assert seen == [t for step in evaluation_times(times, integrator) for t in step]
    assert len(seen) == forwards
    assert min(seen) > 0 and max(seen) == 1
    assert set(times[:-1]) <= set(seen)


def test_guidance_applies_by_the_time_of_each_evaluation():
    """Between two steps outside the interval, RK4's middle stages are inside."""
    times, asked = [1.0, 0.6, 0.0], []

    def negative(x, t):
        asked.append(t)
        return x

    velocity = guided(lambda x, t: x, negative, Guidance(2.0, 0.0, (0.7, 0.9)), None, SIGMA_MIN)
    integrate(lambda k: velocity, torch.ones(2), times, "rk4")
    assert asked == [0.8, 0.8]
    assert not [t for t in times if 0.7 <= t <= 0.9]


@pytest.mark.parametrize("integrator", ["heun", "rk4"])
def test_rescaled_guidance_is_finite_at_the_end(integrator):
    """At time 0 the velocity of a rescaled sample would be divided by sigma_min."""
    guidance = Guidance(3.0, 0.7, (0.0, 1.0))
    positive, _ = towards_gaussian(torch.tensor([0.3, -1.1]), 0.6)
    other, _ = towards_gaussian(torch.tensor([0.0, 0.0]), 0.9)
    velocity = guided(positive, other, guidance, lambda x: x.std(), SIGMA_MIN)
    found = integrate(lambda k: velocity, torch.tensor([0.4, 1.3]), schedule(12, 3.0), integrator)
    assert found.abs().max() < 10
    assert to_sample(found, velocity(found, 0.05), 0.05, SIGMA_MIN).isfinite().all()


def settings(**changed):
    params = {"steps": 3, "guidance_strength": 1.0, "guidance_rescale": 0.0, "guidance_interval": (0, 1)}
    return config.SamplerParams(**(params | {"rescale_t": 3.0} | changed))


def test_the_step_cache_is_eulers():
    with pytest.raises(config.ConfigError, match="step_cache: expected the euler integrator, got heun"):
        settings(step_cache=True, integrator="heun")
    with pytest.raises(config.ConfigError, match="step_cache"):
        replace(settings(integrator="rk4"), step_cache=True)


@pytest.mark.parametrize(
    "times", [(1.0, 0.0), (1.0, 0.5, 0.5, 0.0), (0.9, 0.5, 0.2, 0.0), (1.0, 0.5, 0.2, 0.1), (1.0, 0.2, 0.5, 0.0)]
)
def test_times_are_checked(times):
    assert settings(times=(1.0, 0.7, 0.2, 0.0)).times == (1.0, 0.7, 0.2, 0.0)
    with pytest.raises(config.ConfigError, match="times: expected"):
        settings(times=times)


@pytest.mark.parametrize("key", ["integrator", "times"])
def test_a_file_has_neither(key):
    data = {"steps": 3, "guidance_strength": 1.0, "guidance_rescale": 0.0, "guidance_interval": [0, 1]}
    data |= {"rescale_t": 3.0}
    assert config.parse(config.SamplerParams, data, "pipeline.json").integrator == "euler"
    value = {"integrator": "heun", "times": [1, 0.5, 0.2, 0]}[key]
    with pytest.raises(config.ConfigError, match=rf"pipeline.json: unknown keys \['{key}'\]"):
        config.parse(config.SamplerParams, data | {key: value}, "pipeline.json")
