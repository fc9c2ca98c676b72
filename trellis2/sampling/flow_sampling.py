"""Sampling from a flow network: schedule, guidance, views, integrator, step cache and CUDA graphs put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ...o_voxel.core.progress import Progress
from ..checkpoint.config import SamplerConfig
from ..models.latent_flow import LatentFlow
from ..models.structure_flow import StructureFlow
from ..models.transformer import FlowTransformer, PreparedCondition
from ..sparse import CoordSet, PackedSequences, SparseTensor
from ..values import ImageCondition
from .cropped import CropGuide
from .flow_matching import (
    Deviation,
    Guidance,
    StepVelocity,
    Velocity,
    average_views,
    blend_views,
    cycle_views,
    dense_deviation,
    evaluation_times,
    guided,
    integrate,
    model_time,
    schedule,
    sparse_deviation,
    to_sample,
)
from .projected import StageGuide
from .step_cache import with_step_cache
from .view_weights import grid_weights, voxel_weights

Guide = ImageCondition | StageGuide | CropGuide
# forward(x, time [B], condition, *extra_inputs) is a velocity of x's shape.
Forward = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class FlowCall:
    """How to call a flow network on the tokens of one noise.

    forward: calls `flow`.  deviation: of the sample, see `guided`.  coords: the tokens' voxels, None for a whole grid.
    extra_inputs: tensors that `forward` takes besides the image. It must not capture tensors that change between
    stages: a recorded CUDA graph keeps reading the first stage's.
    """

    flow: FlowTransformer
    forward: Forward
    deviation: Deviation
    coords: CoordSet | None = None
    extra_inputs: tuple[Tensor, ...] = ()


def sample_flow(
    call: FlowCall,
    noise: Tensor,
    condition: Guide,
    image_size: int,
    sampler: SamplerConfig,
    progress: Progress | None,
    start: float = 1.0,
) -> Tensor:
    """Integrate a flow network from `noise` to a sample of the same shape, under classifier-free guidance.

    noise: [B, ...] on a grid or [T, C] on voxels, fp32, on the network's device.  start: the time of `noise`; below 1
    it is a noised sample (`noised`).  image_size: pixels, 512 or 1024, of
    the images whose tokens the network takes.  progress(fraction) is called after every step and may raise to cancel.

    The keys and values of every view are computed once, before the first step. The negative condition is one zero token
    an object: the reference's zeros are all alike, so attending to one of them equals attending to all. Without
    projected features, those of the negative are zeros too.
    """
    params, device = sampler.params, noise.device
    times = schedule(params.steps, params.rescale_t, start)
    if params.times is not None:
        times = [start * t for t in params.times]
    views = [view.to(device) for view in condition.views(image_size)]
    _begin_stage(call, noise, views)

    def branch(name: str, conditions: Sequence[PackedSequences]) -> tuple[Branch, list[Velocity]]:
        found = Branch(call, name, noise, conditions)
        own: list[Velocity] = [partial(found.velocity, view) for view in range(len(conditions))]
        return found, [with_step_cache(velocity, times) for velocity in own] if params.step_cache else own

    seen, positives = branch("positive", views)
    positive_of = _of_views(condition, positives, _view_weights(call, noise, condition))
    guidance = Guidance(params.guidance_strength, params.guidance_rescale, params.guidance_interval)
    negative = positives[0]  # never called unless guidance applies
    if any(guidance.applies(t) for step in evaluation_times(times, params.integrator) for t in step):
        zeros = views[0].feats.new_zeros(condition.batch_size, views[0].feats.shape[1])
        _, (negative,) = branch("negative", [PackedSequences(zeros, (1,) * condition.batch_size)])
    if isinstance(condition, CropGuide) and condition.follow is not None:
        positive_of = _followed(positive_of, seen, condition.follow, sampler.args.sigma_min)

    def velocity_of(step: int) -> Velocity:
        return guided(positive_of(step), negative, guidance, call.deviation, sampler.args.sigma_min)

    return integrate(velocity_of, noise, times, params.integrator, progress)


def sample_structure_latent(
    flow: StructureFlow,
    noise: Tensor,
    condition: Guide,
    sampler: SamplerConfig,
    progress: Progress | None = None,
) -> Tensor:
    """[B, C, R, R, R] fp32 noise to the latent of the sparse structure, of the same shape; it has no normalisation."""
    return sample_flow(FlowCall(flow, flow, dense_deviation), noise, condition, 512, sampler, progress)


def sample_sparse_latent(
    flow: LatentFlow,
    noise: SparseTensor,
    condition: Guide,
    sampler: SamplerConfig,
    *,
    image_size: int,
    concat: SparseTensor | None = None,
    progress: Progress | None = None,
    start: float = 1.0,
) -> SparseTensor:
    """[T, C] fp32 noise on voxels to a latent in the model's normalised space, [T, C] fp32 on the same voxels.

    image_size, start: as in `sample_flow`.  concat: [T, D] more input channels on the same voxels, see `LatentFlow`.
    """
    coords = noise.coords

    def forward(x: Tensor, t: Tensor, image: PreparedCondition, *extra_inputs: Tensor) -> Tensor:
        more = SparseTensor(extra_inputs[0], coords) if extra_inputs else None
        return flow(SparseTensor(x, coords), t, image, more).feats

    extra_inputs = () if concat is None else (concat.feats,)
    call = FlowCall(flow, forward, sparse_deviation(coords.lengths), coords, extra_inputs)
    return noise.replace(sample_flow(call, noise.feats, condition, image_size, sampler, progress, start))


def _view_weights(call: FlowCall, noise: Tensor, condition: Guide) -> Tensor | None:
    """The views' weights for each token of `noise`, None unless they are blended."""
    if condition.view_mode != "blend" or condition.directions is None:
        return None
    directions = condition.directions.to(noise.device)
    if call.coords is None:
        return grid_weights(directions, noise.shape[-1], condition.temperature)
    return voxel_weights(directions, call.coords, condition.temperature)


