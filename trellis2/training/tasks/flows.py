"""The training tasks of the three flows: rectified flow in the latent space of a trained VAE, conditioned on an image.

x_t = (1 - t) x_0 + (sigma + (1 - sigma) t) eps; the network predicts the velocity (1 - sigma) eps - x_0. `sampling`
integrates the same path from t = 1 to 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....o_voxel.core.grid import Grid
from ...capabilities import LATENT_STRIDE
from ...checkpoint.config import Normalization
from ...checkpoint.layouts import IMAGE_ENCODER
from ...image import normalize_pixels
from ...models.dino import DinoVisionTransformer
from ...projection.blocks import block_features, block_places
from ...projection.framing import BALL_POINTS, CROP, ball, colors, features, frames
from ...sampling.stages import normalize
from ...sparse import CoordSet, PackedSequences, ProjectedSequences, SparseTensor
from ...values import whole_picture
from ..data.batches import Batch, Item
from ..data.draws import normal, packed_normal, uniform
from ..data.latents import SUPPORT, LatentSample
from ..recipe import DataConfig, StageConfig
from .losses import item_mean, logit_normal_time, noisy, velocity_target
from .task import Task

# How far the known camera of a picture is off in training, degrees and a share.
ANGLE_SPREAD_DEG, FOV_SPREAD = 2.0, 0.1
# At time t nothing is known of a structure's crop with the probability BALL_FLOOR + (1 - BALL_FLOOR) t^BALL_POWER; what
# is known is off by these shares of its side at t = 1.
BALL_FLOOR, BALL_POWER, SCALE_SPREAD, SHIFT_SPREAD = 0.03, 6, 0.08, 0.03
# Streams of an object's random numbers.
TIME, SHOWN, NOISE, CHANCE, CAMERA, FRAMED, FRAME = range(7)
PATCH_SIDE = 4  # the auxiliary loss predicts PATCH_SIDE x PATCH_SIDE mean colours of each patch


@dataclass(frozen=True)
class FlowSettings:
    """Settings of a flow task.

    statistics: normalisation of the latents "shape" and "texture".  repeat: upsampling factor from the dataset's
    pictures to the image encoder's input.
    """

    stage: StageConfig
    statistics: Mapping[str, Normalization]
    sigma_min: float
    repeat: int = 1


class FlowTask(Task):
    """A flow, trained alone or, with `train_image_encoder`, together with the image encoder.

    frozen: networks that are used but not trained, by role.
    Batch: images [B, S, S, 3] uint8; cameras [B, 3] fp32, as they are thought to be; time [B] fp32 standard normal;
    shown [B] fp32 uniform; noise of the predicted latent's shape; the latents of `latents`.
    """

    inputs = "latents"
    weights: ClassVar = {"velocity": 1.0, "patches": 0.1}
    flow_role: ClassVar[str]
    learns: ClassVar[tuple[str, ...]]  # the latents that it reads, keys of `latents.ENCODERS`
    predicts: ClassVar[str]  # the latent whose velocity it predicts

    def __init__(
        self, networks: Mapping[str, nn.Module], frozen: Mapping[str, nn.Module], setting: FlowSettings
    ) -> None:
        super().__init__(networks)
        self.setting = setting
        # Not submodules: neither trained, averaged nor saved.
        self._frozen = dict(frozen)
        if IMAGE_ENCODER in networks:
            size = networks[IMAGE_ENCODER].config.hidden_size
            # Structures have no colour: without this loss the encoder would drop what the texture flow needs.
            self.patch_head = nn.Linear(size, 3 * PATCH_SIDE**2)
            # Zero on all ranks, whatever the state of their random generators.
            nn.init.zeros_(self.patch_head.weight)
            nn.init.zeros_(self.patch_head.bias)
            init_average_patch(networks[IMAGE_ENCODER], setting.repeat)

    @classmethod
    def roles(cls, stage: StageConfig) -> tuple[str, ...]:
        return (IMAGE_ENCODER, cls.flow_role.format(stage.image_size))

    @classmethod
    def trained(cls, stage: StageConfig) -> tuple[str, ...]:
        return cls.roles(stage) if stage.train_image_encoder else cls.roles(stage)[1:]

    @classmethod
    def collate(cls, items: list[Item], data: DataConfig, stage: StageConfig) -> Batch:
        samples: list[LatentSample] = [sample for sample, _ in items]
        views = [seed % len(sample.images) for sample, seed in items]
        of_view = {
            name: torch.stack([getattr(sample, name)[view] for sample, view in zip(samples, views, strict=True)])
            for name in ("images", "cameras")
        }
        latents = cls.latents([sample.latents for sample in samples])
        return cls.drawn({**latents, **of_view}, torch.tensor([seed for _, seed in items]), stage)

    @classmethod
    def drawn(cls, batch: Batch, seeds: Tensor, stage: StageConfig) -> Batch:
        """The batch with its random numbers, on the device of its tensors.

        batch: images, cameras [B, 3] and the entries of `latents`.  seeds: [B] int64, which decide all of it.
        """
        time, shown = normal(seeds, TIME)[:, 0], uniform(seeds, SHOWN)[:, 0]
        cameras = camera_of(batch["cameras"], stage.guess_camera, seeds)
        batch = {**batch, "cameras": cameras, "time": time, "shown": shown}
        return batch | cls.draws(batch, seeds, stage)

    @classmethod
    def draws(cls, batch: Batch, seeds: Tensor, stage: StageConfig) -> Batch:
        """What else a flow draws: the noise of the latent that it predicts. seeds: [B] int64."""
        raise NotImplementedError

    def read(self, batch: Batch, patches: Tensor, pixels: Tensor, shown: Tensor) -> Tensor:
        """The features [T, P] fp32 that tokens read in the pictures [B, 3, S, S]; zeros for objects not shown [B] bool.
        patches: [B, L, C] fp32, their tokens."""
        raise NotImplementedError

    @classmethod
    def latents(cls, samples: Sequence[Mapping[str, Tensor]]) -> Batch:
        """The batch entries of the latents of B objects."""
        raise NotImplementedError

    @property
    def flow(self) -> nn.Module:
        return self.networks[self.flow_role.format(self.setting.stage.image_size)]

    def velocity(self, batch: Batch, t: Tensor, condition: PackedSequences) -> Tensor:
        """Scalar mean squared error of the predicted velocity. t: [B] fp32 in (0, 1); condition: image tokens, [L, C]
        of each object."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        stage = self.setting.stage
        shown = batch["shown"] >= stage.drop_condition
        t = logit_normal_time(batch["time"], stage.time_mean, stage.time_std)
        pixels = repeated(normalize_pixels(batch["images"]).movedim(-1, 1), self.setting.repeat)
        tokens = self._tokens(pixels)
        condition = PackedSequences.from_items(tokens * shown[:, None, None])
        if self.flow.config.projected_channels:
            projected = self.read(batch, tokens[:, whole_picture(tokens) :], pixels, shown)
            condition = ProjectedSequences(condition.feats, condition.lengths, projected)
        terms = {"velocity": self.velocity(batch, t, condition)}
        if stage.train_image_encoder:
            terms["patches"] = self._patches(tokens, pixels)
        return terms

    def _tokens(self, pixels: Tensor) -> Tensor:
        """[B, L, C] fp32 image tokens of normalised pixels [B, 3, S, S] fp32."""
        if IMAGE_ENCODER in self.networks:
            return self.networks[IMAGE_ENCODER](pixels).float()
        with torch.no_grad():
            return self._frozen[IMAGE_ENCODER](pixels).float()

    def _patches(self, tokens: Tensor, pixels: Tensor) -> Tensor:
        """Mean squared error of each patch's PATCH_SIDE x PATCH_SIDE mean colours, a linear function of its token."""
        encoder: DinoVisionTransformer = self.networks[IMAGE_ENCODER]
        side = pixels.shape[-1] // encoder.config.patch_size
        wanted = F.adaptive_avg_pool2d(pixels, side * PATCH_SIDE)
        wanted = wanted.unfold(2, PATCH_SIDE, PATCH_SIDE).unfold(3, PATCH_SIDE, PATCH_SIDE).permute(0, 2, 3, 1, 4, 5)
        predicted = self.patch_head(tokens[:, -side * side :]).float()
        return F.mse_loss(predicted, wanted.reshape(predicted.shape))

    def _step(self, clean: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_t, target velocity), both of the latent's shape; t broadcasts."""
        sigma_min = self.setting.sigma_min
        return noisy(clean, noise, t, sigma_min), velocity_target(clean, noise, sigma_min)


