"""Flow matching: schedule, guidance and Euler steps, as functions over plain tensors.

Time runs from 1 (noise) to 0 (data); x_t = (1 - t) x_0 + (sigma_min + (1 - sigma_min) t) eps, and a model predicts the
velocity v = (1 - sigma_min) eps - x_0 (rectified flow; facts: TRELLIS.2's samplers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
Deviation = Callable[[Tensor], Tensor]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance.

    strength: 1 follows the condition alone, 0 the negative alone, above 1 pushes away from the negative.
    rescale: how far to pull the guided sample's deviation back to the conditional one's, 0 to 1.
    interval: times between which guidance applies, both ends included; outside, the condition alone.
    """

    strength: float
    rescale: float
    interval: tuple[float, float]

    def applies(self, t: float) -> bool:
        return self.strength != 1 and self.interval[0] <= t <= self.interval[1]


def schedule(steps: int, rescale_t: float) -> list[float]:
    """steps + 1 times from 1 to 0; rescale_t above 1 spends more steps near the noise.

    NumPy's float64, as the reference: the published settings put a step exactly on an edge of the guidance interval,
    which float32 misses, and torch's own linspace differs in the last digit.
    """
    uniform = np.linspace(1, 0, steps + 1)
    return (rescale_t * uniform / (1 + (rescale_t - 1) * uniform)).tolist()


def model_time(t: float, items: int, device: torch.device) -> Tensor:
    """[items] float32, 1000 * t: the time as the networks take it."""
    return torch.full((items,), 1000 * t, dtype=torch.float32, device=device)


def to_sample(x: Tensor, velocity: Tensor, t: float, sigma_min: float) -> Tensor:
    """The clean sample that `velocity` at `x` points to."""
    return (1 - sigma_min) * x - (sigma_min + (1 - sigma_min) * t) * velocity


def to_velocity(x: Tensor, sample: Tensor, t: float, sigma_min: float) -> Tensor:
    """The velocity at `x` that points to the clean `sample`: the inverse of `to_sample`."""
    return ((1 - sigma_min) * x - sample) / (sigma_min + (1 - sigma_min) * t)


def to_noise(x: Tensor, velocity: Tensor, t: float) -> Tensor:
    """The noise that `velocity` at `x` points away from."""
    return (1 - t) * velocity + x


def dense_deviation(x: Tensor) -> Tensor:
    """Standard deviation of each item of [B, ...], unbiased, shaped to broadcast."""
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def sparse_deviation(lengths: Sequence[int]) -> Deviation:
    """Standard deviation of each item's tokens and channels in [T, C], one value a token: [T, 1]; of one item [1, 1].

    Biased (over N, not N - 1), unlike the dense one: both as in the reference.
    """

    def deviation(x: Tensor) -> Tensor:
        parts = [part.square().mean() - part.mean().square() for part in x.split(list(lengths))]
        # Rounding can leave a constant item's variance just below zero.
        values = torch.stack(parts).clamp_min(0).sqrt()[:, None]
        # Nothing here may come from the host: an upload would wait for all the work before it.
        return values if len(parts) == 1 else torch.cat([v.expand(n, 1) for v, n in zip(values, lengths, strict=True)])

    return deviation


def guided(
    positive: Velocity, negative: Velocity, guidance: Guidance, deviation: Deviation, sigma_min: float
) -> Velocity:
    """The velocity under guidance; the negative branch runs only where guidance applies."""

    def velocity(x: Tensor, t: float) -> Tensor:
        if not guidance.applies(t):
            return positive(x, t)
        if guidance.strength == 0:
            return negative(x, t)
        conditional = positive(x, t)
        mixed = guidance.strength * conditional + (1 - guidance.strength) * negative(x, t)
        if guidance.rescale <= 0:
            return mixed
        wanted, sample = (to_sample(x, v, t, sigma_min) for v in (conditional, mixed))
        rescaled = sample * (deviation(wanted) / deviation(sample))
        return to_velocity(x, guidance.rescale * rescaled + (1 - guidance.rescale) * sample, t, sigma_min)

    return velocity


def average_views(views: Sequence[Velocity]) -> Velocity:
    """The mean velocity over several views of one object: one forward a view at every step."""
    if len(views) == 1:
        return views[0]

    def velocity(x: Tensor, t: float) -> Tensor:
        total = views[0](x, t)
        for view in views[1:]:
            total = total + view(x, t)
        return total / len(views)

    return velocity


def cycle_views(views: Sequence[Velocity], times: Sequence[float]) -> Velocity:
    """View k mod V at step k of `times`: the cost of a single view, each step listening to one of them."""
    step_of = {t: k for k, t in enumerate(times)}
    return lambda x, t: views[step_of[t] % len(views)](x, t)


def euler(velocity: Velocity, noise: Tensor, times: Sequence[float], progress: Progress | None = None) -> Tensor:
    """Follow `velocity` from `noise` at times[0] to times[-1]. Returns the sample; `noise` is left as it was.

    progress(fraction done) is called after every step and cancels the run by raising.
    """
    x = noise
    for k, (t, following) in enumerate(zip(times, times[1:], strict=False)):
        x = x - (t - following) * velocity(x, t)
        if progress is not None:
            progress((k + 1) / (len(times) - 1))
    return x


def draw_noise(
    seeds: Sequence[int], shapes: Sequence[tuple[int, ...]], drawn: Sequence[Sequence[tuple[int, ...]]]
) -> list[Tensor]:
    """Standard normal noise of each item, float32, on the CPU: the same for a seed on every device.

    An item's stages share one stream, as in the reference: a stage's noise follows what the earlier stages of that
    item drew, the shapes `drawn`. So one seed throughout gives the reference's noise, stage by stage, and no
    generator has to travel between stages.
    """
    noises = []
    for seed, shape, earlier in zip(seeds, shapes, drawn, strict=True):
        generator = torch.Generator("cpu").manual_seed(seed)
        for skipped in earlier:
            torch.randn(skipped, generator=generator)
        noises.append(torch.randn(shape, generator=generator))
    return noises
