"""Encodes and decodes voxels with the VAEs alone, without image or flow: the upper bound of a checkpoint's quality."""

from __future__ import annotations

import torch

from ..o_voxel.values import OVoxel, to_device
from .models.shape_vae import dual_grid_features
from .models.texture_vae import field_features
from .pipeline import Pipeline
from .values import Asset, ShapeLatent, TextureLatent


@torch.no_grad()
def encode(pipeline: Pipeline, voxels: OVoxel) -> tuple[ShapeLatent, TextureLatent | None]:
    """Encodes one object to its shape and texture latents, [T, C] fp32: the encoders' means, the flows' training
    target.

    The texture latent is None for an object without materials. Raises MissingFileError if pipeline.json names no
    encoders, as in the published checkpoint.
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
    """Encodes and decodes one object, with the subdivisions that the decoder predicts. Raises the errors of
    `encode`."""
    return pipeline.decode(*encode(pipeline, voxels))[0]