def camera_of(known: Tensor, guessed: float, seeds: Tensor) -> Tensor:
    """The cameras of pictures, known [B, 3] fp32, a little off; with the probability `guessed` the usual one of that
    side in its place, as where nobody says how the picture was taken. seeds: [B] int64."""
    turn, tilt, wide = normal(seeds, CAMERA, 3).unbind(1)
    yaw, pitch, fov = known.unbind(1)
    fov = (fov * (FOV_SPREAD * wide).exp()).clamp(max=90.0)
    near = torch.stack([yaw + ANGLE_SPREAD_DEG * turn, (pitch + ANGLE_SPREAD_DEG * tilt).clamp(-89.0, 89.0), fov], 1)
    usual = torch.cat([known[:, :1], known.new_tensor([[CROP.pitch_deg, CROP.fov_deg]]).expand(len(known), 2)], 1)
    return torch.where(uniform(seeds, CHANCE) < guessed, usual, near)


def repeated(pixels: Tensor, times: int) -> Tensor:
    """Nearest-neighbour upsampling of [B, C, S, S] to [B, C, times S, times S]."""
    return pixels if times == 1 else pixels.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)


@torch.no_grad()
def init_average_patch(encoder: DinoVisionTransformer, times: int) -> None:
    """Average the patch projection [C, 3, P, P] over blocks of `times` x `times` weights, in place.

    The encoder then depends on the block means of its input alone. Trained on `repeated` pictures it cannot learn
    finer detail, and random weights there would be noise on sharp pictures. Equal weights receive equal gradients, so
    training keeps them equal.
    """
    weight = encoder.embeddings.patch_embeddings.weight
    weight.copy_(repeated(F.avg_pool2d(weight, times), times))


