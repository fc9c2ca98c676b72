"""Which parts of the networks torch.compile fuses for training."""

from __future__ import annotations

from threading import Lock

import torch
from torch import nn

from ....o_voxel.core.backend import triton_probe
from ...models.dino import DinoLayer
from ...models.latent_flow import LatentFlow
from ...models.sparse_vae import ConvNeXtBlock, DownBlock, UpBlock
from ...models.structure_flow import StructureFlow
from ...models.structure_vae import ResBlock3d

# Held while torch.compile may trace: it traces the modules of every thread, and fails on those that it does not know.
TRACING = Lock()
FIRST_STEPS = 3  # of training, in which all parts are compiled
VARIANTS = 64  # specialisations that torch.compile may keep of one function: widths, dtypes, activation or none


def compile_parts(model: nn.Module, device: torch.device) -> None:
    """Compile the elementwise code between matrix products and convolutions, in place, if Triton works on `device`.

    An eager training step is thousands of small launches. The first compiled step takes some ten seconds longer.
    """
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
                for part in (block.self_attn, block.image_attention):
                    # It branches on the sequence lengths, which change at every step.
                    part.attend = torch.compiler.disable(part.attend)
        elif isinstance(module, ConvNeXtBlock):
            # Without its convolution, which launches our Triton kernels.
            module._mix = torch.compile(module._mix, dynamic=True)
        elif isinstance(module, DownBlock | UpBlock):
            module.norm1.compile(dynamic=True)
            module.norm2.compile(dynamic=True)
