"""The three flows as training tasks: rectified flow in the latent of a trained VAE, under an image.

x_t = (1 - t) x_0 + (sigma + (1 - sigma) t) eps, and the network predicts (1 - sigma) eps - x_0: `sampling`'s path,
walked the other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...checkpoint.config import Normalization
from ...image import normalize_pixels
from ...models.dino import DinoVisionTransformer
from ...sampling.stages import normalize
from ...sparse import CoordSet, Ragged, SparseTensor
from ..data.latents import LatentExample
from ..data.stream import Batch, Item, generators
from ..recipe import DataConfig, StageConfig
from .losses import item_mean, logit_normal_time, noisy, velocity_target
from .task import Task

IMAGE_ENCODER = "image_encoder"
PATCH_SIDE = 4  # what the image encoder has to remember of a patch: so many colours a side


@dataclass(frozen=True)
class FlowSetting:
    """What a flow task needs beside networks.

    statistics: of "shape" and "texture"; see `LatentFolder`.  repeat: pixels that the image encoder sees, along a side,
    for one of a picture.
    """

    stage: StageConfig
    statistics: Mapping[str, Normalization]
    sigma_min: float
    repeat: int = 1


class FlowTask(Task):
    """A flow, and with `train_image_encoder` the image encoder too.

    frozen: networks that are needed as they are, by role.
    """

    inputs = "latents"
    weights: ClassVar = {"velocity": 1.0, "patches": 0.1}
    flow_role: ClassVar[str]
    learns: ClassVar[tuple[str, ...]]  # the latents it needs, see `latents.ENCODERS`
    predicts: ClassVar[str]  # the one whose velocity it predicts

    def __init__(
        self, networks: Mapping[str, nn.Module], frozen: Mapping[str, nn.Module], setting: FlowSetting
    ) -> None:
        super().__init__(networks)
        self.setting = setting
        # Not a submodule: neither trained, averaged nor saved.
        self._frozen = dict(frozen)
        if IMAGE_ENCODER in networks:
            size = networks[IMAGE_ENCODER].config.hidden_size
            # A structure says nothing of colour, so the encoder would forget what the texture flow needs.
            self.patch_head = nn.Linear(size, 3 * PATCH_SIDE**2)
            # From zero: the same on every card, whatever was drawn before.
            nn.init.zeros_(self.patch_head.weight)
            nn.init.zeros_(self.patch_head.bias)
            blind_to_detail(networks[IMAGE_ENCODER], setting.repeat)

    @classmethod
    def roles(cls, stage: StageConfig) -> tuple[str, ...]:
        return (IMAGE_ENCODER, cls.flow_role.format(stage.image_size))

    @classmethod
    def trained(cls, stage: StageConfig) -> tuple[str, ...]:
        return cls.roles(stage) if stage.train_image_encoder else cls.roles(stage)[1:]

    @classmethod
    def collate(cls, items: list[Item], data: DataConfig, stage: StageConfig) -> Batch:
        examples: list[LatentExample] = [example for example, _ in items]
        seeds = tuple(seed for _, seed in items)
        views = [example.images[seed % len(example.images)] for example, seed in items]
        # All chance is drawn here, by the process that makes the batch: training itself need not wait for it.
        draws = generators(seeds)
        chance = {"time": torch.cat([torch.randn(1, generator=draw) for draw in draws])}
        chance["shown"] = torch.cat([torch.rand(1, generator=draw) for draw in draws])
        shapes = [example.latents[cls.predicts].shape for example in examples]
        noise = [torch.randn(shape, generator=draw) for shape, draw in zip(shapes, draws, strict=True)]
        latents = cls.latents([example.latents for example in examples])
        return {**latents, **chance, "noise": cls.joined(noise), "images": torch.stack(views)}

    @classmethod
    def latents(cls, examples: Sequence[Mapping[str, Tensor]]) -> Batch:
        """The latents of these objects as a batch."""
        raise NotImplementedError

    @staticmethod
    def joined(parts: Sequence[Tensor]) -> Tensor:
        """One latent of all objects, packed."""
        return torch.cat(list(parts))

    @property
    def flow(self) -> nn.Module:
        return self.networks[self.flow_role.format(self.setting.stage.image_size)]

    def velocity(self, batch: Batch, t: Tensor, condition: Ragged) -> Tensor:
        """The velocity's mean squared error; t: [B] in (0, 1)."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        stage = self.setting.stage
        shown = batch["shown"] >= stage.drop_condition
        t = logit_normal_time(batch["time"], stage.time_mean, stage.time_std)
        pixels = repeated(normalize_pixels(batch["images"]).movedim(-1, 1), self.setting.repeat)
        tokens = self._tokens(pixels)
        condition = Ragged.from_items(tokens * shown[:, None, None])
        terms = {"velocity": self.velocity(batch, t, condition)}
        if stage.train_image_encoder:
            terms["patches"] = self._patches(tokens, pixels)
        return terms

    def _tokens(self, pixels: Tensor) -> Tensor:
        if IMAGE_ENCODER in self.networks:
            return self.networks[IMAGE_ENCODER](pixels).float()
        with torch.no_grad():
            return self._frozen[IMAGE_ENCODER](pixels).float()

    def _patches(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """How well the tokens of the patches remember their colours."""
        encoder: DinoVisionTransformer = self.networks[IMAGE_ENCODER]
        side = pixels.shape[-1] // encoder.config.patch_size
        wanted = F.adaptive_avg_pool2d(pixels, side * PATCH_SIDE)
        wanted = wanted.unfold(2, PATCH_SIDE, PATCH_SIDE).unfold(3, PATCH_SIDE, PATCH_SIDE).permute(0, 2, 3, 1, 4, 5)
        told = self.patch_head(tokens[:, -side * side :]).float()
        return F.mse_loss(told, wanted.reshape(told.shape))

    def _step(self, clean: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, the velocity there); t broadcasts."""
        sigma_min = self.setting.sigma_min
        return noisy(clean, noise, t, sigma_min), velocity_target(clean, noise, sigma_min)


def repeated(pixels: Tensor, times: int) -> Tensor:
    """Pictures [B, C, S, S] with `times` x `times` equal pixels for each: [B, C, times S, times S]."""
    return pixels if times == 1 else pixels.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)


@torch.no_grad()
def blind_to_detail(encoder: DinoVisionTransformer, times: int) -> None:
    """Make the encoder see of every `times` x `times` pixels no more than their mean.

    From `repeated` pictures it learns nothing about finer detail, and what chance put there would be noise when it
    sees sharp ones. Equal weights have equal gradients, so they stay equal.
    """
    weight = encoder.embeddings.patch_embeddings.weight
    weight.copy_(repeated(F.avg_pool2d(weight, times), times))


class StructureFlowTask(FlowTask):
    """The structure's latent, a dense grid; not normalised."""

    flow_role = "sparse_structure_flow_model"
    learns, predicts = ("structure",), "structure"

    @classmethod
    def latents(cls, examples: Sequence[Mapping[str, Tensor]]) -> Batch:
        return {"structure": cls.joined([example["structure"] for example in examples])}

    @staticmethod
    def joined(parts: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(parts))

    def velocity(self, batch: Batch, t: Tensor, condition: Ragged) -> Tensor:
        x, wanted = self._step(batch["structure"], batch["noise"], t[:, None, None, None, None])
        return F.mse_loss(self.flow(x, 1000 * t, condition).float(), wanted)


class LatentFlowTask(FlowTask):
    """A structured latent on its object's voxels, normalised."""

    learns = ("shape", "texture")

    @classmethod
    def latents(cls, examples: Sequence[Mapping[str, Tensor]]) -> Batch:
        return {
            "coords": torch.cat([F.pad(e["coords"], (1, 0), value=i) for i, e in enumerate(examples)]),
            "lengths": tuple(len(example["coords"]) for example in examples),
            **{name: cls.joined([example[name] for example in examples]) for name in cls.learns},
        }

    def _latent(self, batch: Batch, name: str) -> SparseTensor:
        coords = CoordSet(batch["coords"], batch["lengths"])
        return normalize(SparseTensor(batch[name], coords), self.setting.statistics[name])

    def _error(
        self, clean: SparseTensor, noise: Tensor, t: Tensor, condition: Ragged, concat: SparseTensor | None
    ) -> Tensor:
        per_token = t if clean.coords.item is None else t[clean.coords.item]
        x, wanted = self._step(clean.feats, noise, per_token[:, None])
        predicted = self.flow(clean.replace(x), 1000 * t, condition, concat).feats.float()
        return item_mean((predicted - wanted).square(), clean.coords.lengths)


class ShapeFlowTask(LatentFlowTask):
    """The shape's latent."""

    flow_role, predicts = "shape_slat_flow_model_{}", "shape"

    def velocity(self, batch: Batch, t: Tensor, condition: Ragged) -> Tensor:
        return self._error(self._latent(batch, "shape"), batch["noise"], t, condition, None)


class TextureFlowTask(LatentFlowTask):
    """The material's latent, given the shape's."""

    flow_role, predicts = "tex_slat_flow_model_{}", "texture"

    def velocity(self, batch: Batch, t: Tensor, condition: Ragged) -> Tensor:
        clean = self._latent(batch, "texture")
        known = SparseTensor(self._latent(batch, "shape").feats, clean.coords)
        return self._error(clean, batch["noise"], t, condition, known)
