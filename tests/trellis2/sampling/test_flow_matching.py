"""The sampler's promises: which steps are guided, what a run costs, cancelling, views, batches and noise."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint import config
from comfyui_trellis2.trellis2.models.transformer import PreparedCondition
from comfyui_trellis2.trellis2.runtime.cuda_graphs import GraphCache
from comfyui_trellis2.trellis2.sampling.flow_matching import (
    Guidance,
    average_views,
    cycle_views,
    dense_deviation,
    guided,
    integrate,
    model_time,
    schedule,
    sparse_deviation,
    to_sample,
    to_velocity,
)
from comfyui_trellis2.trellis2.sampling.flow_sampling import FlowCall, sample_flow
from comfyui_trellis2.trellis2.sampling.noise import draw_noise, extend_histories
from comfyui_trellis2.trellis2.sparse import PackedSequences
from comfyui_trellis2.trellis2.values import ImageCondition

PUBLISHED = json.loads(Path(config.__file__).with_name("published.json").read_text())
# By stage: the sampler, and the forward passes of its published settings. A cascade repeats the shape's.
FORWARDS = {"sparse_structure_sampler": 22, "shape_slat_sampler": 21, "tex_slat_sampler": 12}
SIGMA_MIN = 1e-5


def published(name):
    return getattr(config.parse_pipeline(PUBLISHED["pipeline"], "published.json"), name)


def sampler(**changed):
    params = {"steps": 4, "guidance_strength": 3.0, "guidance_rescale": 0.7, "rescale_t": 3.0}
    params |= {"guidance_interval": (0.6, 1.0)}
    return config.SamplerConfig(
        name="FlowEulerGuidanceIntervalSampler",
        args=config.SamplerArgs(sigma_min=SIGMA_MIN),
        params=config.SamplerParams(**(params | changed)),
    )


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def condition(items=2, views=1, mode="average", seed=9):
    return ImageCondition(draw(items, views, 5, 4, seed=seed), None, mode)


def network(x, t, view):
    """A velocity of [B, 4, ...] that mixes an item's values, its time and its condition."""
    tokens = torch.stack([part.mean(0) for part in view.feats.split(view.lengths)])
    mean = x.flatten(1).mean(1).reshape(-1, *[1] * (x.ndim - 1))
    return 0.3 * x - mean * x.abs() + (tokens + t[:, None] / 1000).reshape(*tokens.shape, *[1] * (x.ndim - 2))


class Counting:
    """A network that remembers what it was called with."""

    def __init__(self):
        self.times, self.conditions = [], []

    def __call__(self, x, t, view):
        self.times.append(float(t[0]))
        self.conditions.append(view.feats.clone())
        return network(x, t, view)


class Flow:
    """What `sample_flow` asks of a network: nothing computed of an image, one output channel, no recording."""

    config = SimpleNamespace(out_channels=1)
    backends = SimpleNamespace(launch="eager")

    def __init__(self):
        self.graphs = GraphCache()

    def prepare(self, view):
        return PreparedCondition(((view.feats, view.feats),), view.lengths)


def sample(forward, noise, given, settings, progress=None, deviation=dense_deviation):
    def of_view(x, t, image):
        return forward(x, t, PackedSequences(image.blocks[0][0], image.lengths))

    return sample_flow(FlowCall(Flow(), of_view, deviation), noise, given, 512, settings, progress)


@pytest.mark.parametrize("rescale", [1.0, 3.0, 5.0])
def test_schedule(rescale):
    """To the last digit at every number of steps: at 33, 45, 66, ... one digit decides whether a step is guided."""
    for steps in range(1, 101):
        times = schedule(steps, rescale)
        uniform = np.linspace(1, 0, steps + 1)
        assert times == (rescale * uniform / (1 + (rescale - 1) * uniform)).tolist()
        assert (times[0], times[-1]) == (1, 0)
        assert all(type(t) is float for t in times)


