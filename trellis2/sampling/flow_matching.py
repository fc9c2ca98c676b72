"""Flow matching: schedule, guidance and integrators, as functions over plain tensors.

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
# velocity_of(k): the velocity that step k, from times[k] to times[k + 1], integrates.
StepVelocity = Callable[[int], Velocity]
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


def blend_views(views: Sequence[Velocity], weights: Tensor) -> Velocity:
    """The weighted sum of the views' velocities: every step runs the network once for each view.

    weights: [V, ...], of each view one tensor that broadcasts against a velocity; they add up to 1 over V. Velocities
    are added up one after the other, so that two of them are in memory, not V.
    """
    if len(weights) != len(views):
        raise ValueError(f"weights: expected one for each of {len(views)} views, got {len(weights)}")
    if len(views) == 1:
        return views[0]

    def velocity(x: Tensor, t: float) -> Tensor:
        total = weights[0] * views[0](x, t)
        for weight, view in zip(weights[1:], views[1:], strict=True):
            total = torch.addcmul(total, weight, view(x, t))
        return total

    return velocity


def cycle_views(views: Sequence[Velocity]) -> StepVelocity:
    """View k mod V for step k, for all evaluations of that step: each runs the network once, for one of V views."""
    return lambda step: views[step % len(views)]


@dataclass(frozen=True)
class RungeKutta:
    """An explicit method for one step of length h from time t: stage i is evaluated at time t - nodes[i] h and at the
    sample moved by rows[i] of the earlier stages' velocities; the step moves by `weights` of them."""

    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def times(self, t: float, following: float) -> list[float]:
        """Times of the evaluations of a step; node 1 is `following` to the last digit."""
        return [following if node == 1 else t - node * (t - following) for node in self.nodes]


_EULER = RungeKutta((0,), ((),), (1,))
# Order 2, trapezoidal; order 3 (both: Heun 1900); order 4 (Kutta 1901).
_HEUN = RungeKutta((0, 1), ((), (1,)), (1 / 2, 1 / 2))
_HEUN_3 = RungeKutta((0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4))
_KUTTA = RungeKutta((0, 1 / 2, 1 / 2, 1), ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
# Name -> (method, method of a step to time 0). At 0 the guided velocity divides by sigma_min (`to_velocity`) and no
# network was trained, so the last step has no evaluation there: one order less in a single step keeps the order of the
# whole. For Heun this is the sampler of Karras et al. 2022 (arXiv 2206.00364, algorithm 1).
_METHODS = {"euler": (_EULER, _EULER), "heun": (_HEUN, _EULER), "rk4": (_KUTTA, _HEUN_3)}


def evaluation_times(times: Sequence[float], integrator: str = "euler") -> list[list[float]]:
    """The times at which each step of a run along `times` evaluates the velocity."""
    steps = zip(times, times[1:], strict=False)
    return [_method(integrator, following).times(t, following) for t, following in steps]


def integrate(
    velocity_of: StepVelocity,
    noise: Tensor,
    times: Sequence[float],
    integrator: str = "euler",
    progress: Progress | None = None,
) -> Tensor:
    """The sample at times[-1], integrated from `noise` at times[0]. `noise` is not written to.

    integrator: of INTEGRATORS: "euler", order 1, one evaluation a step; "heun", order 2, two; "rk4", order 4, four; the
    last two one less in the step to time 0.  progress(fraction done) is called after every step; may raise to cancel.
    """
    x = noise
    for k, (t, following) in enumerate(zip(times, times[1:], strict=False)):
        x = _step(_method(integrator, following), velocity_of(k), x, t, following)
        if progress is not None:
            progress((k + 1) / (len(times) - 1))
    return x


def euler(velocity: Velocity, noise: Tensor, times: Sequence[float], progress: Progress | None = None) -> Tensor:
    """`integrate` by Euler steps, as the reference does."""
    return integrate(lambda step: velocity, noise, times, "euler", progress)


def _method(integrator: str, following: float) -> RungeKutta:
    inner, last = _METHODS[integrator]
    return inner if following > 0 else last


def _step(method: RungeKutta, velocity: Velocity, x: Tensor, t: float, following: float) -> Tensor:
    found: list[Tensor] = []
    for row, at in zip(method.rows, method.times(t, following), strict=True):
        found.append(velocity(_moved(x, found, row, t - following), at))
    return _moved(x, found, method.weights, t - following)


def _moved(x: Tensor, velocities: Sequence[Tensor], weights: Sequence[float], length: float) -> Tensor:
    """x - length * sum of weights * velocities."""
    terms = [v if w == 1 else w * v for v, w in zip(velocities, weights, strict=True) if w != 0]
    if not terms:
        return x
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return x - length * total
