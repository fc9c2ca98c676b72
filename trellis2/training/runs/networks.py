"""The networks of a run: new, pretrained, or from an earlier stage; and their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ....o_voxel.core.atomic_io import write_files
from ...checkpoint.config import ConfigError
from ...checkpoint.hub import FileSource
from ...checkpoint.image_models import load_encoder, read_encoder_config
from ...checkpoint.layouts import IMAGE_ENCODER, MICROSOFT, Folder
from ...checkpoint.weights import load_weights, read_stored, read_tensors, save_weights
from ...models import Backends, build_model
from ...models.dino import DinoConfig, DinoVisionTransformer
from .initialize import init_identity_vae, initialize, start_from

# Plain torch for all but convolutions: our fused norm kernel has no backward, and torch.compile fuses norms and
# rotations with their neighbours.
TRAINING_BACKENDS = Backends(attention="sdpa", conv="auto", rope="reference", norm="reference")
TEXTURE_VAE = ("tex_slat_encoder", "tex_slat_decoder")
# Weights in the published image encoder that its forward pass does not use.
UNUSED = ("embeddings.mask_token", "norm.weight", "norm.bias")


def open_network(role: str, description: Mapping[str, Any], generator: torch.Generator) -> nn.Module:
    """A network of a recipe in fp32 on the CPU.

    description: {"name", "args"} initialises a new network from `generator`; {"from": checkpoint} loads the role's
    weights, {"from": checkpoint, "path": stem} those of a file that pipeline.json has no role for; {"name", "args",
    "start": checkpoint} takes what it can from the role's weights there, see `start_from`.
    Raises ConfigError for other keys and unknown names, MissingFileError for absent files.
    """
    if "from" not in description:
        new = {key: value for key, value in description.items() if key != "start"}
        model = new_network(role, new, "cpu")
        initialize(model, generator)
        if role in TEXTURE_VAE:
            init_identity_vae(model, generator)
        if "start" in description:
            start_from(model, read_tensors(_files(role, {"from": description["start"]})[1]))
        return model
    if role == IMAGE_ENCODER:
        return open_checkpoint(description["from"]).load(IMAGE_ENCODER, None, None)
    return read_network(role, *_files(role, description))


def resolved(role: str, description: Mapping[str, Any]) -> Mapping[str, Any]:
    """The {"name", "args"} of a network of a recipe, read from its checkpoint if it has one."""
    if "from" not in description:
        return {key: value for key, value in description.items() if key != "start"}
    return json.loads(_files(role, description)[0].read_text(encoding="utf-8"))


def open_checkpoint(source: str) -> Folder:
    """A checkpoint in Microsoft's layout: a folder, or a hub repository "owner/name"."""
    return Folder(FileSource.open(source, MICROSOFT))


def _files(role: str, description: Mapping[str, Any]) -> list[Path]:
    if set(description) - {"from", "path"}:
        raise ConfigError(f"networks.{role}: expected 'from' and optionally 'path', got {sorted(description)}")
    checkpoint = open_checkpoint(description["from"])
    return checkpoint.network_files(description["path"]) if "path" in description else checkpoint.files(role)


def new_network(role: str, description: Mapping[str, Any], device: str = "meta") -> nn.Module:
    """A network in fp32 with uninitialised weights; on "meta" it has no storage."""
    if role == IMAGE_ENCODER:
        try:
            config = DinoConfig.from_transformers(description)
        except ValueError as error:
            raise ConfigError(f"networks.{role}: {error}") from error
        return DinoVisionTransformer(config, device=device, dtype=torch.float32)
    where = f"networks.{role}"
    return build_model(description, where, dtype="float32", backends=TRAINING_BACKENDS, device=device)


def read_network(role: str, description: Path, weights: Path) -> nn.Module:
    """A network in fp32 on the CPU from its JSON config and safetensors file."""
    if role == IMAGE_ENCODER:
        return load_encoder(weights, read_encoder_config(description))
    values = json.loads(description.read_text(encoding="utf-8"))
    return load_weights(new_network(role, values), read_stored(weights), str(weights))


def write_network(model: nn.Module, description: Mapping[str, Any], files: tuple[Path, Path], dtype: str) -> None:
    """Write a network's config and weights. dtype: of all weights on disk, such as "float16"; loading casts them to the
    compute dtype of the config."""
    derived = getattr(model, "derived_buffers", dict)()
    kept = {key: value for key, value in model.state_dict().items() if key not in derived}
    kept = {key: value.detach().to("cpu", getattr(torch, dtype)) for key, value in kept.items()}
    config, weights = files
    write_files({config: (json.dumps(description, indent=1) + "\n").encode()})
    save_weights(kept, weights)


def network_files(folder: Path, role: str) -> tuple[Path, Path]:
    """(config, weights): the files of a network below `folder`, in the published layout."""
    if role == IMAGE_ENCODER:
        return folder / role / "config.json", folder / role / "model.safetensors"
    return folder / f"{role}.json", folder / f"{role}.safetensors"


def make_trainable(model: nn.Module) -> nn.Module:
    """Train mode, with gradients of all parameters that the forward pass uses. Returns the model."""
    model.train().requires_grad_(True)
    if isinstance(model, DinoVisionTransformer):
        for name in UNUSED:
            model.get_parameter(name).requires_grad_(False)
    return model
