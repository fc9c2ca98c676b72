"""Layers on sparse tensors that depend on coordinates. Linear layers and norms take the features alone."""

from __future__ import annotations

import torch
from torch import nn

from ..ops.submanifold_conv import submanifold_conv, tile_neighbors
from .coords import Subdivision
from .tensor import SparseTensor


class SubmanifoldConv3d(nn.Module):
    """3x3x3 submanifold convolution, [N, in] to [N, out]. weight: [out, 3, 3, 3, in], first kernel axis x."""

    def __init__(self, in_channels: int, out_channels: int, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = (27 * in_channels) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """x: [N, in]. Returns [N, out] on the same voxels."""
        neighbors = x.coords.neighbors()

        def tiles() -> object:
            return x.coords.derive("tiles", lambda: tile_neighbors(neighbors))

        return x.replace(
            submanifold_conv(x.feats, neighbors, self.weight, self.bias, tiles=tiles, backend=self.backend)
        )


def spatial_to_channel(x: SparseTensor, subdivision: Subdivision) -> SparseTensor:
    """Stacks [M, C] on fine voxels to [N, 8 C] on their parents; child s fills channels s C to (s + 1) C.

    x: on `subdivision.fine`. Channels of missing children are zero.
    """
    channels = x.feats.shape[1]
    packed = x.feats.new_zeros(len(subdivision.coarse), 8, channels)
    packed[subdivision.parent, subdivision.child] = x.feats
    return SparseTensor(packed.flatten(1), subdivision.coarse)
