"""Pictures of what a stage sampled, to look at while the next ones run: voxels as blocks."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ..o_voxel.render.voxel_picture import voxel_picture
from .capabilities import LATENT_STRIDE
from .projection.frame import voxels_to_z_up
from .values import ShapeLatent, SparseStructure

# Pixels a side of one object's picture, and the number of objects of a batch that are drawn, side by side.
SIZE, MOST = 256, 4
# Colours of a latent: mean and spread of each sRGB channel.
MEAN, SPREAD = 0.6, 0.16


@torch.no_grad()
def picture_of(value: SparseStructure | ShapeLatent) -> Image.Image:
    """Draws voxels of a structure, or of a shape coloured by `latent_colors`; of a batch, the first MOST objects."""
    if isinstance(value, SparseStructure):
        drawn = [voxel_picture(_upright(v, value, value.resolution), SIZE) for v in value.items[:MOST]]
    else:
        coords, feats = value.slat.coords, value.slat.feats
        lengths = list(coords.lengths)
        grids = [resolution // LATENT_STRIDE for resolution in value.resolutions]
        items = zip(coords.voxels.split(lengths), feats.split(lengths), grids, strict=True)
        drawn = [voxel_picture(_upright(v, value, g), SIZE, latent_colors(f)) for v, f, g in list(items)[:MOST]]
    return Image.fromarray(torch.cat(drawn, dim=1).cpu().numpy())


def _upright(voxels: Tensor, value: SparseStructure | ShapeLatent, grid: int) -> Tensor:
    """The voxels [N, 3] z up, of a grid of so many a side."""
    return voxels_to_z_up(voxels, grid) if value.y_up else voxels


def latent_colors(feats: Tensor) -> Tensor:
    """Maps a latent [N, C] to sRGB [N, 3] by its three principal components, so that like parts have like colours.

    The sign of a component is that of its largest weight, as eigenvectors come with either.
    """
    centred = (feats - feats.mean(dim=0)).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, -3:]
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    parts = centred @ axes
    return (MEAN + SPREAD * parts / parts.std(dim=0, correction=0).clamp(min=1e-9)).clamp(0, 1).float()