def test_the_published_schedule_has_the_edges_of_the_interval():
    """In float64 to the last digit; float32 misses them."""
    times = schedule(12, 3.0)
    assert times[3] == 0.9
    assert times[8] == 0.6
    uniform = torch.linspace(1, 0, 13)
    single = (3 * uniform / (1 + 2 * uniform)).tolist()
    assert [0.6 <= t <= 0.9 for t in single] != [0.6 <= t <= 0.9 for t in times]


def test_the_interval_includes_its_ends():
    guidance = Guidance(2.0, 0.0, (0.6, 0.9))
    times = {0.6: True, 0.9: True, 0.75: True, 0.5999999999999999: False, 0.9000000000000001: False, 0.0: False}
    assert {t: guidance.applies(t) for t in times} == times
    assert not Guidance(1.0, 0.0, (0.0, 1.0)).applies(0.5)
    guided_steps = [k for k, t in enumerate(schedule(12, 3.0)) if guidance.applies(t)]
    assert guided_steps == [3, 4, 5, 6, 7, 8]


def test_model_time():
    t = model_time(0.6, 3, torch.device("cpu"))
    assert t.dtype == torch.float32
    assert t.tolist() == [600.0] * 3


@pytest.mark.parametrize("name", list(FORWARDS))
def test_forward_passes_of_the_published_settings(name):
    forward = Counting()
    sample(forward, draw(2, 4, 3, 3, 3), condition(), published(name))
    assert len(forward.times) == FORWARDS[name]
    zeros = [bool((feats == 0).all()) for feats in forward.conditions]
    assert sum(zeros) == FORWARDS[name] - 12
    assert len(set(forward.times)) == 12


def test_strength_zero_runs_the_negative_alone():
    forward = Counting()
    sample(forward, draw(2, 4, 3), condition(), sampler(guidance_strength=0.0, guidance_interval=(0.0, 1.0)))
    assert len(forward.times) == 4
    assert all((feats == 0).all() for feats in forward.conditions)


def test_guidance_by_hand():
    """One step: the velocity of the formulas."""
    noise, given = draw(2, 4, 3), condition()
    settings = sampler(steps=1)
    out = sample(network, noise, given, settings)
    (view,) = given.views(512)
    t = torch.full((2,), 1000.0)
    positive = network(noise, t, view).double()
    mixed = 3 * positive - 2 * network(noise, t, view.replace(torch.zeros_like(view.feats))).double()
    wanted, sampled = (to_sample(noise.double(), v, 1.0, SIGMA_MIN) for v in (positive, mixed))
    ratio = wanted.flatten(1).std(1) / sampled.flatten(1).std(1)
    sampled = 0.7 * sampled * ratio[:, None, None] + 0.3 * sampled
    velocity = to_velocity(noise.double(), sampled, 1.0, SIGMA_MIN)
    torch.testing.assert_close(out.double(), noise - velocity, atol=1e-5, rtol=0)
    unscaled = sample(network, noise, given, replace(settings, params=replace(settings.params, guidance_rescale=0.0)))
    torch.testing.assert_close(unscaled.double(), noise - mixed, atol=1e-5, rtol=0)
    assert (unscaled - out).abs().max() > 1e-2


def test_conversions_undo_each_other():
    x, v = draw(2, 4, 3).double(), draw(2, 4, 3, seed=1).double()
    clean = to_sample(x, v, 0.37, SIGMA_MIN)
    torch.testing.assert_close(to_velocity(x, clean, 0.37, SIGMA_MIN), v)
    noise = (1 - 0.37) * v + x
    torch.testing.assert_close((1 - 0.37) * clean + (SIGMA_MIN + (1 - SIGMA_MIN) * 0.37) * noise, x)


def test_progress():
    seen = []
    sample(network, draw(2, 4, 3), condition(), sampler(), seen.append)
    assert seen == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("steps", [1, 3])
