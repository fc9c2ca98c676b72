"""Sparse U-Net encoder and decoder of the shape and texture VAEs: ConvNeXt blocks at five resolutions, 16x in total.

The encoder stacks the eight children of a voxel into its channels; the decoder unstacks them and predicts which
children exist. Letters: N voxels, M finer voxels, C input and O output channels of a block.

Memory: wide temporaries are computed for some rows at a time (`chunked`). Under a memory budget, only the voxels and
the output of the decoder's finest level exist as a whole (`SparseDecoder.forward`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...o_voxel.core.progress import Progress, silent
from ..checkpoint.config import SparseDecoderConfig, SparseEncoderConfig
from ..ops.submanifold_conv import child_conv, submanifold_conv, tile_neighbors
from ..runtime.memory import device_memory, with_less
from ..sparse import CoordSet, SparseTensor, Subdivision, SubmanifoldConv3d, spatial_to_channel, with_halo
from .chunked import chunk_size, chunked
from .layers import Backends, LayerNorm32, cast_layers

# Parts of the finest level are multiples of this many voxels, the chunk size of the output layer.
PART_ROWS = 2**18
# Bytes per voxel of a part besides two rows of features: its neighbours, global, local and tiled.
PART_VOXEL_BYTES = 640
# Share of the free memory that a part may take if no budget is given.
PART_SHARE = 0.25
# And after the memory has run out.
RETRY_SHARE = 0.05


class ConvNeXtBlock(nn.Module):
    """Convolution, layer norm, MLP with SiLU, residual: [N, C] to [N, C]."""

    def __init__(self, channels: int, backend: str) -> None:
        super().__init__()
        self.norm = LayerNorm32(channels, eps=1e-6)
        self.conv = SubmanifoldConv3d(channels, channels, backend=backend)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """x: [N, C]. Returns [N, C]."""
        h = self.conv(x).feats
        hidden = self.mlp[0].out_features * h.element_size()
        return x.replace(chunked(self._mix, h, h, x.feats, rows=chunk_size(len(h), hidden)))

    def _mix(self, h: Tensor, skip: Tensor, out: Tensor | None) -> Tensor:
        first, _, last = self.mlp
        hidden = first(self.norm(h))
        return torch.add(last(F.silu(hidden, inplace=not hidden.requires_grad)), skip, out=out)


class _Resample(nn.Module):
    """Layers shared by down and up blocks: norm, conv, change of resolution, norm, conv."""

    def __init__(self, in_channels: int, middle: int, out_channels: int, backend: str) -> None:
        super().__init__()
        self.norm1 = LayerNorm32(in_channels, eps=1e-6)
        self.norm2 = LayerNorm32(out_channels, eps=1e-6, elementwise_affine=False)
        self.conv1 = SubmanifoldConv3d(in_channels, middle, backend=backend)
        self.conv2 = SubmanifoldConv3d(out_channels, out_channels, backend=backend)

    def active(self, norm: LayerNorm32, feats: Tensor, out: Tensor | None) -> Tensor:
        """Returns SiLU of the normalised features [N, C], a convolution's input, written to `out` if given."""

        def normed(feats: Tensor, out: Tensor | None) -> Tensor:
            feats = norm(feats, silu=True)
            return feats if out is None else out.copy_(feats)

        return chunked(normed, out, feats, rows=chunk_size(len(feats), 2 * 4 * feats.shape[1]))


