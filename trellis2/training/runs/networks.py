"""The networks of a run: made anew, taken from a checkpoint, or from an earlier stage; and written as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ....o_voxel.core.backend import triton_probe
from ...checkpoint.config import ConfigError
from ...checkpoint.hub import FileSource
from ...checkpoint.layouts import MICROSOFT, Folder, load_encoder, read_encoder_config
from ...checkpoint.weights import load_weights, read_tensors, save_weights
from ...models import Backends, build_model
from ...models.dino import DinoConfig, DinoLayer, DinoVisionTransformer
from ...models.latent_flow import LatentFlow
from ...models.sparse_vae import ConvNeXtBlock, DownBlock, UpBlock
from ...models.structure_flow import StructureFlow
from ...models.structure_vae import ResBlock3d
from ..tasks.flows import IMAGE_ENCODER
from .initialize import initialize, pass_values_on

# All but convolutions in plain torch: our fused kernel for norms has no gradient, and `compile_parts` fuses them better
# together with what stands around them.
TRAINING_BACKENDS = Backends(attention="sdpa", conv="auto", rope="reference", norm="reference")
VARIANTS = 64  # of one function that torch.compile may keep: widths, number formats, with and without activation
TEXTURE_VAE = ("tex_slat_encoder", "tex_slat_decoder")
# Part of the published image encoder, and never applied.
UNUSED = ("embeddings.mask_token", "norm.weight", "norm.bias")


def open_network(role: str, description: Mapping[str, Any], generator: torch.Generator) -> nn.Module:
    """A network of a recipe in fp32 on the CPU: {"name", "args"} makes a new one from `generator`; {"from": source}
    takes the role's weights of a checkpoint, {"from": source, "path": stem} a file of it that no role names."""
    if "from" not in description:
        model = new_network(role, description, "cpu")
        initialize(model, generator)
        if role in TEXTURE_VAE:
            pass_values_on(model, generator)
        return model
    if role == IMAGE_ENCODER:
        return open_checkpoint(description["from"]).load(IMAGE_ENCODER, None, None)
    return read_network(role, *_files(role, description))


def resolved(role: str, description: Mapping[str, Any]) -> Mapping[str, Any]:
    """The {"name", "args"} of a network of a recipe, read from its checkpoint where it comes from one."""
    if "from" not in description:
        return description
    return json.loads(_files(role, description)[0].read_text(encoding="utf-8"))


def open_checkpoint(source: str) -> Folder:
    """A checkpoint in Microsoft's layout: a folder, or a hub repository "owner/name"."""
    return Folder(FileSource.open(source, MICROSOFT))


def _files(role: str, description: Mapping[str, Any]) -> list[Path]:
    if set(description) - {"from", "path"}:
        raise ConfigError(f"networks.{role}: expected 'from' and perhaps 'path', got {sorted(description)}")
    checkpoint = open_checkpoint(description["from"])
    return checkpoint.network_files(description["path"]) if "path" in description else checkpoint.files(role)


def new_network(role: str, description: Mapping[str, Any], device: str = "meta") -> nn.Module:
    """A network with unset weights, in fp32."""
    if role == IMAGE_ENCODER:
        try:
            config = DinoConfig.from_transformers(description)
        except ValueError as error:
            raise ConfigError(f"networks.{role}: {error}") from error
        return DinoVisionTransformer(config, device=device, dtype=torch.float32)
    where = f"networks.{role}"
    return build_model(description, where, dtype="float32", backends=TRAINING_BACKENDS, device=device)


def read_network(role: str, description: Path, weights: Path) -> nn.Module:
    """A network from its two files, in fp32."""
    if role == IMAGE_ENCODER:
        return load_encoder(weights, read_encoder_config(description))
    values = json.loads(description.read_text(encoding="utf-8"))
    return load_weights(new_network(role, values), read_tensors(weights), str(weights))


def write_network(model: nn.Module, description: Mapping[str, Any], files: tuple[Path, Path], dtype: str) -> None:
    """A network's two files. dtype: of every real number; what a description asks for is made when it is loaded."""
    derived = getattr(model, "derived_buffers", dict)()
    kept = {key: value for key, value in model.state_dict().items() if key not in derived}
    kept = {key: value.detach().to("cpu", getattr(torch, dtype)) for key, value in kept.items()}
    config, weights = files
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    save_weights(kept, weights)


def network_files(folder: Path, role: str) -> tuple[Path, Path]:
    """Where a network's description and weights are, in the published layout below `folder`."""
    if role == IMAGE_ENCODER:
        return folder / role / "config.json", folder / role / "model.safetensors"
    return folder / f"{role}.json", folder / f"{role}.safetensors"


def make_trainable(model: nn.Module) -> nn.Module:
    """Ask for gradients of all parameters that take part."""
    model.train().requires_grad_(True)
    if isinstance(model, DinoVisionTransformer):
        for name in UNUSED:
            model.get_parameter(name).requires_grad_(False)
    return model


def compile_parts(model: nn.Module, device: torch.device) -> None:
    """Let torch.compile fuse the small operations between products and convolutions, where Triton works: a step of
    training is thousands of them. The first step takes some ten seconds longer."""
    if triton_probe(device, torch.float32) is not None:
        return
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    for module in model.modules():
        if isinstance(module, DinoLayer | ResBlock3d):
            module.compile()
        elif isinstance(module, StructureFlow):
            for block in module.blocks:
                block.compile()
        elif isinstance(module, LatentFlow):
            for block in module.blocks:
                block.compile(dynamic=True)
                for part in (block.self_attn, block.cross_attn):
                    # It looks at the items' lengths, which are others at every step.
                    part.attend = torch.compiler.disable(part.attend)
        elif isinstance(module, ConvNeXtBlock):
            # Not its convolution, which launches kernels of ours.
            module._mix = torch.compile(module._mix, dynamic=True)
        elif isinstance(module, DownBlock | UpBlock):
            module.norm1.compile(dynamic=True)
            module.norm2.compile(dynamic=True)
