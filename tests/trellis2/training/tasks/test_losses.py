"""The losses against their definitions, and what is random about them."""

import pytest
import torch
from comfyui_trellis2.trellis2.sampling.flow_matching import to_sample
from comfyui_trellis2.trellis2.training.tasks.losses import (
    binary_loss,
    dice_loss,
    item_mean,
    kl_divergence,
    logit_normal_time,
    noisy,
    reparameterize,
    split_loss,
    velocity_target,
)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("lengths", [(5,), (1, 63, 8), (3, 0, 4)], ids=str)
def test_every_object_counts_the_same(lengths):
    values = numbers(sum(lengths), 3)
    means = torch.stack([part.mean() for part in values.split(lengths) if len(part)])
    torch.testing.assert_close(item_mean(values, lengths), means.mean())


def test_a_batch_in_parts_has_the_same_loss():
    values, lengths = numbers(70, 2), (7, 13, 40, 10)
    parts = [
        item_mean(part, pair) for part, pair in zip(values.split((20, 50)), (lengths[:2], lengths[2:]), strict=True)
    ]
    torch.testing.assert_close(item_mean(values, lengths), torch.stack(parts).mean())


def test_kl_against_torch():
    mean, logvar = numbers(100), numbers(100, seed=1)
    ours, unit = torch.distributions.Normal(mean, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(kl_divergence(mean, logvar), torch.distributions.kl_divergence(ours, unit))


def test_samples_have_the_deviation_that_is_asked_for():
    sample = reparameterize(torch.tensor(3.0), torch.tensor(4.0).log(), numbers(100_000))
    assert sample.mean() == pytest.approx(3, abs=0.03) and sample.std() == pytest.approx(2, abs=0.03)


def test_dice_is_nothing_for_the_truth_and_nearly_one_for_its_opposite():
    truth = (numbers(2, 1, 8, 8, 8) > 1).double()
    right, wrong = (40 * truth - 20), (20 - 40 * truth)
    assert dice_loss(right, truth).max() < 1e-6
    assert dice_loss(wrong, truth).min() > 0.9


def test_the_path_and_the_velocity_are_those_that_sampling_walks():
    sample, noise, sigma = numbers(50), numbers(50, seed=1), 1e-5
    for t in (0.1, 0.5, 0.9):
        x, velocity = noisy(sample, noise, torch.tensor(t), sigma), velocity_target(sample, noise, sigma)
        torch.testing.assert_close(to_sample(x, velocity, t, sigma), sample, atol=1e-6, rtol=0)
        torch.testing.assert_close((1 - t) * velocity + x, noise, atol=1e-4, rtol=0)
    torch.testing.assert_close(noisy(sample, noise, torch.tensor(1.0), sigma), noise)


def test_times_are_logit_normal():
    t = logit_normal_time(numbers(20_000), 1.0, 0.5)
    logits = t.logit()
    assert logits.mean() == pytest.approx(1, abs=0.02) and logits.std() == pytest.approx(0.5, abs=0.02)
    assert t.min() > 0 and t.max() < 1


# Corners 0 and 2 are raised: split along 0-2 the quad is a ridge, along 1-3 a valley; a kite folds less along one.
FOLDED = torch.tensor([[0.0, 0, 0.9], [1, 0, 0], [3, 3, 0.1], [0, 1, 0]])


def test_split_weights_learn_the_diagonal_that_folds_less():
    quads, logits = torch.tensor([[0, 1, 2, 3]]), torch.zeros(4, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(split_loss(quads, FOLDED, logits).sum(), logits)
        logits.data -= gradient
    weight = torch.nn.functional.softplus(logits)
    folds = {}
    for name, triangles in {"02": ((0, 1, 2), (0, 2, 3)), "13": ((0, 1, 3), (3, 1, 2))}.items():
        normals = [torch.linalg.cross(FOLDED[b] - FOLDED[a], FOLDED[c] - FOLDED[a]) for a, b, c in triangles]
        folds[name] = float(torch.cosine_similarity(*normals, dim=0))
    assert abs(folds["02"] - folds["13"]) > 0.1
    assert bool(weight[0] * weight[2] > weight[1] * weight[3]) == (folds["02"] > folds["13"])


def test_a_flat_quad_asks_for_no_diagonal():
    flat = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    assert split_loss(torch.tensor([[0, 1, 2, 3]]), flat, torch.zeros(4)).item() == pytest.approx(0, abs=1e-6)


def test_what_is_missing_weighs_more():
    logits, wanted = numbers(40).float(), numbers(40, seed=1) > 0
    plain, weighted = binary_loss(logits, wanted), binary_loss(logits, wanted, 3.0)
    torch.testing.assert_close(weighted, torch.where(wanted, 3 * plain, plain))
