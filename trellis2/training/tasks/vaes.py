"""The training tasks of the three VAEs: occupancy, shape (dual grid) and texture (PBR materials)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....o_voxel.ops.dual_quads import dual_quads
from ...models.shape_vae import dual_grid_features
from ...models.sparse_vae import Decoded, Encoded
from ...models.texture_vae import field_features
from ...sparse import CoordSet, SparseTensor
from ..data.batches import Batch, Item, block_of, occupancy, pack_voxels, unpack_voxels
from ..data.stream import generators, packed_noise
from ..recipe import DataConfig, StageConfig
from .losses import binary_loss, dice_loss, item_mean, kl_divergence, reparameterize, split_loss, subdivision_loss
from .task import Task


class Vae(Task):
    """An encoder and a decoder, trained together; or, with `latent_noise`, the decoder alone, so that it makes a whole
    surface of a latent that a flow got a little wrong (denoising autoencoder, Vincent et al. 2008).

    frozen: networks that are used but not trained, by role.
    """

    inputs = "voxels"
    encoder_role: ClassVar[str]
    decoder_role: ClassVar[str]

    def __init__(self, networks: Mapping[str, nn.Module], frozen: Mapping[str, nn.Module], stage: StageConfig) -> None:
        super().__init__(networks)
        self.stage = stage
        # Not submodules: neither trained, averaged nor saved.
        self._frozen = dict(frozen)

    @classmethod
    def roles(cls, stage: StageConfig) -> tuple[str, ...]:
        return (cls.encoder_role, cls.decoder_role)

    @classmethod
    def trained(cls, stage: StageConfig) -> tuple[str, ...]:
        return cls.roles(stage)[1:] if stage.latent_noise else cls.roles(stage)

    @property
    def decoder(self) -> nn.Module:
        return self.networks[self.decoder_role]

    def encode(self, x: Any) -> Any:
        """The encoder's output, without gradients where it is frozen."""
        if self.encoder_role in self.networks:
            return self.networks[self.encoder_role](x)
        with torch.no_grad():
            return self._frozen[self.encoder_role](x)

    def levels(self, draws: Sequence[torch.Generator]) -> Tensor:
        """[B] fp32 in [0, latent_noise): each object's noise in standard deviations."""
        return self.stage.latent_noise * torch.cat([torch.rand(1, generator=draw) for draw in draws])


class StructureVae(Vae):
    """VAE of the dense occupancy grid; cross-entropy, Dice and KL.

    Batch: occupied [B, 1, R, R, R] fp32 in {0, 1}, R = data.structure; seeds: B ints.
    """

    encoder_role, decoder_role = "sparse_structure_encoder", "sparse_structure_decoder"
    materials = False
    weights: ClassVar = {"occupancy": 1.0, "dice": 1.0, "kl": 1e-2}

    @classmethod
    def collate(cls, items: list[Item], data: DataConfig, stage: StageConfig) -> Batch:
        grids = [sample.voxels.dual_grid for sample, _ in items]
        return {"occupied": occupancy(grids, data.structure), "seeds": tuple(seed for _, seed in items)}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        occupied, draws = batch["occupied"], generators(batch["seeds"])
        mean, logvar = (part.float() for part in self.encode(occupied))
        levels = self.levels(draws) if self.stage.latent_noise else None
        noise = torch.stack([torch.randn(mean.shape[1:], generator=draw) for draw in draws]).to(mean.device)
        if levels is None:
            latent, terms = reparameterize(mean, logvar, noise), {"kl": kl_divergence(mean, logvar).mean()}
        else:
            # The structure's latent is not normalised: its flow sees it as it is, of unit variance by its KL.
            latent, terms = mean + levels.to(mean.device)[:, None, None, None, None] * noise, {}
        logits = self.decoder(latent).float()
        return {
            "occupancy": F.binary_cross_entropy_with_logits(logits, occupied),
            "dice": dice_loss(logits, occupied).mean(),
            **terms,
        }


class SparseVae(Vae):
    """Common to the sparse VAEs: collation, a latent sample, and decoding along the true subdivisions.

    Batch: the tensors of `pack_voxels`; seeds: B ints.
    """

    @classmethod
    def collate(cls, items: list[Item], data: DataConfig, stage: StageConfig) -> Batch:
        objects = [sample.voxels for sample, _ in items]
        if stage.crop is not None:
            objects = [
                block_of(voxels, stage.crop, draw)
                for voxels, draw in zip(objects, generators([seed for _, seed in items]), strict=True)
            ]
        return {**pack_voxels(objects), "seeds": tuple(seed for _, seed in items)}

    def decode(self, x: SparseTensor, seeds: Sequence[int]) -> tuple[Encoded, Decoded]:
        """Encode x [N, C], sample the latent with each object's seed, and decode it on the true voxels."""
        encoded, draws = self.encode(x), generators(seeds)
        mean, logvar, lengths = encoded.mean.feats.float(), encoded.logvar.float(), encoded.mean.coords.lengths
        levels = self.levels(draws) if self.stage.latent_noise else None
        noise = packed_noise(draws, lengths, mean.shape[1], mean)
        if levels is None:
            latent = reparameterize(mean, logvar, noise)
        else:
            of_token = levels.repeat_interleave(torch.tensor(lengths)).to(mean.device)
            latent = mean + of_token[:, None] * mean.std(0) * noise
        return encoded, self.decoder(encoded.mean.replace(latent), encoded.subdivisions)

    def kl(self, encoded: Encoded) -> dict[str, Tensor]:
        """The KL term; none where the encoder is frozen."""
        if self.stage.latent_noise:
            return {}
        divergence = kl_divergence(encoded.mean.feats.float(), encoded.logvar.float())
        return {"kl": item_mean(divergence, encoded.mean.coords.lengths)}


class ShapeVae(SparseVae):
    """VAE of the dual grid: dual vertices (squared error), intersected edges and child occupancy at each level
    (cross-entropy), split weights (see `losses.split_loss`) and KL."""

    encoder_role, decoder_role = "shape_slat_encoder", "shape_slat_decoder"
    weights: ClassVar = {"dual": 1.0, "intersected": 0.1, "subdivision": 0.1, "split": 0.01, "kl": 1e-6}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = dual_grid_features([voxels.dual_grid for voxels in unpack_voxels(batch)])
        encoded, decoded = self.decode(x, batch["seeds"])
        lengths, feats = x.coords.lengths, decoded.output.feats.float()
        margin, missing = self.decoder.config.voxel_margin, self.stage.missing
        dual = (1 + 2 * margin) * torch.sigmoid(feats[:, 0:3]) - margin
        return {
            "dual": item_mean((dual - batch["dual"]).square(), lengths),
            "intersected": item_mean(binary_loss(feats[:, 3:6], batch["intersected"], missing), lengths),
            "subdivision": subdivision_loss(decoded.logits, decoded.subdivisions, missing),
            "split": self._split(batch, x.coords, feats[:, 6]),
            **self.kl(encoded),
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

    encoder_role, decoder_role = "tex_slat_encoder", "tex_slat_decoder"
    weights: ClassVar = {"materials": 0.3, "squared": 1.0, "kl": 1e-6}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = field_features([voxels.field for voxels in unpack_voxels(batch)])
        encoded, decoded = self.decode(x, batch["seeds"])
        error, lengths = decoded.output.feats.float() - x.feats, x.coords.lengths
        return {
            "materials": item_mean(error.abs(), lengths),
            "squared": item_mean(error.square(), lengths),
            **self.kl(encoded),
        }
