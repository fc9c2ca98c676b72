"""The training tasks of the three VAEs: occupancy, shape (dual grid) and texture (PBR materials)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ....o_voxel.ops.dual_quads import dual_quads
from ...models.shape_vae import dual_grid_features
from ...models.sparse_vae import Decoded, Encoded
from ...models.texture_vae import field_features
from ...sparse import CoordSet, SparseTensor
from ..data.batches import Batch, Item, occupancy, pack_voxels, unpack_voxels
from ..data.stream import generators, packed_noise
from ..recipe import DataConfig, StageConfig
from .losses import dice_loss, item_mean, kl_divergence, reparameterize, split_loss, subdivision_loss
from .task import Task


class StructureVae(Task):
    """VAE of the dense occupancy grid; cross-entropy, Dice and KL.

    Batch: occupied [B, 1, R, R, R] fp32 in {0, 1}, R = data.structure; seeds: B ints.
    """

    inputs = "voxels"
    weights: ClassVar = {"occupancy": 1.0, "dice": 1.0, "kl": 1e-2}

    @classmethod
    def roles(cls, stage: StageConfig) -> tuple[str, ...]:
        return ("sparse_structure_encoder", "sparse_structure_decoder")

    @classmethod
    def collate(cls, items: list[Item], data: DataConfig, stage: StageConfig) -> Batch:
        grids = [sample.voxels.dual_grid for sample, _ in items]
        return {"occupied": occupancy(grids, data.structure), "seeds": tuple(seed for _, seed in items)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        encoder, decoder = self.networks.values()
        occupied = batch["occupied"]
        mean, logvar = (part.float() for part in encoder(occupied))
        noise = torch.stack([torch.randn(mean.shape[1:], generator=draw) for draw in generators(batch["seeds"])])
        logits = decoder(reparameterize(mean, logvar, noise.to(mean.device))).float()
        return {
            "occupancy": F.binary_cross_entropy_with_logits(logits, occupied),
            "dice": dice_loss(logits, occupied).mean(),
            "kl": kl_divergence(mean, logvar).mean(),
        }


class SparseVae(Task):
    """Common to the sparse VAEs: collation, a latent sample, and decoding along the true subdivisions.

    Batch: the tensors of `pack_voxels`; seeds: B ints.
    """

    inputs = "voxels"

    @classmethod
    def collate(cls, items: list[Item], data: DataConfig, stage: StageConfig) -> Batch:
        packed = pack_voxels([sample.voxels for sample, _ in items])
        return {**packed, "seeds": tuple(seed for _, seed in items)}

    def decode(self, x: SparseTensor, seeds: Sequence[int]) -> tuple[Encoded, Decoded]:
        """Encode x [N, C], sample the latent with each object's seed, and decode it on the true voxels."""
        encoder, decoder = self.networks.values()
        encoded = encoder(x)
        mean, logvar = encoded.mean.feats.float(), encoded.logvar.float()
        noise = packed_noise(generators(seeds), encoded.mean.coords.lengths, mean.shape[1], mean)
        latent = encoded.mean.replace(reparameterize(mean, logvar, noise))
        return encoded, decoder(latent, encoded.subdivisions)


class ShapeVae(SparseVae):
    """VAE of the dual grid: dual vertices (squared error), intersected edges and child occupancy at each level
    (cross-entropy), split weights (see `losses.split_loss`) and KL."""

    weights: ClassVar = {"dual": 1.0, "intersected": 0.1, "subdivision": 0.1, "split": 0.01, "kl": 1e-6}

    @classmethod
    def roles(cls, stage: StageConfig) -> tuple[str, ...]:
        return ("shape_slat_encoder", "shape_slat_decoder")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = dual_grid_features([voxels.dual_grid for voxels in unpack_voxels(batch)])
        encoded, decoded = self.decode(x, batch["seeds"])
        lengths, feats = x.coords.lengths, decoded.output.feats.float()
        margin = self.networks["shape_slat_decoder"].config.voxel_margin
        dual = (1 + 2 * margin) * torch.sigmoid(feats[:, 0:3]) - margin
        crossed = batch["intersected"].float()
        return {
            "dual": item_mean((dual - batch["dual"]).square(), lengths),
            "intersected": item_mean(
                F.binary_cross_entropy_with_logits(feats[:, 3:6], crossed, reduction="none"), lengths
            ),
            "subdivision": subdivision_loss(decoded.logits, decoded.subdivisions),
            "split": self._split(batch, x.coords, feats[:, 6]),
            "kl": _latent_kl(encoded),
        }

    @staticmethod
    def _split(batch: Batch, coords: CoordSet, weight_logits: Tensor) -> Tensor:
        """Mean over the objects of each one's mean split loss. weight_logits: [N].

        All objects share one call of `dual_quads`: object i is moved by i (R + 1) voxels along x, so none touch.
        """
        item = coords.rows[:, 0]
        places = coords.voxels + F.pad(item[:, None] * (batch["resolution"] + 1), (0, 2))
        quads, _ = dual_quads(places, batch["intersected"])
        losses = split_loss(quads, places + batch["dual"], weight_logits)
        owner = item[quads[:, 0].long()].long()
        counts = torch.bincount(owner, minlength=coords.batch_size)
        return (losses / counts[owner]).sum() / (counts > 0).sum().clamp_min(1)


class TextureVae(SparseVae):
    """VAE of the six PBR channels in [-1, 1]; squared error, L1 and KL.

    The squared error has a gradient at the plateau of one mean colour for all, where L1 is nearly flat; L1 keeps edges
    sharp.
    """

    weights: ClassVar = {"materials": 0.3, "squared": 1.0, "kl": 1e-6}

    @classmethod
    def roles(cls, stage: StageConfig) -> tuple[str, ...]:
        return ("tex_slat_encoder", "tex_slat_decoder")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = field_features([voxels.field for voxels in unpack_voxels(batch)])
        encoded, decoded = self.decode(x, batch["seeds"])
        error, lengths = decoded.output.feats.float() - x.feats, x.coords.lengths
        return {
            "materials": item_mean(error.abs(), lengths),
            "squared": item_mean(error.square(), lengths),
            "kl": _latent_kl(encoded),
        }


def _latent_kl(encoded: Encoded) -> Tensor:
    divergence = kl_divergence(encoded.mean.feats.float(), encoded.logvar.float())
    return item_mean(divergence, encoded.mean.coords.lengths)
