"""Shape VAE: sparse U-Net between a latent and a flexible dual grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...o_voxel.core.grid import Grid
from ...o_voxel.values import DualGrid
from ..sparse import SparseTensor
from .sparse_vae import SparseDecoder, SparseEncoder


class ShapeEncoder(SparseEncoder):
    """Published name: FlexiDualGridVaeEncoder. Its input is `dual_grid_features`."""


class ShapeDecoder(SparseDecoder):
    """Published name: FlexiDualGridVaeDecoder. `dual_grids` converts its output."""

    def dual_grids(self, output: SparseTensor, resolutions: Sequence[int]) -> list[DualGrid]:
        """Converts the decoder's output [N, 7] to the dual grid of each item. resolutions: voxels a side of each
        grid."""
        margin = self.config.voxel_margin
        return [
            DualGrid(
                coords=voxels,
                dual=(1 + 2 * margin) * torch.sigmoid(feats[:, 0:3]) - margin,
                intersected=feats[:, 3:6] > 0,
                grid=Grid.cube(resolution),
                split_weight=F.softplus(feats[:, 6]),
            )
            for (voxels, feats), resolution in zip(output.items(), resolutions, strict=True)
        ]


def dual_grid_features(dual_grids: Sequence[DualGrid]) -> SparseTensor:
    """Returns the encoder's input [N, 6] fp32: dual vertex and intersected edges, both shifted to be centred on
    zero."""
    items: list[tuple[Tensor, Tensor]] = [
        (g.coords, torch.cat([g.dual - 0.5, g.intersected.to(torch.float32) - 0.5], dim=1)) for g in dual_grids
    ]
    return SparseTensor.from_items(items)
