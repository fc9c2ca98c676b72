"""The sparse U-Net halves of the shape and texture VAEs: ConvNeXt blocks at five resolutions, 16x apart end to end.

Going down, the eight children of a voxel are stacked into its channels; going up they are unstacked, and the decoder
predicts which children exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import SparseDecoderConfig, SparseEncoderConfig
from ..ops.submanifold_conv import child_conv
from ..sparse import (
    CoordSet,
    SparseTensor,
    Subdivision,
    SubmanifoldConv3d,
    channel_to_spatial,
    spatial_to_channel,
)
from .layers import Backends, LayerNorm32, cast_layers

Progress = Callable[[float], None]


class ConvNeXtBlock(nn.Module):
    """Convolution, layer norm, MLP with SiLU, residual."""

    def __init__(self, channels: int, backend: str) -> None:
        super().__init__()
        self.norm = LayerNorm32(channels, eps=1e-6)
        self.conv = SubmanifoldConv3d(channels, channels, backend=backend)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels))

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(self.mlp(self.norm(self.conv(x).feats)) + x.feats)


class _Resample(nn.Module):
    """The shared body of a down or up block: norm, conv, change of resolution, norm, conv."""

    def __init__(self, in_channels: int, middle: int, out_channels: int, backend: str) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(in_channels, eps=1e-6)
        self.norm2 = LayerNorm32(out_channels, eps=1e-6, elementwise_affine=False)
        self.conv1 = SubmanifoldConv3d(in_channels, middle, backend=backend)
        self.conv2 = SubmanifoldConv3d(out_channels, out_channels, backend=backend)

    def second(self, h: SparseTensor) -> Tensor:
        return self.conv2(h.replace(self.norm2(h.feats, silu=True))).feats


class DownBlock(_Resample):
    """C channels to O at half the resolution; the skip path averages the stacked children down to O channels."""

    def __init__(self, in_channels: int, out_channels: int, backend: str) -> None:
        super().__init__(in_channels, out_channels // 8, out_channels, backend)
        self.out_channels = out_channels

    def forward(self, x: SparseTensor) -> tuple[SparseTensor, Subdivision]:
        subdivision = x.coords.coarsen()
        h = spatial_to_channel(self.conv1(x.replace(self.norm1(x.feats, silu=True))), subdivision)
        skip = spatial_to_channel(x, subdivision).feats.unflatten(1, (self.out_channels, -1)).mean(-1)
        return h.replace(self.second(h) + skip), subdivision


class UpBlock(_Resample):
    """C channels to O at twice the resolution, on the children that are given or predicted."""

    def __init__(self, in_channels: int, out_channels: int, predict: bool, backend: str) -> None:
        super().__init__(in_channels, 8 * out_channels, out_channels, backend)
        self.repeat = out_channels // (in_channels // 8)
        if predict:
            self.to_subdiv = nn.Linear(in_channels, 8)
        self.predict = predict

    def logits(self, x: SparseTensor) -> Tensor | None:
        """[N, 8]: a child exists where its logit is positive; None from a block that does not predict."""
        return self.to_subdiv(x.feats) if self.predict else None

    def forward(self, x: SparseTensor, subdivision: Subdivision) -> SparseTensor:
        children = child_conv(
            self.norm1(x.feats, silu=True),
            x.coords.neighbors(),
            self.conv1.weight,
            self.conv1.bias,
            subdivision.parent,
            subdivision.child,
            backend=self.conv1.backend,
        )
        h = SparseTensor(children, subdivision.fine)
        skip = channel_to_spatial(x, subdivision).feats.repeat_interleave(self.repeat, dim=1)
        return h.replace(self.second(h) + skip)


@dataclass(frozen=True, eq=False)
class Encoded:
    """mean, logvar: the latent on the coarsest voxels, fp32.  subdivisions: coarse to fine, for a guided decode."""

    mean: SparseTensor
    logvar: Tensor
    subdivisions: tuple[Subdivision, ...]


@dataclass(frozen=True, eq=False)
class Decoded:
    """output: fp32 on the finest voxels.  subdivisions: coarse to fine.  logits: what was predicted, or None each."""

    output: SparseTensor
    subdivisions: tuple[Subdivision, ...]
    logits: tuple[Tensor | None, ...]


class SparseEncoder(nn.Module):
    """Published name: SparseUnetVaeEncoder. Channels in, `latent_channels` out at 1/16 of the resolution."""

    def __init__(self, config: SparseEncoderConfig, backends: Backends | None = None) -> None:
        super().__init__()
        self.config = config
        conv = (backends or Backends()).conv
        widths = config.model_channels
        self.input_layer = nn.Linear(config.in_channels, widths[0])
        self.to_latent = nn.Linear(widths[-1], 2 * config.latent_channels)
        levels = [[ConvNeXtBlock(w, conv) for _ in range(n)] for w, n in zip(widths, config.num_blocks, strict=True)]
        for level, (width, following) in enumerate(zip(widths, widths[1:], strict=False)):
            levels[level].append(DownBlock(width, following, conv))
        self.blocks = nn.ModuleList(nn.ModuleList(level) for level in levels)
        self.torso_dtype = config.torso_dtype
        cast_layers(self.blocks, (nn.Linear, SubmanifoldConv3d), self.torso_dtype)

    def forward(self, x: SparseTensor) -> Encoded:
        """x: [N, in] fp32."""
        h = x.replace(self.input_layer(x.feats).to(self.torso_dtype))
        subdivisions = []
        for block in (block for level in self.blocks for block in level):
            if isinstance(block, DownBlock):
                h, subdivision = block(h)
                subdivisions.append(subdivision)
            else:
                h = block(h)
        feats = h.feats.to(x.feats.dtype)
        mean, logvar = self.to_latent(F.layer_norm(feats, feats.shape[-1:], eps=1e-5)).chunk(2, dim=1)
        return Encoded(h.replace(mean), logvar, tuple(reversed(subdivisions)))


class SparseDecoder(nn.Module):
    """Published name: SparseUnetVaeDecoder. `latent_channels` in, channels out at 16 times the resolution."""

    def __init__(self, config: SparseDecoderConfig, backends: Backends | None = None) -> None:
        super().__init__()
        self.config = config
        conv = (backends or Backends()).conv
        widths = config.model_channels
        self.output_layer = nn.Linear(widths[-1], config.out_channels)
        self.from_latent = nn.Linear(config.latent_channels, widths[0])
        levels = [[ConvNeXtBlock(w, conv) for _ in range(n)] for w, n in zip(widths, config.num_blocks, strict=True)]
        for level, (width, following) in enumerate(zip(widths, widths[1:], strict=False)):
            levels[level].append(UpBlock(width, following, config.pred_subdiv, conv))
        self.blocks = nn.ModuleList(nn.ModuleList(level) for level in levels)
        self.torso_dtype = config.torso_dtype
        cast_layers(self.blocks, (nn.Linear, SubmanifoldConv3d), self.torso_dtype)

    def forward(
        self, z: SparseTensor, guide: Sequence[Subdivision] | None = None, progress: Progress | None = None
    ) -> Decoded:
        """z: [N, latent] fp32.  guide: the subdivisions to follow, coarse to fine, starting at the voxels of z;
        without it they are predicted, which needs `pred_subdiv`.  progress(fraction) may raise to cancel."""
        guide = self._checked_guide(z, guide)
        if guide is not None:
            z = SparseTensor(z.feats, guide[0].coarse)
        h = z.replace(self.from_latent(z.feats).to(self.torso_dtype))
        total = sum(len(level) for level in self.blocks)
        done, subdivisions, logits = 0, [], []
        for level, blocks in enumerate(self.blocks):
            for block in blocks:
                if isinstance(block, UpBlock):
                    logits.append(block.logits(h))
                    subdivisions.append(guide[level] if guide else h.coords.subdivide(logits[-1] > 0))
                    h = block(h, subdivisions[-1])
                else:
                    h = block(h)
                done += 1
                if progress is not None:
                    progress(done / total)
        feats = h.feats.to(z.feats.dtype)
        output = h.replace(self.output_layer(F.layer_norm(feats, feats.shape[-1:], eps=1e-5)))
        return Decoded(output, tuple(subdivisions), tuple(logits))

    def upsample(self, z: SparseTensor, levels: int, progress: Progress | None = None) -> CoordSet:
        """The predicted voxels after `levels` doublings; the last level's features are never computed."""
        if not 1 <= levels < len(self.blocks):
            raise ValueError(f"levels: expected 1 to {len(self.blocks) - 1}, got {levels}")
        if not self.config.pred_subdiv:
            raise ValueError("upsample: this decoder does not predict subdivisions (pred_subdiv is false)")
        h = z.replace(self.from_latent(z.feats).to(self.torso_dtype))
        for level, blocks in enumerate(self.blocks[:levels]):
            for block in blocks[:-1]:
                h = block(h)
            subdivision = h.coords.subdivide(blocks[-1].logits(h) > 0)
            if level + 1 < levels:
                h = blocks[-1](h, subdivision)
            if progress is not None:
                progress((level + 1) / levels)
        return subdivision.fine

    def _checked_guide(self, z: SparseTensor, guide: Sequence[Subdivision] | None) -> Sequence[Subdivision] | None:
        if guide is None:
            if not self.config.pred_subdiv:
                raise ValueError("guide: expected the shape decoder's subdivisions, got none (pred_subdiv is false)")
            return None
        if len(guide) != len(self.blocks) - 1:
            raise ValueError(f"guide: expected {len(self.blocks) - 1} subdivisions, got {len(guide)}")
        if not guide[0].coarse.same_voxels(z.coords):
            raise ValueError("guide: its coarsest voxels are not those of the latent")
        return guide
