"""The stages as functions: networks, conditions and noise in, latents out. `pipeline.py` tells the story over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..checkpoint.config import Normalization, SamplerConfig
from ..models.latent_flow import LatentFlow
from ..models.structure_flow import StructureFlow
from ..models.transformer import FlowTransformer, PreparedCondition
from ..runtime.cuda_graphs import Layout
from ..sparse import CoordSet, Ragged, SparseTensor
from ..values import ImageCondition
from .flow_matching import (
    Deviation,
    Guidance,
    Progress,
    Velocity,
    average_views,
    cycle_views,
    dense_deviation,
    euler,
    guided,
    model_time,
    schedule,
    sparse_deviation,
)
from .step_cache import forecast

# Latent voxels a side are 1/16 of the surface's.
LATENT_STRIDE = 16
# Below this the cascade does not reduce its resolution, and each reduction takes this much off.
CASCADE_FLOOR, CASCADE_STEP = 1024, 128

# forward(x, time [B], condition, *beside): a velocity like x.
Forward = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class Work:
    """A flow network on the tokens of one noise.

    forward: calls `flow`.  deviation: see `guided`.  coords: where the tokens are, None for a whole grid.
    beside: what `forward` takes besides the image. It may close over nothing else that a later stage has other numbers
    of: a recording would go on with those of its first stage.
    """

    flow: FlowTransformer
    forward: Forward
    deviation: Deviation
    coords: CoordSet | None = None
    beside: tuple[Tensor, ...] = ()


def sample_flow(
    work: Work,
    noise: Tensor,
    condition: ImageCondition,
    resolution: int,
    sampler: SamplerConfig,
    progress: Progress | None,
) -> Tensor:
    """Follow a flow network from noise under image guidance.

    resolution: says which of the condition's tokens the network takes; see `sampling` for the rest.
    The negative condition is zeros. All its tokens are alike, so attention to one is attention to all.
    """
    flow, params, sigma_min = work.flow, sampler.params, sampler.args.sigma_min
    times = schedule(params.steps, params.rescale_t)
    views = [view.replace(view.feats.to(noise.device)) for view in condition.views(resolution)]
    items, tokens = condition.batch_size, noise.numel() // flow.config.out_channels
    layout = Layout(flow.backends.launch, tokens, (flow.backends, views[0].lengths), work.coords)
    flow.recordings.begin(flow, layout, noise.device)

    def toward(branch: str, views: Sequence[Ragged]) -> list[Velocity]:
        """The velocity toward each of the views, which share one recording."""
        lengths, count = views[0].lengths, len(work.beside)

        def forward(x: Tensor, t: Tensor, *inputs: Tensor) -> Tensor:
            return work.forward(x, t, PreparedCondition.of(inputs[count:], lengths), *inputs[:count])

        given = [(*work.beside, *flow.prepare(view).tensors()) for view in views]
        step = flow.recordings.step(branch, forward, noise, given[0])
        step.load(given[0])
        # A single view's keys and values are copied where a step is recorded: nothing may hold on to them.
        several = given if len(given) > 1 else [None]

        def velocity(x: Tensor, t: float, own: Sequence[Tensor] | None) -> Tensor:
            if own is not None:
                step.load(own)
            return step(x, model_time(t, items, x.device))

        velocities = [partial(velocity, own=own) for own in several]
        return [forecast(v, times) for v in velocities] if params.step_cache else velocities

    velocities = toward("positive", views)
    by_cycle = condition.view_mode == "cycle"
    positive = cycle_views(velocities, times) if by_cycle else average_views(velocities)
    guidance = Guidance(params.guidance_strength, params.guidance_rescale, params.guidance_interval)
    negative = positive  # where guidance never applies, which does not ask for it
    if any(guidance.applies(t) for t in times[:-1]):
        zeros = Ragged(views[0].feats.new_zeros(items, views[0].feats.shape[1]), (1,) * items)
        (negative,) = toward("negative", [zeros])
    return euler(guided(positive, negative, guidance, work.deviation, sigma_min), noise, times, progress)


def sample_structure_latent(
    flow: StructureFlow,
    noise: Tensor,
    condition: ImageCondition,
    sampler: SamplerConfig,
    progress: Progress | None = None,
) -> Tensor:
    """[B, C, R, R, R] noise to the latent of the sparse structure, which is not normalised."""
    return sample_flow(Work(flow, flow, dense_deviation), noise, condition, 512, sampler, progress)


def sample_sparse_latent(
    flow: LatentFlow,
    noise: SparseTensor,
    condition: ImageCondition,
    sampler: SamplerConfig,
    *,
    resolution: int,
    concat: SparseTensor | None = None,
    progress: Progress | None = None,
) -> SparseTensor:
    """Noise on voxels to a latent in the model's (normalised) space; concat as in `LatentFlow`."""

    coords = noise.coords

    def forward(x: Tensor, t: Tensor, image: PreparedCondition, *more: Tensor) -> Tensor:
        others = SparseTensor(*more, coords) if more else None
        return flow(SparseTensor(x, coords), t, image, others).feats

    beside = () if concat is None else (concat.feats,)
    work = Work(flow, forward, sparse_deviation(coords.lengths), coords, beside)
    return noise.replace(sample_flow(work, noise.feats, condition, resolution, sampler, progress))


def normalize(latent: SparseTensor, stats: Normalization) -> SparseTensor:
    """To the model's space: (x - mean) / std by channel."""
    mean, std = (latent.feats.new_tensor(values) for values in (stats.mean, stats.std))
    return latent.replace((latent.feats - mean) / std)


def denormalize(latent: SparseTensor, stats: Normalization) -> SparseTensor:
    """From the model's space: the inverse of `normalize`."""
    mean, std = (latent.feats.new_tensor(values) for values in (stats.mean, stats.std))
    return latent.replace(latent.feats * std + mean)


def cascade_voxels(fine: Tensor, source_resolution: int, target_resolution: int, max_tokens: int) -> tuple[Tensor, int]:
    """The latent voxels of the next cascade stage, for one object: ([N, 3] int32 sorted, the resolution reached).

    fine: [M, 3] int32, the predicted surface voxels on a grid of source_resolution a side. The target is reduced in
    steps of 128, to 1024 at the least, until fewer than max_tokens voxels remain. (Scattered voxels may need more
    tokens at a lower resolution; the search is the reference's all the same.)
    """
    resolution = target_resolution
    while True:
        scaled = (fine + 0.5) / source_resolution * (resolution // LATENT_STRIDE)
        voxels = torch.unique(scaled.to(torch.int32), dim=0)
        if len(voxels) < max_tokens or resolution <= CASCADE_FLOOR:
            return voxels, resolution
        resolution = max(CASCADE_FLOOR, resolution - CASCADE_STEP)


def noise_on(items: Sequence[Tensor], noises: Sequence[Tensor], device: torch.device) -> SparseTensor:
    """Noise [N_i, C] of each object on its voxels [N_i, 3]."""
    return SparseTensor(torch.cat(list(noises)).to(device), CoordSet.from_items([v.to(device) for v in items]))