class DownBlock(_Resample):
    """[M, C] to [N, O] at half the resolution; the skip path averages the stacked children to O channels."""

    def __init__(self, in_channels: int, out_channels: int, backend: str) -> None:
        super().__init__(in_channels, out_channels // 8, out_channels, backend)
        self.out_channels = out_channels

    def forward(self, x: SparseTensor) -> tuple[SparseTensor, Subdivision]:
        """x: [M, C]. Returns [N, O] on the parents, and the subdivision."""
        subdivision = x.coords.coarsen()
        h = spatial_to_channel(self.conv1(x.replace(self.active(self.norm1, x.feats, None))), subdivision)
        h = self.conv2(h.replace(self.active(self.norm2, h.feats, h.feats)))
        skip = spatial_to_channel(x, subdivision).feats.unflatten(1, (self.out_channels, -1)).mean(-1)
        return h.replace(h.feats + skip), subdivision


class UpBlock(_Resample):
    """[N, C] to [M, O] at twice the resolution, on given or predicted children."""

    def __init__(self, in_channels: int, out_channels: int, predict: bool, backend: str) -> None:
        super().__init__(in_channels, 8 * out_channels, out_channels, backend)
        self.repeat = out_channels // (in_channels // 8)
        if predict:
            self.to_subdiv = nn.Linear(in_channels, 8)
        self.predict = predict

    def logits(self, x: SparseTensor) -> Tensor | None:
        """Returns [N, 8], positive for existing children; None from a block that does not predict."""
        return self.to_subdiv(x.feats) if self.predict else None

    def forward(self, x: SparseTensor, subdivision: Subdivision) -> SparseTensor:
        """x: [N, C]. Returns [M, O] on the subdivision's fine voxels."""
        parent, child, fine = subdivision.parent, subdivision.child, subdivision.fine
        active = self.active(self.norm1, x.feats, None)
        h = self._children(active, x.coords, parent, child, len(fine))
        del active
        return SparseTensor(self._skip(self.conv2(SparseTensor(h, fine)).feats, x, parent, child), fine)

    def part(self, x: SparseTensor, active: Tensor, subdivision: Subdivision, start: int, stop: int) -> Tensor:
        """Returns rows `start` to `stop` of `forward`'s features, [n, O] with n = stop - start, computed with the halo
        of the second convolution only. active: `self.active(self.norm1, x.feats, None)`, [N, C]."""
        tile, total = with_halo(subdivision.fine, start, stop), len(subdivision.fine)
        parent, child = tile.extend(subdivision.parent), tile.extend(subdivision.child)
        h = self._children(active, x.coords, parent, child, total)
        out = submanifold_conv(
            h,
            tile.neighbors,
            self.conv2.weight,
            self.conv2.bias,
            tiles=lambda: tile_neighbors(tile.neighbors, total=total),
            backend=self.conv2.backend,
        )
        return self._skip(out, x, parent[: stop - start], child[: stop - start])

    def _children(self, active: Tensor, coords: CoordSet, parent: Tensor, child: Tensor, total: int) -> Tensor:
        """Returns [n, O]: the first convolution's output for these n children, of `total`, normalised for the
        second."""
        neighbors = coords.neighbors()
        h = child_conv(
            active,
            neighbors,
            self.conv1.weight,
            self.conv1.bias,
            parent,
            child,
            tiles=lambda: tile_neighbors(neighbors, parent, child, total=total),
            backend=self.conv1.backend,
        )
        return self.active(self.norm2, h, h)

    def _skip(self, out: Tensor, x: SparseTensor, parent: Tensor, child: Tensor) -> Tensor:
        """Adds the skip path to out [n, O]: the parents' channels for these children, each repeated `repeat` times."""
        children = x.feats.unflatten(1, (8, -1))

        def add(h: Tensor, parent: Tensor, child: Tensor, out: Tensor | None) -> Tensor:
            return torch.add(h, children[parent, child].repeat_interleave(self.repeat, dim=1), out=out)

        rows = chunk_size(len(out), 2 * out.shape[1] * out.element_size())
        return chunked(add, out, out, parent, child, rows=rows)


@dataclass(frozen=True, eq=False)
class Encoded:
    """mean, logvar: the latent [N, latent] fp32 on the coarsest voxels.  subdivisions: coarse to fine, for a guided
    decode."""

    mean: SparseTensor
    logvar: Tensor
    subdivisions: tuple[Subdivision, ...]


@dataclass(frozen=True, eq=False)
class Decoded:
    """output: [M, out] fp32 on the finest voxels.  subdivisions: coarse to fine.  logits: predicted ones of each level,
    [N, 8] or None."""

    output: SparseTensor
    subdivisions: tuple[Subdivision, ...]
    logits: tuple[Tensor | None, ...]


class SparseEncoder(nn.Module):
    """Published name: SparseUnetVaeEncoder. `in_channels` in, `latent_channels` out at 1/16 of the resolution."""

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

    def forward(self, x: SparseTensor, progress: Progress | None = None) -> Encoded:
        """Encodes x [N, in] fp32. progress(fraction) may raise to cancel."""
        h = x.replace(self.input_layer(x.feats).to(self.torso_dtype))
        subdivisions, blocks, report = [], [block for level in self.blocks for block in level], progress or silent
        for done, block in enumerate(blocks):
            report(done / len(blocks))
            if isinstance(block, DownBlock):
                h, subdivision = block(h)
                subdivisions.append(subdivision)
            else:
                h = block(h)
        feats = h.feats.to(x.feats.dtype)
        mean, logvar = self.to_latent(F.layer_norm(feats, feats.shape[-1:], eps=1e-5)).chunk(2, dim=1)
        return Encoded(h.replace(mean), logvar, tuple(reversed(subdivisions)))


class SparseDecoder(nn.Module):
    """Published name: SparseUnetVaeDecoder. `latent_channels` in, `out_channels` out at 16 times the resolution."""

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
        self,
        z: SparseTensor,
        guide: Sequence[Subdivision] | None = None,
        progress: Progress | None = None,
        memory_budget: int | None = None,
    ) -> Decoded:
        """Decodes z [N, latent] fp32. guide: subdivisions to follow, coarse to fine, starting at the voxels of z;
        without it they are predicted, which needs `pred_subdiv`.  progress(fraction) may raise to cancel.

        memory_budget: bytes for the features of the finest level; beyond it the level is computed in parts, each with
        the halo of its convolution. None: a quarter of the free memory. With the Triton kernels the output is
        bit-identical for every budget, with the reference equal up to rounding.
        """
        guide = self._checked_guide(z, guide)
        if guide is not None:
            z = SparseTensor(z.feats, guide[0].coarse)
        h = z.replace(self.from_latent(z.feats).to(self.torso_dtype))
        # The last up block belongs to the finest level if no block follows it.
        *most, last = [(level, block) for level, blocks in enumerate(self.blocks) for block in blocks]
        in_parts, subdivisions, logits = isinstance(last[1], UpBlock), [], []

        def divide(h: SparseTensor, level: int, block: UpBlock) -> Subdivision:
            logits.append(block.logits(h))
            subdivisions.append(guide[level] if guide else h.coords.subdivide(logits[-1] > 0))
            return subdivisions[-1]

        def report(done: float) -> None:
            if progress is not None:
                progress(done / (len(most) + 1))

        for done, (level, block) in enumerate(most if in_parts else [*most, last], 1):
            h = block(h, divide(h, level, block)) if isinstance(block, UpBlock) else block(h)
            report(done)
        if in_parts:
            level, block = last
            coarse, fine, device = h, divide(h, level, block), z.feats.device
            h = with_less(
                lambda budget: self._finest(block, coarse, fine, budget, lambda share: report(len(most) + share)),
                memory_budget,
                lambda: int(RETRY_SHARE * device_memory(device).free),
                device,
            )
        else:
            h = h.replace(self._read_out(h.feats))
        return Decoded(h, tuple(subdivisions), tuple(logits))

    def _finest(
        self, block: UpBlock, x: SparseTensor, subdivision: Subdivision, memory_budget: int | None, report: Progress
    ) -> SparseTensor:
        """Computes the last up block and the output layer, in parts if the budget requires it."""
        fine, step = subdivision.fine, self._part_rows(x.feats, memory_budget)
        if len(fine) <= step:
            output = self._read_out(block(x, subdivision).feats)
            report(1)
            return SparseTensor(output, fine)
        active = block.active(block.norm1, x.feats, None)
        out = torch.empty(
            len(fine), self.output_layer.out_features, dtype=self.output_layer.weight.dtype, device=x.feats.device
        )
        for start in range(0, len(fine), step):
            stop = min(start + step, len(fine))
            out[start:stop] = self._read_out(block.part(x, active, subdivision, start, stop))
            report(stop / len(fine))
        return SparseTensor(out, fine)

    def _part_rows(self, feats: Tensor, memory_budget: int | None) -> int:
        """Returns the number of the finest level's voxels to compute at a time."""
        if memory_budget is None:
            memory_budget = int(PART_SHARE * device_memory(feats.device).free)
        voxel = PART_VOXEL_BYTES + 2 * self.config.model_channels[-1] * feats.element_size()
        return max(1, memory_budget // (voxel * PART_ROWS)) * PART_ROWS

    def _read_out(self, feats: Tensor) -> Tensor:
        """Maps features [N, width] of the finest level to the output [N, out], both norm and layer in fp32."""

        def last(feats: Tensor, out: Tensor | None) -> Tensor:
            feats = feats.to(self.output_layer.weight.dtype)
            feats = self.output_layer(F.layer_norm(feats, feats.shape[-1:], eps=1e-5))
            return feats if out is None else out.copy_(feats)

        return chunked(last, None, feats, rows=PART_ROWS)

    def upsample(self, z: SparseTensor, levels: int, progress: Progress | None = None) -> CoordSet:
        """Returns the predicted voxels after `levels` doublings of z [N, latent] fp32, without computing the last
        level's features."""
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
