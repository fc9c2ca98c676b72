"""Weights to start training from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.sparse_vae import ConvNeXtBlock, DownBlock, SparseDecoder, SparseEncoder, UpBlock
from ...models.structure_vae import ResBlock3d, StructureDecoder, StructureEncoder
from ...models.transformer import Block, FlowTransformer
from ...sparse import SubmanifoldConv3d

LOGVAR_START = -6.0  # of a new encoder: a deviation of 0.05
OCCUPANCY_START = -3.0  # of a new structure decoder: most of the grid is empty
# Of biases: where the input is empty they are all that a layer norm sees, and it must not divide by nothing.
BIAS_DEVIATION = 0.05

# What `pass_values_on` sets; found with objects of 32 voxels, by how well a line foretells mean colours of latents.
UNIT = 2.0  # the constant beside values in [-1, 1]
QUIET = 0.05  # of values that are no pair: near zero SiLU is half of its input
# How much louder an up block speaks than its skip path, which tells each child something else: four such blocks stay
# within what float16 holds.
LOUD = 4.0
VARIETY = 0.3  # of all other channels, a share of what is usual
LATENT_GAIN = 2.0  # values of a deviation of about a half become latents of about one


@torch.no_grad()
def initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Weights to start training from: gaussian of variance 1 / inputs, small biases, gains of one.

    What closes a residual branch starts at zero, so a new network is close to the identity (adaptive layer norm zero,
    Peebles and Xie 2023); so does a flow's output. Encoders start sure of their latents, or the decoder would learn
    little from them at first.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.endswith(("gamma", "_token", "_tokens")):
            # Submanifold weights [out, 3, 3, 3, in] and dense ones [out, in, ...] alike have their outputs first.
            fan_in = parameter[0].numel()
            parameter.normal_(0, fan_in**-0.5, generator=generator)
        elif name.endswith(("_token", "_tokens")):
            parameter.normal_(0, 0.02, generator=generator)
        elif name.endswith("bias") and "norm" not in name:
            parameter.normal_(0, BIAS_DEVIATION, generator=generator)
        else:
            parameter.fill_(float(name.endswith(("gamma", "lambda1", "weight"))))
    for module in model.modules():
        for layer in _closing_layers(module):
            layer.weight.zero_()
            layer.bias.zero_()
        if isinstance(module, StructureDecoder):
            module.out_layer[-1].bias.fill_(OCCUPANCY_START)
        if isinstance(module, SparseEncoder | StructureEncoder):
            last = module.to_latent if isinstance(module, SparseEncoder) else module.out_layer[-1]
            spread = slice(len(last.weight) // 2, None)
            last.weight[spread] = 0
            last.bias[spread] = LOGVAR_START


def _closing_layers(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, ResBlock3d | DownBlock | UpBlock):
        return [module.conv2]
    if isinstance(module, ConvNeXtBlock):
        return [module.mlp[-1]]
    if isinstance(module, Block):
        return [module.cross_attn.to_out, *([] if module.share_mod else [module.adaLN_modulation[-1]])]
    if isinstance(module, FlowTransformer):
        return [module.out_layer, *([module.adaLN_modulation[-1]] if module.config.share_mod else [])]
    return []


@torch.no_grad()
def pass_values_on(model: SparseEncoder | SparseDecoder, generator: torch.Generator) -> None:
    """Let a new half of a VAE for values in [-1, 1] take their mean over 16³ voxels, or give it back, nearly.

    Started at random such a VAE stands still for a thousand steps: its skip paths sort values by the place of their
    voxel, its layer norms divide by them, and the latent says nothing of a mean colour. Here the first channels hold a
    constant and the values, as pairs z, -z, which pass a SiLU unharmed (SiLU(z) - SiLU(-z) = z). Whatever a layer norm
    divides them by, it divides the constant by (homogeneous coordinates). Down blocks add up the children, up blocks
    tell all children the same. The other channels start as `initialize` leaves them, but quieter.
    """
    encoder = isinstance(model, SparseEncoder)
    first, last = (model.input_layer, model.to_latent) if encoder else (model.from_latent, model.output_layer)
    count = 1 + (model.config.in_channels if encoder else model.config.out_channels)
    held = _pairs(first.out_features, count)
    told = torch.eye(count - 1, first.in_features) / (1 if encoder else LATENT_GAIN)
    _carry(first, held[:, 1:] @ told, generator)
    first.weight[held[:, 0] != 0] = 0
    first.bias += UNIT * held[:, 0]
    loudness = 1.0
    for module in model.modules():
        if isinstance(module, DownBlock):
            said, heard = _code(len(module.conv1.weight), count)
            _carry(module.conv1, said @ _pairs(module.conv1.weight.shape[-1], count).T, generator)
            _carry(module.conv2, _pairs(len(module.conv2.weight), count) @ heard.repeat(1, 8) / 8, generator)
        elif isinstance(module, UpBlock):
            said, loudness = _pairs(len(module.conv2.weight), count), LOUD * loudness
            _carry(module.conv1, (said @ _pairs(module.conv1.weight.shape[-1], count).T).repeat(8, 1), generator)
            _carry(module.conv2, loudness * said @ said.T, generator)
    # What the last layer norm makes of the constant, were it alone; half the difference of each pair.
    norm = UNIT * (2 / last.in_features) ** 0.5
    values = norm / 2 * _pairs(last.in_features, count).T[1:]
    if encoder:
        values = LATENT_GAIN * torch.eye(model.config.latent_channels, count - 1) @ values
    _carry(last, F.pad(values, (0, 0, 0, len(last.weight) - len(values))), generator)


def _pairs(channels: int, count: int) -> Tensor:
    """[channels, count]: each of `count` values as a pair z, -z, as far as there are channels. Transposed, it reads
    them behind a SiLU."""
    pairs = torch.zeros(channels, count)
    for value in range(min(count, channels // 2)):
        pairs[2 * value : 2 * value + 2, value] = torch.tensor([1.0, -1.0])
    return pairs


def _code(channels: int, count: int) -> tuple[Tensor, Tensor]:
    """([channels, count] that says `count` values, [count, channels] that reads them behind a layer norm and a SiLU):
    where there is no room for all pairs, only the constant is one."""
    if not 2 <= channels < 2 * count:
        return _pairs(channels, count), _pairs(channels, count).T
    said = F.pad(QUIET * torch.eye(channels - 1, count), (0, 0, 1, 0))
    said[:2, 0] = torch.tensor([1.0, -1.0])
    heard = torch.zeros(count, channels)
    heard[0] = said[:, 0]
    # The norm takes the channels' mean off, those of missing children too, in proportion to what is said.
    heard[1:, 2:] = 2 * torch.linalg.pinv((said - said.mean(0))[2:, 1:])
    return said, heard


def _carry(layer: SubmanifoldConv3d | nn.Linear, values: Tensor, generator: torch.Generator) -> None:
    """Let outputs of a layer be `values` [out, in] of its inputs, at their own voxel, where these are not all 0."""
    weight, carrying = layer.weight, values.any(1)
    if isinstance(layer, SubmanifoldConv3d):
        weight.normal_(0, VARIETY * weight[0].numel() ** -0.5, generator=generator)
    weight[carrying] = 0
    layer.bias[carrying] = 0
    (weight if isinstance(layer, nn.Linear) else weight[:, 1, 1, 1])[carrying] = values[carrying]
