"""A mesh through the VAEs alone, without a picture or a flow: what a checkpoint can say at all."""

from __future__ import annotations

import torch

from ..o_voxel.values import OVoxel, to_device
from .models.shape_vae import dual_grid_features
from .models.texture_vae import field_features
from .pipeline import Asset, Pipeline
from .values import ShapeLatent, TextureLatent

SHAPE_ENCODER, TEXTURE_ENCODER = "shape_slat_encoder", "tex_slat_encoder"


@torch.no_grad()
def encode(pipeline: Pipeline, voxels: OVoxel) -> tuple[ShapeLatent, TextureLatent | None]:
    """The latents of an object: the encoders' means, as the flows sample them. No texture where it has no materials.

    Raises MissingFileError where pipeline.json names no encoders, as the published one.
    """
    resolution, device = voxels.dual_grid.grid.shape[0], pipeline.residency.device
    voxels = to_device(voxels, device)
    with pipeline.model(SHAPE_ENCODER) as encoder:
        mean = encoder(dual_grid_features([voxels.dual_grid])).mean
    shape = ShapeLatent(mean, (resolution,), ((),))
    if voxels.field is None:
        return shape, None
    with pipeline.model(TEXTURE_ENCODER) as encoder:
        mean = encoder(field_features([voxels.field])).mean
    return shape, TextureLatent(mean, (resolution,), ((),))


def reconstruct(pipeline: Pipeline, voxels: OVoxel) -> Asset:
    """An object encoded and decoded, its subdivisions predicted. Raises as `encode`."""
    return pipeline.decode(*encode(pipeline, voxels))[0]