class StructureFlowTask(FlowTask):
    """Flow of the structure latent [B, C, R, R, R], not normalised.

    known: [B] fp32, 1 where a guess at the structure says how its picture was cropped, 0 where a ball stands for it.
    off: [B, 3] fp32 standard normal, by which such a guess errs: in scale and place.
    """

    flow_role = "sparse_structure_flow_model"
    materials = False
    learns, predicts = ("structure",), "structure"

    @classmethod
    def latents(cls, samples: Sequence[Mapping[str, Tensor]]) -> Batch:
        return {name: torch.stack([sample[name] for sample in samples]) for name in ("structure", SUPPORT)}

    @classmethod
    def draws(cls, batch: Batch, seeds: Tensor, stage: StageConfig) -> Batch:
        latent, t = batch["structure"], logit_normal_time(batch["time"], stage.time_mean, stage.time_std)
        known = uniform(seeds, FRAMED)[:, 0] >= BALL_FLOOR + (1 - BALL_FLOOR) * t**BALL_POWER
        noise = normal(seeds, NOISE, latent[0].numel()).view(latent.shape)
        # A guess is off the more, the earlier it is made.
        return {"noise": noise, "known": known.float(), "off": normal(seeds, FRAME, 3) * (t * known)[:, None]}

    def read(self, batch: Batch, patches: Tensor, pixels: Tensor, shown: Tensor) -> Tensor:
        points, known = batch[SUPPORT], batch["known"]
        around = torch.where(known[:, None, None] > 0, points, ball().to(points))
        owner = torch.arange(len(points), device=points.device).repeat_interleave(BALL_POINTS)
        places = block_places(frames(around.flatten(0, 1), owner, batch["cameras"]), batch["structure"].shape[-1])
        off = batch["off"][:, None, None]
        places = 0.5 + (places - 0.5) * (SCALE_SPREAD * off[..., :1]).exp() + SHIFT_SPREAD * off[..., 1:]
        found = block_features(places, patches, colors(pixels, CROP.cells, CROP.side), known)
        return (found.unflatten(0, (len(shown), -1)) * shown[:, None, None]).flatten(0, 1)

    def velocity(self, batch: Batch, t: Tensor, condition: PackedSequences) -> Tensor:
        x, wanted = self._step(batch["structure"], batch["noise"], t[:, None, None, None, None])
        return F.mse_loss(self.flow(x, 1000 * t, condition).float(), wanted)


