"""The stages as functions: networks, conditions and noise in, latents out. `pipeline.py` tells the story over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .config import Normalization, SamplerConfig
from .models.latent_flow import LatentFlow
from .models.structure_flow import StructureFlow
from .sampling import (
    Deviation,
    Guidance,
    Progress,
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

Forward = Callable[[Tensor, Tensor, Ragged], Tensor]


def sample_flow(
    forward: Forward,
    noise: Tensor,
    condition: ImageCondition,
    resolution: int,
    sampler: SamplerConfig,
    deviation: Deviation,
    progress: Progress | None,
) -> Tensor:
    """Follow a flow network from noise under image guidance. The negative condition is zeros.

    forward(x, time [B], condition) is the network; resolution says which tokens it takes; see `sampling` for the rest.
    """
    params, sigma_min = sampler.params, sampler.args.sigma_min
    times = schedule(params.steps, params.rescale_t)
    views = [view.replace(view.feats.to(noise.device)) for view in condition.views(resolution)]

    def toward(view: Ragged) -> Callable[[Tensor, float], Tensor]:
        return lambda x, t: forward(x, model_time(t, len(view.lengths), x.device), view)

    velocities = [toward(view) for view in views]
    by_cycle = condition.view_mode == "cycle"
    positive = cycle_views(velocities, times) if by_cycle else average_views(velocities)
    negative = toward(views[0].replace(torch.zeros_like(views[0].feats)))
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
    return sample_flow(flow, noise, condition, 512, sampler, dense_deviation, progress)


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

    def forward(x: Tensor, t: Tensor, view: Ragged) -> Tensor:
        return flow(noise.replace(x), t, view, concat).feats

    deviation = sparse_deviation(noise.coords.lengths)
    return noise.replace(sample_flow(forward, noise.feats, condition, resolution, sampler, deviation, progress))


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
