"""Flow matching: schedule, guidance and Euler steps, as functions over plain tensors.

Time runs from 1 (noise) to 0 (data); x_t = (1 - t) x_0 + (sigma_min + (1 - sigma_min) t) eps, and a model predicts the
velocity v = (1 - sigma_min) eps - x_0 (rectified flow: Liu et al. 2022, arXiv 2209.03003; conventions: TRELLIS.2's
samplers). Samples x, velocities and noise are fp32 of one shape: [B, ...] on a grid, or [T, C] packed tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...o_voxel.core.progress import Progress

# velocity(x, t) at time t from 1 to 0, of x's shape.
Velocity = Callable[[Tensor, float], Tensor]
# deviation(x): standard deviation of each item, broadcastable against x.
Deviation = Callable[[Tensor], Tensor]
# progress(fraction done), which may raise to cancel.


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance within an interval of times.

    strength: weight of the positive condition; 1 is the positive alone, 0 the negative alone, above 1 extrapolates.
    rescale: 0 to 1, how far the guided sample's standard deviation is rescaled to the positive one's (Lin et al. 2023,
    arXiv 2305.08891).  interval: (first, last) time at which guidance applies, both included (Kynkäänniemi et al. 2024,
    arXiv 2404.07724); outside it the positive runs alone.
    """

    strength: float
    rescale: float
    interval: tuple[float, float]

    def applies(self, t: float) -> bool:
        """True if the negative takes part in the step at time t."""
        return self.strength != 1 and self.interval[0] <= t <= self.interval[1]


def schedule(steps: int, rescale_t: float, start: float = 1.0) -> list[float]:
    """steps + 1 times from `start`, above 0 and at most 1, to 0; rescale_t above 1 spends more steps near the noise.

    Computed in NumPy's float64, as in the reference: the published settings put a step exactly on an edge of the
    guidance interval, which float32 misses, and torch's linspace differs in the last digit.
    """
    # The time before rescaling that becomes `start`: 1 for 1, exactly.
    uniform = np.linspace(start / (rescale_t - (rescale_t - 1) * start), 0, steps + 1)
    return (rescale_t * uniform / (1 + (rescale_t - 1) * uniform)).tolist()


def model_time(t: float, items: int, device: torch.device) -> Tensor:
    """[items] float32 filled with 1000 * t, the time as the networks take it."""
    return torch.full((items,), 1000 * t, dtype=torch.float32, device=device)


def noised(sample: Tensor, noise: Tensor, t: float, sigma_min: float) -> Tensor:
    """The clean `sample` with `noise` of the same shape mixed in up to time t: x_t of the module's text."""
    return (1 - t) * sample + (sigma_min + (1 - sigma_min) * t) * noise


def to_sample(x: Tensor, velocity: Tensor, t: float, sigma_min: float) -> Tensor:
    """The clean sample x_0 implied by `velocity` at the sample `x` of time t."""
    return (1 - sigma_min) * x - (sigma_min + (1 - sigma_min) * t) * velocity


def to_velocity(x: Tensor, sample: Tensor, t: float, sigma_min: float) -> Tensor:
    """The velocity at `x` and time t that implies the clean `sample`: the inverse of `to_sample`."""
    return ((1 - sigma_min) * x - sample) / (sigma_min + (1 - sigma_min) * t)


def dense_deviation(x: Tensor) -> Tensor:
    """Unbiased standard deviation of each item of x [B, ...], as [B, 1, ...]."""
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def sparse_deviation(lengths: Sequence[int]) -> Deviation:
    """The deviation of packed tokens x [T, C]: of each item's tokens and channels, as [T, 1]; of one item, [1, 1].

    lengths: tokens of each item. Biased (over N, not N - 1), unlike the dense one: both as in the reference.
    """

    def deviation(x: Tensor) -> Tensor:
        variances = [item.square().mean() - item.mean().square() for item in x.split(list(lengths))]
        # Rounding can leave a constant item's variance just below zero.
        values = torch.stack(variances).clamp_min(0).sqrt()[:, None]
        # No tensor from the host here: its upload would wait for all queued device work.
        return (
            values if len(variances) == 1 else torch.cat([v.expand(n, 1) for v, n in zip(values, lengths, strict=True)])
        )

    return deviation


def guided(
    positive: Velocity, negative: Velocity, guidance: Guidance, deviation: Deviation, sigma_min: float
) -> Velocity:
    """The velocity under guidance. The negative runs only at times where guidance applies.

    deviation: of the samples, for `guidance.rescale`.
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        if not guidance.applies(t):
            return positive(x, t)
        if guidance.strength == 0:
            return negative(x, t)
        conditional = positive(x, t)
        mixed = guidance.strength * conditional + (1 - guidance.strength) * negative(x, t)
        if guidance.rescale <= 0:
            return mixed
        positive_sample, sample = (to_sample(x, v, t, sigma_min) for v in (conditional, mixed))
        rescaled = sample * (deviation(positive_sample) / deviation(sample))
        return to_velocity(x, guidance.rescale * rescaled + (1 - guidance.rescale) * sample, t, sigma_min)

    return velocity


def average_views(views: Sequence[Velocity]) -> Velocity:
    """The mean of the views' velocities: every step runs the network once for each view."""
    if len(views) == 1:
        return views[0]

    def velocity(x: Tensor, t: float) -> Tensor:
        total = views[0](x, t)
        for view in views[1:]:
            total = total + view(x, t)
        return total / len(views)

    return velocity


def cycle_views(views: Sequence[Velocity], times: Sequence[float]) -> Velocity:
    """The velocity of view k mod V at step k of `times`: every step runs the network once, for one of V views."""
    step_of = {t: k for k, t in enumerate(times)}
    return lambda x, t: views[step_of[t] % len(views)](x, t)


def euler(velocity: Velocity, noise: Tensor, times: Sequence[float], progress: Progress | None = None) -> Tensor:
    """The sample at times[-1]: Euler integration of `velocity` from `noise` at times[0]. `noise` is not written to.

    progress(fraction done) is called after every step and may raise to cancel.
    """
    x = noise
    for k, (t, following) in enumerate(zip(times, times[1:], strict=False)):
        x = x - (t - following) * velocity(x, t)
        if progress is not None:
            progress((k + 1) / (len(times) - 1))
    return x
