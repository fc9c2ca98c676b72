"""Loads the image encoder and the upsampler of its features, whose files come in several layouts of keys."""

from __future__ import annotations

from pathlib import Path

import torch

from ..models.dino import DinoConfig, DinoVisionTransformer, to_transformers_keys
from ..models.layers import without_memory
from ..models.naf import NafConfig, NafUpsampler
from .config import ConfigError
from .pixal3d import COMFY_PIXAL3D, ENCODER, NAF
from .stored import read_json
from .weights import CheckpointError, load_weights, read_tensors


def load_encoder(weights: Path, config: DinoConfig) -> DinoVisionTransformer:
    """Loads the image encoder, fp32 on the CPU, from a file with transformers, timm or ComfyUI keys.

    Raises CheckpointError for another key layout, or keys and shapes that do not fit `config`.
    """
    with without_memory():
        model = DinoVisionTransformer(config, dtype=torch.float32)
    try:
        tensors = to_transformers_keys(read_tensors(weights))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{weights}: {error}") from error
    return load_weights(model, tensors, str(weights))


def read_encoder_config(path: Path) -> DinoConfig:
    """Parses the image encoder's config.json. Raises ConfigError naming the file."""
    try:
        return DinoConfig.from_transformers(read_json(path))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def load_upsampler(weights: Path) -> NafUpsampler:
    """Loads NAF, fp32 on the CPU, from a file that may hold an image encoder too.

    Raises CheckpointError for a file without it, or keys and shapes that do not fit each other.
    """
    tensors = read_tensors(weights, NAF) or read_tensors(weights)
    try:
        config = NafConfig.of(tensors)
    except ValueError as error:
        raise CheckpointError(f"{weights}: {error}; take {ENCODER} of {COMFY_PIXAL3D}") from error
    with without_memory():
        model = NafUpsampler(config)
    return load_weights(model, tensors, str(weights))
