"""Sparse-structure VAE: dense 3D convolutions between an occupancy grid and a latent at a quarter of its resolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint.config import StructureDecoderConfig, StructureEncoderConfig
from .layers import LayerNorm32, cast_layers


class ChannelLayerNorm(LayerNorm32):
    """Layer norm over the channels of [B, C, X, Y, Z], at each voxel."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, X, Y, Z]. Returns the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ResBlock3d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = ChannelLayerNorm(channels)
        self.norm2 = ChannelLayerNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, C, X, Y, Z]. Returns the same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class DownsampleBlock3d(nn.Module):
    """Halves the grid with a strided convolution: [B, C, X, Y, Z] to [B, D, X / 2, Y / 2, Z / 2]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UpsampleBlock3d(nn.Module):
    """Doubles the grid: a convolution to eight times the channels, rearranged to 2x2x2 voxels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, 8 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle_3d(self.conv(x))


def pixel_shuffle_3d(x: Tensor) -> Tensor:
    """Rearranges [B, 8 C, X, Y, Z] to [B, C, 2 X, 2 Y, 2 Z]; input channel c * 8 + dx * 4 + dy * 2 + dz."""
    b, c, *size = x.shape
    blocks = x.reshape(b, c // 8, 2, 2, 2, *size).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return blocks.reshape(b, c // 8, *(2 * n for n in size))


def _levels(channels: tuple[int, ...], num_res_blocks: int, change: type[nn.Module]) -> nn.ModuleList:
    """Builds the flat list of a published checkpoint: each level's residual blocks, then the change to the next
    level."""
    blocks: list[nn.Module] = []
    for level, width in enumerate(channels):
        blocks += [ResBlock3d(width) for _ in range(num_res_blocks)]
        if level + 1 < len(channels):
            blocks.append(change(width, channels[level + 1]))
    return nn.ModuleList(blocks)


class _StructureNet(nn.Module):
    """Layers shared by encoder and decoder; all but the first and last run in the torso's dtype."""

    def __init__(
        self, config: StructureEncoderConfig | StructureDecoderConfig, ends: tuple[int, int], change: type[nn.Module]
    ) -> None:
        super().__init__()
        self.config = config
        first, last = config.channels[0], config.channels[-1]
        middle = last if change is DownsampleBlock3d else first
        self.input_layer = nn.Conv3d(ends[0], first, 3, padding=1)
        self.blocks = _levels(config.channels, config.num_res_blocks, change)
        self.middle_block = nn.Sequential(*(ResBlock3d(middle) for _ in range(config.num_res_blocks_middle)))
        self.out_layer = nn.Sequential(ChannelLayerNorm(last), nn.SiLU(), nn.Conv3d(last, ends[1], 3, padding=1))
        self.torso_dtype = config.torso_dtype
        cast_layers((self.blocks, self.middle_block), (nn.Conv3d,), self.torso_dtype)


class StructureDecoder(_StructureNet):
    """Decodes a latent [B, latent, R, R, R] fp32 to occupancy logits [B, 1, 4 R, 4 R, 4 R] fp32; occupied where > 0.

    Published name: SparseStructureDecoder.
    """

    def __init__(self, config: StructureDecoderConfig) -> None:
        super().__init__(config, (config.latent_channels, config.out_channels), UpsampleBlock3d)

    def forward(self, z: Tensor) -> Tensor:
        """z: [B, latent, R, R, R] fp32. Returns [B, 1, 4 R, 4 R, 4 R] fp32."""
        h = self.middle_block(self.input_layer(z).to(self.torso_dtype))
        for block in self.blocks:
            h = block(h)
        return self.out_layer(h.to(z.dtype))


class StructureEncoder(_StructureNet):
    """Encodes occupancy [B, 1, 4 R, 4 R, 4 R] fp32 to (mean, logvar) of the latent, [B, latent, R, R, R] fp32 each.

    Published name: SparseStructureEncoder.
    """

    def __init__(self, config: StructureEncoderConfig) -> None:
        super().__init__(config, (config.in_channels, 2 * config.latent_channels), DownsampleBlock3d)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, 1, 4 R, 4 R, 4 R] fp32. Returns two [B, latent, R, R, R] fp32."""
        h = self.input_layer(x).to(self.torso_dtype)
        for block in self.blocks:
            h = block(h)
        mean, logvar = self.out_layer(self.middle_block(h).to(x.dtype)).chunk(2, dim=1)
        return mean, logvar


def occupied_voxels(logits: Tensor, resolution: int) -> list[Tensor]:
    """Returns the occupied voxels of each item, [N_i, 3] int32 in (x, y, z) order, on a grid of `resolution` a side.

    logits: [B, 1, S, S, S]; a voxel is occupied where > 0, a coarser one if any voxel inside it is.
    """
    size = logits.shape[-1]
    if resolution < 1 or size % resolution:
        raise ValueError(f"resolution: expected a divisor of the decoded grid's {size}, got {resolution}")
    occupied = (logits > 0).float()
    pooled = F.max_pool3d(occupied, size // resolution)[:, 0] > 0
    return [grid.nonzero().to(torch.int32) for grid in pooled]
