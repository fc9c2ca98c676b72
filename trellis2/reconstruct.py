"""A mesh through the VAEs alone, without a picture or a flow: the upper bound of what a checkpoint can reproduce."""

from __future__ import annotations

import torch

from ..o_voxel.values import OVoxel, to_device
from .models.shape_vae import dual_grid_features
from .models.texture_vae import field_features
from .pipeline import Pipeline
from .values import Asset, ShapeLatent, TextureLatent


@torch.no_grad()
def encode(pipeline: Pipeline, voxels: OVoxel) -> tuple[ShapeLatent, TextureLatent | None]:
    """The latents of one object, [T, C] fp32: the encoders' means, which the flows learn to sample.

    The texture latent is None for an object without materials. Raises MissingFileError where pipeline.json names no
    encoders, as the published one.
    """
    networks, resolution = pipeline.networks, voxels.dual_grid.grid.shape[0]
    voxels = to_device(voxels, networks.device)
    with networks.shape_encoder() as encoder:
        mean = encoder(dual_grid_features([voxels.dual_grid])).mean
    shape = ShapeLatent(mean, (resolution,), ((),))
    if voxels.field is None:
        return shape, None
    with networks.texture_encoder() as encoder:
        mean = encoder(field_features([voxels.field])).mean
    return shape, TextureLatent(mean, (resolution,), ((),))


def reconstruct(pipeline: Pipeline, voxels: OVoxel) -> Asset:
    """One object encoded and decoded, with the subdivisions that the decoder predicts. Raises as `encode`."""
    return pipeline.decode(*encode(pipeline, voxels))[0]
