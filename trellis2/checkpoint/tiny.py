"""Writes a tiny checkpoint with random weights in the published layout: all files, a few megabytes, within seconds.

It passes through the same stages, files and nodes as the published weights; its surfaces are noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..models import build_model
from ..models.dino import DinoConfig, DinoVisionTransformer
from ..models.naf import NafConfig, NafUpsampler
from ..models.structure_vae import StructureDecoder
from .config import PIXAL3D
from .pixal3d import OWN_NAF, PIPELINE_FILES, description_of, pipeline_of
from .weights import randomize, save_weights

# Occupied share of the random structure decoder's grid: about a hundred voxels of 64^3.
OCCUPIED_SHARE = 4e-4
# The same for a surface at 1024, and what leaves two of eight children where logits have a deviation of about 5.
SMALLER = (5e-5, 4.0)
# The same for some hundred to some thousand faces at 512, where the default has up to a few hundred thousand.
FEW_FACES = (2e-4, 3.0)
UPSAMPLER = NafConfig(dim=16, heads=2)
ENCODER = {
    "model_type": "dinov3_vit",
    "hidden_act": "gelu",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 16,
    "num_register_tokens": 4,
    "rope_theta": 100.0,
    "layer_norm_eps": 1e-05,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
}


def make_tiny(folder: Path, seed: int = 0, size: tuple[float, float] = (OCCUPIED_SHARE, 0.0)) -> Path:
    """Writes the checkpoint into `folder` and returns `folder`. Deterministic: the seed determines all bytes.
    size: how large its surfaces are, see `_write_networks`."""
    published = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    pipeline, texturing, models = published["pipeline"], published["texturing"], published["models"]
    paths = pipeline["args"]["models"]
    more = {role: path for role, path in texturing["args"]["models"].items() if role not in paths}
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):  # constructors draw from the global generator
        _write_networks(folder, paths, models, generator, size)
        _write_image_encoder(folder, pipeline["args"]["image_cond_model"]["args"]["model_name"], generator)
        _write_networks(folder, more, models, generator)
    _write_json(folder / "pipeline.json", pipeline)
    _write_json(folder / "texturing_pipeline.json", texturing)
    return folder


def make_tiny_pixal3d(folder: Path, seed: int = 0) -> Path:
    """Writes a Pixal3D checkpoint into `folder`, as `make_tiny`, with the upsampler beside it, and returns `folder`."""
    published = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    pipeline = pipeline_of(published["pipeline"])
    models = {role: description_of(description) for role, description in published["models"].items()}
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        # It has no surfaces at 512: one at 1024 would have a million voxels.
        _write_networks(folder, pipeline["args"]["models"], models, generator, SMALLER)
        _write_image_encoder(folder, pipeline["args"]["image_cond_model"]["args"]["model_name"], generator)
        upsampler = NafUpsampler(UPSAMPLER)
        randomize(upsampler, generator)
    save_weights(upsampler.state_dict(), folder / OWN_NAF)
    for name, kind in zip(PIPELINE_FILES, PIXAL3D, strict=True):
        _write_json(folder / name, pipeline | {"name": kind})
    return folder


def _write_networks(
    folder: Path,
    paths: dict[str, str],
    models: dict[str, Any],
    generator: torch.Generator,
    size: tuple[float, float] = (OCCUPIED_SHARE, 0.0),
) -> None:
    """size: share of the structure's grid that is occupied; what is subtracted from the logits of a voxel's
    children."""
    share, fewer = size
    for role, path in paths.items():
        description = _shrunk(models[role])
        # The fine-tuned networks share the configuration of their base networks, except the resolution.
        model = build_model(description, role, dtype="float32", device="cpu")
        randomize(model, generator)
        if isinstance(model, StructureDecoder):
            _keep_few(model, generator, share)
        for name, layer in model.named_modules():
            if fewer and name.endswith("to_subdiv"):
                layer.bias -= fewer
        _write_json(folder / f"{path}.json", description)
        target = build_model(description, role).state_dict()
        save_weights({k: v.to(target[k].dtype) for k, v in model.state_dict().items()}, folder / f"{path}.safetensors")


def _write_image_encoder(folder: Path, name: str, generator: torch.Generator) -> None:
    encoder = DinoVisionTransformer(DinoConfig.from_transformers(ENCODER))
    randomize(encoder, generator)
    _write_json(folder / name / "config.json", ENCODER)
    save_weights(encoder.state_dict(), folder / name / "model.safetensors")


def _shrunk(description: dict[str, Any]) -> dict[str, Any]:
    """Returns the published description with narrow, shallow layers; latents keep their channels and grids."""
    args = dict(description["args"])
    if "num_heads" in args:
        args |= {"model_channels": 32, "cond_channels": 32, "num_blocks": 2, "num_heads": 2, "mlp_ratio": 2}
        if "proj_in_channels" in args:
            args["proj_in_channels"] = 64
    elif "num_blocks" in args:
        widths, blocks = [32, 32, 16, 16, 8], [1, 1, 1, 1, 0]
        order = -1 if "down_block_type" in args else 1
        args |= {"model_channels": widths[::order], "num_blocks": blocks[::order]}
    else:
        args |= {"channels": [16, 8, 8], "num_res_blocks": 1, "num_res_blocks_middle": 1}
    return {"name": description["name"], "args": args}


def _keep_few(decoder: nn.Module, generator: torch.Generator, share: float) -> None:
    """Lowers the output's bias until `share` of the grid is occupied."""
    latent = torch.randn(1, decoder.config.latent_channels, 16, 16, 16, generator=generator)
    logits = decoder(latent).flatten()
    decoder.out_layer[-1].bias -= logits.kthvalue(int(len(logits) * (1 - share))).values


def _write_json(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
