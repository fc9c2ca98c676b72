"""Builds networks from the published configuration files, by their published class names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from ..checkpoint.config import (
    ConfigError,
    FlowConfig,
    ShapeDecoderConfig,
    ShapeEncoderConfig,
    SparseDecoderConfig,
    SparseEncoderConfig,
    StructureDecoderConfig,
    StructureEncoderConfig,
    parse,
)
from .latent_flow import LatentFlow
from .layers import Backends, without_memory
from .shape_vae import ShapeDecoder, ShapeEncoder
from .structure_flow import StructureFlow
from .structure_vae import StructureDecoder, StructureEncoder
from .texture_vae import TextureDecoder, TextureEncoder

# published class name -> (configuration, network)
NETWORKS: Mapping[str, tuple[type, type[nn.Module]]] = {
    "SparseStructureFlowModel": (FlowConfig, StructureFlow),
    "SLatFlowModel": (FlowConfig, LatentFlow),
    "ElasticSLatFlowModel": (FlowConfig, LatentFlow),
    "SparseStructureEncoder": (StructureEncoderConfig, StructureEncoder),
    "SparseStructureDecoder": (StructureDecoderConfig, StructureDecoder),
    "FlexiDualGridVaeEncoder": (ShapeEncoderConfig, ShapeEncoder),
    "FlexiDualGridVaeDecoder": (ShapeDecoderConfig, ShapeDecoder),
    "SparseUnetVaeEncoder": (SparseEncoderConfig, TextureEncoder),
    "SparseUnetVaeDecoder": (SparseDecoderConfig, TextureDecoder),
}


def build_model(
    description: Mapping[str, object],
    where: str,
    *,
    dtype: str | None = None,
    backends: Backends | None = None,
    device: torch.device | str = "meta",
) -> nn.Module:
    """Builds the network of a model's .json, in eval mode, on `device` without loaded weights ("meta": without memory).

    description: {"name": class name, "args": {...}}.  dtype: overrides the torso's.  Raises ConfigError.
    """
    named = isinstance(description, Mapping) and set(description) == {"name", "args"}
    if not named or not isinstance(description["name"], str) or description["name"] not in NETWORKS:
        raise ConfigError(f"{where}: expected 'args' and a 'name' among {list(NETWORKS)}, got {description!r:.300}")
    kind, network = NETWORKS[description["name"]]
    config = parse(kind, description["args"], where)
    if dtype is not None:
        config = replace(config, dtype=dtype)
    dense_vae = isinstance(config, StructureEncoderConfig | StructureDecoderConfig)
    with without_memory() if torch.device(device).type == "meta" else torch.device(device):
        model = network(config) if dense_vae else network(config, backends)
    return model.requires_grad_(False).eval()


__all__ = ["NETWORKS", "Backends", "build_model"]
