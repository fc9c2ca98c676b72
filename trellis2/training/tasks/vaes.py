"""The three VAEs as training tasks: a batch in, the terms of the loss out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ....o_voxel.core.grid import Grid
from ....o_voxel.ops.dual_quads import dual_quads
from ....o_voxel.values import DualGrid, OVoxel, VoxelField
from ...models.shape_vae import dual_grid_features
from ...models.sparse_vae import Decoded, Encoded
from ...models.texture_vae import field_features
from ...sparse import CoordSet, SparseTensor
from ..data.stream import Batch, Item, generators, packed_noise
from ..recipe import DataConfig, StageConfig
from .losses import dice_loss, item_mean, kl_divergence, reparameterize, split_loss, subdivision_loss
from .task import Task


class StructureVae(Task):
    """Occupancy on a dense grid."""

    inputs = "voxels"
    weights: ClassVar = {"occupancy": 1.0, "dice": 1.0, "kl": 1e-2}

    @classmethod
    def roles(cls, stage: StageConfig) -> tuple[str, ...]:
        return ("sparse_structure_encoder", "sparse_structure_decoder")

    @classmethod
    def collate(cls, items: list[Item], data: DataConfig, stage: StageConfig) -> Batch:
        grids = [example.voxels.dual_grid for example, _ in items]
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
    """What the shape and the texture VAE share: voxels packed for the trip, a latent sampled, a guided decode."""

    inputs = "voxels"

    @classmethod
    def collate(cls, items: list[Item], data: DataConfig, stage: StageConfig) -> Batch:
        packed = pack_voxels([example.voxels for example, _ in items])
        return {**packed, "seeds": tuple(seed for _, seed in items)}

    def decode(self, x: SparseTensor, seeds: Sequence[int]) -> tuple[Encoded, Decoded]:
        """Encode, sample the latent, and decode on the true voxels."""
        encoder, decoder = self.networks.values()
        encoded = encoder(x)
        mean, logvar = encoded.mean.feats.float(), encoded.logvar.float()
        noise = packed_noise(generators(seeds), encoded.mean.coords.lengths, mean.shape[1], mean)
        latent = encoded.mean.replace(reparameterize(mean, logvar, noise))
        return encoded, decoder(latent, encoded.subdivisions)


class ShapeVae(SparseVae):
    """Dual vertices, crossed edges, split weights, and which children exist at every level."""

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
        """The mean over objects, all on one grid: each as far along x that it touches none."""
        item = coords.rows[:, 0]
        places = coords.voxels + F.pad(item[:, None] * (batch["resolution"] + 1), (0, 2))
        quads, _ = dual_quads(places, batch["intersected"])
        losses = split_loss(quads, places + batch["dual"], weight_logits)
        owner = item[quads[:, 0].long()].long()
        counts = torch.bincount(owner, minlength=coords.batch_size)
        return (losses / counts[owner]).sum() / (counts > 0).sum().clamp_min(1)


class TextureVae(SparseVae):
    """Six PBR channels. The squared error gets it away from one colour for all, where the absolute one is nearly flat;
    the absolute error keeps edges sharp."""

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


def occupancy(grids: Sequence[DualGrid], side: int) -> Tensor:
    """[B, 1, S, S, S] float32, 1 where an object has a voxel, on a grid of S = `side` voxels a side."""
    out = torch.zeros(len(grids), 1, side, side, side)
    for volume, grid in zip(out, grids, strict=True):
        x, y, z = (grid.coords.long() * side // grid.grid.shape[0]).unbind(1)
        volume[0, x, y, z] = 1
    return out


def pack_voxels(objects: Sequence[OVoxel]) -> Batch:
    """Objects with materials, on cube grids of one resolution, as a batch: few tensors, which travel fast."""
    return {
        "coords": torch.cat([voxels.dual_grid.coords for voxels in objects]),
        "dual": torch.cat([voxels.dual_grid.dual for voxels in objects]),
        "intersected": torch.cat([voxels.dual_grid.intersected for voxels in objects]),
        "materials": torch.cat([voxels.field.attrs.float() for voxels in objects]),
        "lengths": tuple(len(voxels.dual_grid.coords) for voxels in objects),
        "resolution": objects[0].dual_grid.grid.shape[0],
    }


def unpack_voxels(batch: Batch) -> list[OVoxel]:
    """The objects that `pack_voxels` packed."""
    grid = Grid.cube(batch["resolution"])
    packed = (batch[key].split(batch["lengths"]) for key in ("coords", "dual", "intersected", "materials"))
    return [
        OVoxel(DualGrid(coords, dual, crossed, grid), VoxelField(coords, materials, grid))
        for coords, dual, crossed, materials in zip(*packed, strict=True)
    ]


def _latent_kl(encoded: Encoded) -> Tensor:
    divergence = kl_divergence(encoded.mean.feats.float(), encoded.logvar.float())
    return item_mean(divergence, encoded.mean.coords.lengths)
