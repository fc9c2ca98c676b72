"""Loads a checkpoint's networks on first use and places them on the compute device, with a typed accessor for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch
from torch import nn

from .checkpoint.config import ConfigError, PipelineConfig
from .checkpoint.layouts import IMAGE_ENCODER, IMAGE_UPSAMPLER, SHAPE_ENCODER, Checkpoint
from .models import Backends
from .models.dino import DinoVisionTransformer
from .models.latent_flow import LatentFlow
from .models.naf import NafUpsampler
from .models.shape_vae import ShapeDecoder, ShapeEncoder
from .models.structure_flow import StructureFlow
from .models.structure_vae import StructureDecoder
from .models.texture_vae import TextureDecoder, TextureEncoder
from .runtime.cuda_graphs import clear_graphs
from .runtime.memory import workspace
from .runtime.residency import Residency

N = TypeVar("N", bound=nn.Module)

TEXTURE_ENCODER = "tex_slat_encoder"
# With the pixels a side of the images that guide them, 512 or 1024.
SHAPE_FLOW, TEXTURE_FLOW = "shape_slat_flow_model_{}", "tex_slat_flow_model_{}"


class Networks:
    """A checkpoint's networks and the residency that places them on the device.

    Each accessor is a context manager that yields the network on `device` and loads it on first use. num_tokens: flow
    tokens or latent voxels, summed over objects.  num_image_tokens: summed over objects and views. The residency keeps
    free the memory that `workspace` estimates for them.

    Accessors raise the errors of `Checkpoint.load_model`, and ConfigError if the role's network has another type.
    """

    def __init__(
        self, checkpoint: Checkpoint, residency: Residency, dtype: str | None = None, backends: Backends | None = None
    ) -> None:
        """dtype: of the networks' torsos; None: as published."""
        self.residency = residency
        self.config: PipelineConfig = checkpoint.config
        self.loaded: dict[str, nn.Module] = {}
        self._checkpoint, self._dtype, self._backends = checkpoint, dtype, backends

    @property
    def device(self) -> torch.device:
        """The compute device."""
        return self.residency.device

    def image_encoder(self) -> AbstractContextManager[DinoVisionTransformer]:
        """Vision transformer from images [B, 3, S, S] to tokens [B, T, C]."""
        return self._lend(IMAGE_ENCODER, DinoVisionTransformer)

    def image_upsampler(self) -> AbstractContextManager[NafUpsampler]:
        """Upsampler of the encoder's patches, of a checkpoint that projects pictures."""
        return self._lend(IMAGE_UPSAMPLER, NafUpsampler)

    def structure_flow(self, num_tokens: int, num_image_tokens: int) -> AbstractContextManager[StructureFlow]:
        """Flow model of the sparse structure."""
        return self._lend("sparse_structure_flow_model", StructureFlow, num_tokens, num_image_tokens)

    def structure_decoder(self) -> AbstractContextManager[StructureDecoder]:
        """Decoder from a structure latent [B, C, R, R, R] to occupancy logits [B, 1, 4 R, 4 R, 4 R]."""
        return self._lend("sparse_structure_decoder", StructureDecoder)

    def shape_flow(self, image_size: int, num_tokens: int, num_image_tokens: int) -> AbstractContextManager[LatentFlow]:
        """Flow model of the shape latent, for image tokens of `image_size` pixels (512 or 1024)."""
        return self._lend(SHAPE_FLOW.format(image_size), LatentFlow, num_tokens, num_image_tokens)

    def texture_flow(
        self, image_size: int, num_tokens: int, num_image_tokens: int
    ) -> AbstractContextManager[LatentFlow]:
        """Flow model of the texture latent, for image tokens of `image_size` pixels (512 or 1024)."""
        return self._lend(TEXTURE_FLOW.format(image_size), LatentFlow, num_tokens, num_image_tokens)

    def shape_decoder(self, num_tokens: int) -> AbstractContextManager[ShapeDecoder]:
        """Decoder from a shape latent [T, C] to dual grids."""
        return self._lend("shape_slat_decoder", ShapeDecoder, num_tokens)

    def texture_decoder(self, num_tokens: int) -> AbstractContextManager[TextureDecoder]:
        """Decoder from a texture latent [T, C] to PBR fields."""
        return self._lend("tex_slat_decoder", TextureDecoder, num_tokens)

    def shape_encoder(self) -> AbstractContextManager[ShapeEncoder]:
        """Encoder of dual grids; of the published checkpoint the one of texturing_pipeline.json."""
        return self._lend(SHAPE_ENCODER, ShapeEncoder)

    def texture_encoder(self) -> AbstractContextManager[TextureEncoder]:
        """Encoder of PBR fields, absent from the published checkpoint."""
        return self._lend(TEXTURE_ENCODER, TextureEncoder)

    @contextmanager
    def model(self, role: str, num_tokens: int = 0, num_image_tokens: int = 0) -> Iterator[nn.Module]:
        """Yields the network of any role of pipeline.json, or of "image_encoder"."""
        if role not in self.loaded:
            self.loaded[role] = self._checkpoint.load_model(
                role, dtype=self._dtype, backends=self._backends, device=self.device
            )
        network = self.loaded[role]
        with self.residency.use(network, workspace(network, num_tokens, num_image_tokens)) as placed:
            yield placed

    def require(self, *roles: str) -> None:
        """Downloads the absent files of these roles. Raises MissingFileError for the first unavailable one."""
        self._checkpoint.require([role for role in roles if role not in self.loaded])

    def unload(self) -> None:
        """Drops all loaded networks and their CUDA graphs; the next use loads them again."""
        for network in self.loaded.values():
            clear_graphs(network)
        self.loaded.clear()
        self.residency.release()

    @contextmanager
    def _lend(self, role: str, kind: type[N], num_tokens: int = 0, num_image_tokens: int = 0) -> Iterator[N]:
        with self.model(role, num_tokens, num_image_tokens) as network:
            if not isinstance(network, kind):
                raise ConfigError(
                    f"{role}: expected a {kind.__name__}, got a {type(network).__name__}; correct the 'name' in the "
                    "network's .json file"
                )
            yield network