class LatentFlowTask(FlowTask):
    """Flow of a structured latent: tokens [N, C] on voxels coords [N, 4] int32 (object, x, y, z), normalised."""

    learns = ("shape", "texture")

    @classmethod
    def latents(cls, samples: Sequence[Mapping[str, Tensor]]) -> Batch:
        return {
            "coords": torch.cat([F.pad(e["coords"], (1, 0), value=i) for i, e in enumerate(samples)]),
            "lengths": tuple(len(sample["coords"]) for sample in samples),
            **{name: torch.cat([sample[name] for sample in samples]) for name in cls.learns},
        }

    @classmethod
    def draws(cls, batch: Batch, seeds: Tensor, stage: StageConfig) -> Batch:
        item = batch["coords"][:, 0].long()
        return {"noise": packed_normal(seeds, NOISE, item, batch[cls.predicts].shape[1])}

    def read(self, batch: Batch, patches: Tensor, pixels: Tensor, shown: Tensor) -> Tensor:
        item, voxels = batch["coords"][:, 0].long(), batch["coords"][:, 1:]
        points = Grid.cube(self.setting.stage.resolution // LATENT_STRIDE).centers(voxels)
        places = frames(points, item, batch["cameras"]).places(points, item)
        found = features(places, item, [patches, colors(pixels, CROP.cells, CROP.side)])
        return found * shown[item][:, None]

    def _latent(self, batch: Batch, name: str) -> SparseTensor:
        coords = CoordSet(batch["coords"], batch["lengths"])
        return normalize(SparseTensor(batch[name], coords), self.setting.statistics[name])

    def _error(
        self, clean: SparseTensor, noise: Tensor, t: Tensor, condition: PackedSequences, concat: SparseTensor | None
    ) -> Tensor:
        per_token = t if clean.coords.item is None else t[clean.coords.item]
        x, wanted = self._step(clean.feats, noise, per_token[:, None])
        predicted = self.flow(clean.replace(x), 1000 * t, condition, concat).feats.float()
        return item_mean((predicted - wanted).square(), clean.coords.lengths)


class ShapeFlowTask(LatentFlowTask):
    """Flow of the shape latent."""

    flow_role, predicts = "shape_slat_flow_model_{}", "shape"

    def velocity(self, batch: Batch, t: Tensor, condition: PackedSequences) -> Tensor:
        return self._error(self._latent(batch, "shape"), batch["noise"], t, condition, None)


class TextureFlowTask(LatentFlowTask):
    """Flow of the texture latent, with the shape latent concatenated to its input."""

    flow_role, predicts = "tex_slat_flow_model_{}", "texture"

    def velocity(self, batch: Batch, t: Tensor, condition: PackedSequences) -> Tensor:
        clean = self._latent(batch, "texture")
        shape = SparseTensor(self._latent(batch, "shape").feats, clean.coords)
        return self._error(clean, batch["noise"], t, condition, shape)
