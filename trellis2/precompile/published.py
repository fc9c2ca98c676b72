"""The published networks, one block deep, with random weights made on the device: their kernels depend on widths, and
the weights are a download of 16 GB."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint import tiny
from ..checkpoint.config import parse_pipeline
from ..checkpoint.layouts import IMAGE_ENCODER
from ..checkpoint.weights import randomize
from ..models import Backends, build_model
from ..models.dino import VIT_L16, DinoVisionTransformer
from ..models.sparse_vae import UpBlock
from ..models.structure_vae import StructureDecoder

CHILDREN = 4  # of the eight that a voxel may have: a sheet


class OneBlock:
    """A checkpoint's layout without files, see `CheckpointLayout`."""

    def __init__(self, device: torch.device) -> None:
        text = Path(tiny.__file__).with_name("published.json").read_text(encoding="utf-8")
        published = json.loads(text)
        self.config, self.descriptions = parse_pipeline(published["pipeline"], "published.json"), published["models"]
        self.device, self.generator = device, torch.Generator().manual_seed(0)

    def files(self, role: str) -> list[Path]:
        """None: nothing is read."""
        return []

    def missing(self) -> list[str]:
        """None."""
        return []

    @torch.no_grad()
    def load(
        self, role: str, dtype: str | None, backends: Backends | None, quantization: str | None = None
    ) -> nn.Module:
        """Returns a network with random weights."""
        if role == IMAGE_ENCODER:
            model: nn.Module = DinoVisionTransformer(replace(VIT_L16, num_layers=1)).requires_grad_(False).eval()
        else:
            description = shallow(self.descriptions[role])
            model = build_model(description, role, dtype=dtype, backends=backends, device="cpu")
        randomize(model, self.generator)
        model.to(self.device)
        if isinstance(model, StructureDecoder):
            self._keep_few(model)
        for block in (module for module in model.modules() if isinstance(module, UpBlock) and module.predict):
            block.to_subdiv.weight.zero_()
            block.to_subdiv.bias.copy_(torch.arange(8) < CHILDREN)
            block.to_subdiv.bias.mul_(2).sub_(1)
        return model

    def _keep_few(self, decoder: StructureDecoder) -> None:
        """Lowers the output's bias until about a hundred voxels are occupied."""
        latent = torch.randn(1, decoder.config.latent_channels, 16, 16, 16, generator=self.generator)
        logits = decoder(latent.to(self.device)).flatten().float().sort().values
        decoder.out_layer[-1].bias -= logits[int(len(logits) * (1 - tiny.OCCUPIED_SHARE))]


def shallow(description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a network's description with one block of each width."""
    args = dict(description["args"])
    blocks = args.get("num_blocks")
    if isinstance(blocks, list):
        args["num_blocks"] = [min(count, 1) for count in blocks]
    elif blocks is not None:
        args["num_blocks"] = 1
    for name in ("num_res_blocks", "num_res_blocks_middle"):
        if name in args:
            args[name] = 1
    return {"name": description["name"], "args": args}