def test_raising_in_progress_cancels(steps):
    class CancelledError(Exception):
        pass

    def progress(fraction):
        if fraction >= steps / 12:
            raise CancelledError

    forward = Counting()
    with pytest.raises(CancelledError):
        sample(forward, draw(2, 4, 3), condition(), sampler(steps=12, guidance_strength=1.0), progress)
    assert len(forward.times) == steps


def test_average_is_the_mean_velocity():
    views = [lambda x, t, k=k: k * x + t for k in range(1, 4)]
    x = draw(2, 3)
    torch.testing.assert_close(average_views(views)(x, 0.5), 2 * x + 0.5)
    assert average_views(views[:1]) is views[0]
    kept = [torch.ones(2), torch.full((2,), 3.0)]
    assert average_views([lambda x, t: kept[0], lambda x, t: kept[1]])(x, 0.5).tolist() == [2.0, 2.0]
    assert kept[0].tolist() == [1.0, 1.0]


def test_cycle_takes_views_in_turn():
    times = schedule(7, 3.0)
    taken = []
    views = [lambda x, t, k=k: taken.append(k) or torch.zeros_like(x) for k in range(3)]
    integrate(cycle_views(views), draw(2, 3), times)
    assert taken == [0, 1, 2, 0, 1, 2, 0]
    taken.clear()
    integrate(cycle_views(views), draw(2, 3), times, "heun")
    assert taken == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2, 0]


@pytest.mark.parametrize("mode, forwards", [("average", 4 * 3 + 3), ("cycle", 4 + 3)])
def test_views_of_an_object(mode, forwards):
    """Of four steps three are guided; the negative branch runs once for all views."""
    forward, given = Counting(), condition(views=3, mode=mode)
    out = sample(forward, draw(2, 4, 3), given, sampler())
    assert [t >= 0.6 for t in schedule(4, 3.0)[:4]] == [True, True, True, False]
    assert len(forward.times) == forwards
    first = sample(network, draw(2, 4, 3), ImageCondition(given.tokens_512[:, :1], None), sampler())
    assert (out - first).abs().max() > 1e-2
    positive = [feats for feats in forward.conditions if (feats != 0).any()]
    order = [0, 1, 2] * 4 if mode == "average" else [0, 1, 2, 0]
    for feats, view in zip(positive, order, strict=True):
        assert torch.equal(feats, given.tokens_512[:, view].flatten(0, 1))


@pytest.mark.parametrize("mode", ["average", "cycle"])
def test_equal_views_are_one(mode):
    one = condition()
    several = ImageCondition(one.tokens_512.repeat(1, 3, 1, 1), None, mode)
    expected = sample(network, draw(2, 4, 3), one, sampler())
    torch.testing.assert_close(sample(network, draw(2, 4, 3), several, sampler()), expected, atol=1e-5, rtol=0)


def test_views_need_a_mode_and_tokens():
    with pytest.raises(ValueError, match="got 'concat'"):
        condition(mode="concat")
    with pytest.raises(ValueError, match="expected image tokens at 1024"):
        condition().views(1024)
    with pytest.raises(ValueError, match="expected at least one image, got 2 objects of 0 views"):
        condition(views=0)


