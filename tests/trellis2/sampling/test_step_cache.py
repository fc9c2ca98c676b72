"""Step caching: forecasts against sums of exponentials, which steps are computed, and the cost in accuracy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.layouts import Checkpoint
from comfyui_trellis2.trellis2.checkpoint.tiny import make_tiny
from comfyui_trellis2.trellis2.sampling.flow_matching import Guidance, dense_deviation, euler, guided, schedule
from comfyui_trellis2.trellis2.sampling.flow_sampling import sample_sparse_latent
from comfyui_trellis2.trellis2.sampling.stages import noise_on
from comfyui_trellis2.trellis2.sampling.step_cache import HISTORY, extrapolation_weights, with_step_cache
from comfyui_trellis2.trellis2.values import ImageCondition

TIMES = schedule(12, 3.0)
LAST = len(TIMES) - 2


def exponentials(*rates, seed=0, channels=40):
    """velocity(x, t): a sum of vectors that shrink or turn by `rates` from one step of TIMES to the next."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(len(rates), channels, dtype=torch.complex128, generator=generator)

    def velocity(x, t):
        steps = TIMES.index(t)
        return sum((part * rate**steps).real for part, rate in zip(parts, rates, strict=True))

    return velocity


def counted(velocity):
    steps = []

    def at(x, t):
        steps.append(TIMES.index(t))
        return velocity(x, t)

    return at, steps


@pytest.mark.parametrize("rates", [(0.9,), (1.0,), (0.95, 0.6), (1.0, 0.8), (0.9 * np.exp(0.3j), 0.9 * np.exp(-0.3j))])
def test_damped_exponentials_are_forecast_exactly(rates):
    velocity = exponentials(*rates)
    ahead = with_step_cache(velocity, TIMES)
    for step, t in enumerate(TIMES[:-1]):
        wanted, out = velocity(None, t), ahead(None, t)
        if step >= 2 * HISTORY - 2:
            torch.testing.assert_close(out, wanted, atol=1e-6, rtol=1e-6)


def test_better_than_repeating_the_last_one():
    velocity = exponentials(0.99, 0.85, 0.4)
    ahead = with_step_cache(velocity, TIMES)
    for step, t in enumerate(TIMES[:-1]):
        out, wanted = ahead(None, t), velocity(None, t)
        if step % 2 and 5 <= step < LAST:
            repeated = velocity(None, TIMES[step - 1])
            assert (out - wanted).norm() < 0.7 * (repeated - wanted).norm()


def test_which_steps_are_computed():
    velocity, steps = counted(exponentials(0.9))
    ahead = with_step_cache(velocity, TIMES)
    for t in TIMES[:-1]:
        ahead(None, t)
    assert steps == [0, 2, 4, 6, 8, 10, 11]


def test_a_run_that_begins_or_ends_part_way():
    """As the negative's does, with the guidance interval: it starts with computed steps, whatever their number."""
    velocity, steps = counted(exponentials(0.9))
    ahead = with_step_cache(velocity, TIMES)
    for t in TIMES[3:9]:
        ahead(None, t)
    assert steps == [3, 4, 6, 8]


def test_histories_are_separate():
    first, second = exponentials(0.9, seed=1), exponentials(0.5, seed=2)
    alone = [with_step_cache(first, TIMES)(None, t) for t in TIMES[:1]]
    one, other = with_step_cache(first, TIMES), with_step_cache(second, TIMES)
    together = []
    for t in TIMES[:-1]:
        together.append(one(None, t))
        other(None, t)
    single = with_step_cache(first, TIMES)
    assert torch.equal(together[0], alone[0])
    assert all(torch.equal(v, single(None, t)) for v, t in zip(together, TIMES[:-1], strict=True))


def test_weights_of_degenerate_histories():
    assert extrapolation_weights(np.ones((1, 1)), 0.5).tolist() == [1]
    for empty in (0, np.nan, np.inf):
        assert extrapolation_weights(np.full((3, 3), empty, dtype=float), 0.5).tolist() == [0, 0, 1]
    same = extrapolation_weights(np.ones((3, 3)), 0.5)
    assert same.sum() == pytest.approx(1)
    # A vector that changes its sign has no half step; nor may one that grows run away.
    assert np.abs(extrapolation_weights(np.outer([1, -1, 1], [1, -1, 1]).astype(float), 0.5)).max() < 1e-6
    growing = np.outer([1, 10, 100], [1, 10, 100]).astype(float)
    assert extrapolation_weights(growing, 0.5) @ [1, 10, 100] == pytest.approx(100, rel=1e-6)


def mixture(centers, spread):
    """The exact velocity towards a mixture of Gaussians: a flow that needs no network."""

    def velocity(x, t):
        variance = ((1 - t) * spread) ** 2 + t**2
        away = x - (1 - t) * centers
        nearness = torch.softmax(-away.flatten(1).square().sum(1) / (2 * variance), 0)
        sample = (nearness[:, None, None] * (centers + (1 - t) * spread**2 / variance * away)).sum(0)
        return (x - (1 - t) * sample) / t - sample

    return velocity


@pytest.mark.parametrize("rescale_t", [3.0, 5.0])
def test_error_under_guidance_is_a_fraction_of_that_of_fewer_steps(rescale_t):
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(50, 64, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(1, 64, 8, generator=generator, dtype=torch.float64)
    guidance = Guidance(3.0, 0.5, (0.6, 1.0))

    def run(steps, cached):
        times = schedule(steps, rescale_t)
        pair = (mixture(centers[:6], 0.35), mixture(centers, 0.35))
        positive, negative = (with_step_cache(v, times) for v in pair) if cached else pair
        return euler(guided(positive, negative, guidance, dense_deviation, 1e-5), noise, times)

    full = run(12, False)
    cached, fewer = ((out - full).norm() / full.norm() for out in (run(12, True), run(7, False)))
    assert 1e-4 < cached < 0.02
    assert cached < fewer / 3


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """sample(changed sampler parameters) is a shape latent of the tiny checkpoint, whose weights are random."""
    checkpoint = Checkpoint.open(str(make_tiny(tmp_path_factory.mktemp("tiny"))))
    flow = checkpoint.load_model("shape_slat_flow_model_512", dtype="float32")
    sampler = checkpoint.config.shape_slat_sampler
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(6)
    noise = noise_on([torch.cartesian_prod(axis, axis, axis)], [torch.randn(216, 32, generator=generator)], "cpu")
    condition = ImageCondition(torch.randn(1, 1, 9, flow.config.cond_channels, generator=generator), None)

    @torch.no_grad()
    def run(**changes):
        changed = replace(sampler, params=replace(sampler.params, **changes))
        return sample_sparse_latent(flow, noise, condition, changed, image_size=512).feats

    return run


@pytest.mark.slow
def test_off_by_default_and_then_the_same_to_the_bit(sample):
    assert torch.equal(sample(), sample(step_cache=False))
    assert torch.equal(sample(step_cache=True), sample(step_cache=True))


@pytest.mark.slow
def test_error_on_the_tiny_checkpoint(sample):
    full = sample(guidance_strength=1.0)
    cached, fewer = (
        float((sample(guidance_strength=1.0, **changes) - full).norm() / full.norm())
        for changes in ({"step_cache": True}, {"steps": 7})
    )
    assert 1e-6 < cached < 0.05, cached
    assert cached < fewer / 2, (cached, fewer)