def _of_views(condition: Guide, velocities: Sequence[Velocity], weights: Tensor | None) -> StepVelocity:
    """The velocity of all views together at each step, in the condition's mode."""
    if condition.view_mode == "cycle":
        return cycle_views(velocities)
    together = average_views(velocities) if weights is None else blend_views(velocities, weights)
    return lambda step: together


def _begin_stage(call: FlowCall, noise: Tensor, views: Sequence[PackedSequences]) -> None:
    """Keep the network's CUDA graphs if this stage can replay them, else free them before it needs their memory."""
    flow = call.flow
    num_tokens = noise.numel() // flow.config.out_channels
    key = flow.backends, views[0].lengths
    flow.graphs.begin(flow, noise.device, launch=flow.backends.launch, tokens=num_tokens, key=key, coords=call.coords)


class Branch:
    """The network's velocity under each of some conditions, equally long ones, which share the CUDA graph `name`."""

    def __init__(self, call: FlowCall, name: str, noise: Tensor, conditions: Sequence[PackedSequences]) -> None:
        lengths, num_extra = conditions[0].lengths, len(call.extra_inputs)
        self.call, self.lengths = call, lengths

        def forward(x: Tensor, t: Tensor, *inputs: Tensor) -> Tensor:  # without self: graphs keep it
            return call.forward(x, t, PreparedCondition.of(inputs[num_extra:], lengths), *inputs[:num_extra])

        inputs = self._inputs(conditions)
        self._step = call.flow.graphs.step(name, forward, noise, inputs[0])
        # A recorded step copied its inputs: with a single view nothing may keep the originals alive.
        self._to_load = inputs if len(inputs) > 1 else [None]

    def load(self, conditions: Sequence[PackedSequences]) -> None:
        """Take other conditions of the same lengths from now on."""
        self._to_load = self._inputs(conditions)

    def velocity(self, view: int, x: Tensor, t: float) -> Tensor:
        """The velocity at `x` and time t under condition number `view`."""
        return self._step(x, model_time(t, len(self.lengths), x.device), self._to_load[view])

    def _inputs(self, conditions: Sequence[PackedSequences]) -> list[tuple[Tensor, ...] | None]:
        return [(*self.call.extra_inputs, *self.call.flow.prepare(item).tensors()) for item in conditions]


def _followed(
    positive_of: StepVelocity,
    branch: Branch,
    follow: Callable[[Tensor], Sequence[PackedSequences]],
    sigma_min: float,
) -> StepVelocity:
    """The velocity of each step, the conditions of step 1, 2, 4, 8 and so on from where the step before was heading."""
    heading: list[Tensor] = []

    def velocity_of(step: int) -> Velocity:
        if heading and step.bit_count() == 1:
            branch.load(follow(heading.pop()))
        velocity = positive_of(step)

        def at(x: Tensor, t: float) -> Tensor:
            found = velocity(x, t)
            heading[:] = [to_sample(x, found, t, sigma_min)]
            return found

        return at

    return velocity_of