def test_a_batch_is_its_singles_when_dense():
    noise, given = draw(3, 4, 3, 2), condition(items=3)
    together = sample(network, noise, given, sampler())
    for i in range(3):
        single = sample(network, noise[i : i + 1], ImageCondition(given.tokens_512[i : i + 1], None), sampler())
        torch.testing.assert_close(single, together[i : i + 1], atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-2


def test_a_batch_is_its_singles_when_sparse():
    lengths = (5, 1, 63)
    starts = [0, *itertools.accumulate(lengths)]
    noise, given = draw(69, 4), condition(items=3)

    def run(lengths, noise, tokens):
        def forward(x, t, view):
            parts = zip(x.split(lengths), t, view.feats.split(view.lengths), strict=True)
            return torch.cat([0.3 * x - x.mean() * x.abs() + c.mean(0) + s / 1000 for x, s, c in parts])

        return sample(forward, noise, ImageCondition(tokens, None), sampler(), deviation=sparse_deviation(lengths))

    together = run(lengths, noise, given.tokens_512)
    for i, length in enumerate(lengths):
        mine = slice(starts[i], starts[i + 1])
        single = run((length,), noise[mine], given.tokens_512[i : i + 1])
        torch.testing.assert_close(single, together[mine], atol=1e-5, rtol=0)


def test_deviations_are_per_item():
    x = torch.cat([draw(5, 4), 10 * draw(63, 4, seed=1)])
    out = sparse_deviation((5, 63))(x)
    assert out.shape == (68, 1)
    wanted = torch.cat([part.double().std(correction=0).expand(len(part)) for part in x.split((5, 63))])
    torch.testing.assert_close(out[:, 0].double(), wanted, atol=1e-4, rtol=0)
    dense = dense_deviation(torch.stack([draw(4, 3), 10 * draw(4, 3, seed=1)]))
    assert dense.shape == (2, 1, 1)
    assert dense[1] > 5 * dense[0]


def test_the_noise_and_the_condition_are_left_alone_and_the_sample_repeats():
    noise, given = draw(2, 4, 3), condition()
    before = noise.clone(), given.tokens_512.clone()
    assert torch.equal(sample(network, noise, given, sampler()), sample(network, noise, given, sampler()))
    assert torch.equal(noise, before[0])
    assert torch.equal(given.tokens_512, before[1])


def test_a_guided_velocity_runs_nothing_it_does_not_need():
    def never(x, t):
        raise AssertionError("not needed")

    x = draw(2, 3)
    alone = guided(lambda x, t: x, never, Guidance(1.0, 0.7, (0.0, 1.0)), never, SIGMA_MIN)
    outside = guided(lambda x, t: x, never, Guidance(0.0, 0.7, (0.6, 1.0)), never, SIGMA_MIN)
    negative = guided(never, lambda x, t: x, Guidance(0.0, 0.7, (0.0, 1.0)), never, SIGMA_MIN)
    assert all(velocity(x, 0.5) is x for velocity in (alone, outside, negative))


# Structure, shape, texture; the second draws fewer numbers than a vectorised fill has, which torch draws otherwise.
STAGES = ((8, 16, 16, 16), (1, 8), (3, 5), (63, 32))


def test_stages_continue_one_stream():
    """Each stage alone draws what it would after the stages before it, as the reference does from one seed."""
    stream = torch.Generator().manual_seed(42)
    histories = ((),)
    for shape in STAGES:
        (noise,) = draw_noise([42], [shape], histories)
        assert torch.equal(noise, torch.randn(shape, generator=stream))
        histories = extend_histories(histories, [shape])
    assert histories == (STAGES,)


def test_stages_do_not_draw_the_same_noise():
    (first,) = draw_noise([42], [(63, 32)], [()])
    (second,) = draw_noise([42], [(63, 32)], [((8, 16),)])
    assert not torch.equal(first, second)


def test_noise_of_a_batch_is_that_of_singles():
    shapes, earlier = [(5, 8), (1, 8), (63, 8)], [((7,),), ((2, 2),), ()]
    together = draw_noise([3, 4, 5], shapes, earlier)
    for i in range(3):
        (single,) = draw_noise([3 + i], shapes[i : i + 1], earlier[i : i + 1])
        assert torch.equal(together[i], single)
        assert single.dtype == torch.float32
        assert single.device == torch.device("cpu")
    assert not torch.equal(together[0][:1], together[1])


def test_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    draw_noise([3], [(63, 8)], [((7,),)])
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_needs_a_shape_for_each_seed():
    with pytest.raises(ValueError, match="zip"):
        draw_noise([1, 2], [(3,)], [()])
