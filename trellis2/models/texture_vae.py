"""Texture VAE: sparse U-Net between a latent and six PBR channels, on the shape's voxels."""

from __future__ import annotations

from collections.abc import Sequence

from ...o_voxel.core.grid import Grid
from ...o_voxel.values import VoxelField
from ..sparse import SparseTensor
from .sparse_vae import SparseDecoder, SparseEncoder


class TextureEncoder(SparseEncoder):
    """Published name: SparseUnetVaeEncoder. Its input is `field_features`."""


class TextureDecoder(SparseDecoder):
    """Published name: SparseUnetVaeDecoder. Guided by the shape decoder's subdivisions."""

    def fields(self, output: SparseTensor, resolutions: Sequence[int]) -> list[VoxelField]:
        """Converts the decoder's output [N, 6] to the PBR field of each item. resolutions: voxels a side of each grid.
        Values may exceed [0, 1] slightly, as in the reference."""
        return [
            VoxelField(voxels, feats * 0.5 + 0.5, Grid.cube(resolution))
            for (voxels, feats), resolution in zip(output.items(), resolutions, strict=True)
        ]


def field_features(fields: Sequence[VoxelField]) -> SparseTensor:
    """Returns the encoder's input [N, 6] fp32: the PBR channels mapped from [0, 1] to [-1, 1]."""
    return SparseTensor.from_items([(f.coords, f.attrs.float() * 2 - 1) for f in fields])
