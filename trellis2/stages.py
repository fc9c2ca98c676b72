"""The stages as functions: networks, conditions and noise in, latents out. `pipeline.py` tells the story over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .capture import graph_pool, recorded
from .config import Normalization, SamplerConfig
from .forecast import forecast
from .models.latent_flow import LatentFlow
from .models.structure_flow import StructureFlow
from .models.transformer import FlowTransformer, PreparedCondition
from .sampling import (
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
from .sparse import CoordSet, Ragged, SparseTensor
from .values import ImageCondition

# Latent voxels a side are 1/16 of the surface's.
LATENT_STRIDE = 16
# Below this the cascade does not reduce its resolution, and each reduction takes this much off.
CASCADE_FLOOR, CASCADE_STEP = 1024, 128

Forward = Callable[[Tensor, Tensor, PreparedCondition], Tensor]


def sample_flow(
    flow: FlowTransformer,
    forward: Forward,
    noise: Tensor,
    condition: ImageCondition,
    resolution: int,
    sampler: SamplerConfig,
    deviation: Deviation,
    progress: Progress | None,
) -> Tensor:
    """Follow a flow network from noise under image guidance.

    forward(x, time [B], condition) calls `flow`; resolution says which tokens it takes; see `sampling` for the rest.
    The negative condition is zeros. All its tokens are alike, so attention to one is attention to all.
    """
    params, sigma_min = sampler.params, sampler.args.sigma_min
    times = schedule(params.steps, params.rescale_t)
    views = [view.replace(view.feats.to(noise.device)) for view in condition.views(resolution)]
    items, tokens = condition.batch_size, noise.numel() // flow.config.out_channels
    pool = graph_pool(noise.device)

    def toward(view: Ragged) -> Velocity:
        prepared = flow.prepare(view)
        step = recorded(lambda x, t: forward(x, t, prepared), flow.backends.launch, tokens, noise.device, pool)

        def velocity(x: Tensor, t: float) -> Tensor:
            return step(x, model_time(t, items, x.device))

        return forecast(velocity, times) if params.step_cache else velocity

    velocities = [toward(view) for view in views]
    by_cycle = condition.view_mode == "cycle"
    positive = cycle_views(velocities, times) if by_cycle else average_views(velocities)
    negative = toward(Ragged(views[0].feats.new_zeros(items, views[0].feats.shape[1]), (1,) * items))
    guidance = Guidance(params.guidance_strength, params.guidance_rescale, params.guidance_interval)
    return euler(guided(positive, negative, guidance, deviation, sigma_min), noise, times, progress)


def sample_structure_latent(
    flow: StructureFlow,
    noise: Tensor,
    condition: ImageCondition,
    sampler: SamplerConfig,
    progress: Progress | None = None,
) -> Tensor:
    """[B, C, R, R, R] noise to the latent of the sparse structure, which is not normalised."""
    return sample_flow(flow, flow, noise, condition, 512, sampler, dense_deviation, progress)


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

    def forward(x: Tensor, t: Tensor, image: PreparedCondition) -> Tensor:
        return flow(noise.replace(x), t, image, concat).feats

    deviation = sparse_deviation(noise.coords.lengths)
    feats = sample_flow(flow, forward, noise.feats, condition, resolution, sampler, deviation, progress)
    return noise.replace(feats)


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
