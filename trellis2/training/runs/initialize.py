"""Initial weights of new networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...checkpoint.config import ConfigError
from ...models.sparse_vae import ConvNeXtBlock, DownBlock, SparseDecoder, SparseEncoder, UpBlock
from ...models.structure_vae import ResBlock3d, StructureDecoder, StructureEncoder
from ...models.transformer import Block, FlowTransformer, ProjectedCrossAttention
from ...sparse import SubmanifoldConv3d

LOGVAR_START = -6.0  # of a new encoder: a standard deviation of 0.05
OCCUPANCY_START = -3.0  # output bias of a new structure decoder: most of the grid is empty
# Standard deviation of new biases: on empty input a layer norm sees nothing else, and must not divide by zero.
BIAS_DEVIATION = 0.05

# Constants of `init_identity_vae`, tuned on objects of 32 voxels for the linear predictability of mean colours from
# latents.
UNIT = 2.0  # the homogeneous coordinate; values are in [-1, 1]
QUIET = 0.05  # scale of unpaired values: near zero SiLU is half of its input
# Gain of an up block over its skip path, whose values differ from child to child; four blocks stay within fp16's range.
LOUD = 4.0
VARIETY = 0.3  # standard deviation of all other channels, a fraction of the usual
LATENT_GAIN = 2.0  # values with a standard deviation of about 0.5 become latents with about 1


@torch.no_grad()
def initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Initialise all weights in place: normal of variance 1 / fan-in, small biases, gains of one.

    The last layer of each residual branch and a flow's output start at zero, so a new network is close to the identity
    (adaLN-Zero, Peebles and Xie 2023). Encoders start with a small posterior variance: with a large one the latents
    would be noise to the decoder.
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
    """The last layer of a residual branch, and a flow's output layers."""
    if isinstance(module, ResBlock3d | DownBlock | UpBlock):
        return [module.conv2]
    if isinstance(module, ConvNeXtBlock):
        return [module.mlp[-1]]
    if isinstance(module, Block):
        projecting = [module.cross_attn.proj_linear] if isinstance(module.cross_attn, ProjectedCrossAttention) else []
        modulating = [] if module.share_mod else [module.adaLN_modulation[-1]]
        return [module.image_attention.to_out, *projecting, *modulating]
    if isinstance(module, FlowTransformer):
        return [module.out_layer, *([module.adaLN_modulation[-1]] if module.config.share_mod else [])]
    return []


@torch.no_grad()
def init_identity_vae(model: SparseEncoder | SparseDecoder, generator: torch.Generator) -> None:
    """Initialise an encoder or decoder of values in [-1, 1] to an approximate block mean over 16³ voxels, in place.

    A random initialisation stays on a plateau for a thousand steps: skip paths sort values by their voxel's position,
    layer norms divide by them, and latents carry no mean colour. Here the first channels hold a constant and the
    values as pairs z, -z, which a SiLU preserves (SiLU(z) - SiLU(-z) = z). A layer norm divides values and constant by
    the same number, so their quotient survives (homogeneous coordinates). Down blocks average the children, up blocks
    copy the parent to all children. The other channels keep `initialize`'s distribution at a smaller scale.
    """
    encoder = isinstance(model, SparseEncoder)
    first, last = (model.input_layer, model.to_latent) if encoder else (model.from_latent, model.output_layer)
    count = 1 + (model.config.in_channels if encoder else model.config.out_channels)
    held = _pairs(first.out_features, count)
    embedded = torch.eye(count - 1, first.in_features) / (1 if encoder else LATENT_GAIN)
    _carry(first, held[:, 1:] @ embedded, generator)
    first.weight[held[:, 0] != 0] = 0
    first.bias += UNIT * held[:, 0]
    gain = 1.0
    for module in model.modules():
        if isinstance(module, DownBlock):
            write, read = _code(len(module.conv1.weight), count)
            _carry(module.conv1, write @ _pairs(module.conv1.weight.shape[-1], count).T, generator)
            _carry(module.conv2, _pairs(len(module.conv2.weight), count) @ read.repeat(1, 8) / 8, generator)
        elif isinstance(module, UpBlock):
            write, gain = _pairs(len(module.conv2.weight), count), LOUD * gain
            _carry(module.conv1, (write @ _pairs(module.conv1.weight.shape[-1], count).T).repeat(8, 1), generator)
            _carry(module.conv2, gain * write @ write.T, generator)
    # The constant after the last layer norm, if no other channel were set; a value is half the difference of its pair.
    norm = UNIT * (2 / last.in_features) ** 0.5
    values = norm / 2 * _pairs(last.in_features, count).T[1:]
    if encoder:
        values = LATENT_GAIN * torch.eye(model.config.latent_channels, count - 1) @ values
    _carry(last, F.pad(values, (0, 0, 0, len(last.weight) - len(values))), generator)


def _pairs(channels: int, count: int) -> Tensor:
    """[channels, count] fp32 matrix that writes `count` values as pairs z, -z, as far as there are channels. Its
    transpose reads them after a SiLU."""
    pairs = torch.zeros(channels, count)
    for value in range(min(count, channels // 2)):
        pairs[2 * value : 2 * value + 2, value] = torch.tensor([1.0, -1.0])
    return pairs


def _code(channels: int, count: int) -> tuple[Tensor, Tensor]:
    """Matrices ([channels, count] that writes `count` values, [count, channels] that reads them after a layer norm and
    a SiLU), fp32. With fewer than 2 count channels only the constant is a pair."""
    if not 2 <= channels < 2 * count:
        return _pairs(channels, count), _pairs(channels, count).T
    write = F.pad(QUIET * torch.eye(channels - 1, count), (0, 0, 1, 0))
    write[:2, 0] = torch.tensor([1.0, -1.0])
    read = torch.zeros(count, channels)
    read[0] = write[:, 0]
    # The layer norm subtracts the mean of the channels, which is linear in the values, over missing children too.
    read[1:, 2:] = 2 * torch.linalg.pinv((write - write.mean(0))[2:, 1:])
    return write, read


def _carry(layer: SubmanifoldConv3d | nn.Linear, values: Tensor, generator: torch.Generator) -> None:
    """Set a layer's weight to the nonzero rows of `values` [out, in], at the kernel's centre, without bias."""
    weight, rows = layer.weight, values.any(1)
    if isinstance(layer, SubmanifoldConv3d):
        weight.normal_(0, VARIETY * weight[0].numel() ** -0.5, generator=generator)
    weight[rows] = 0
    layer.bias[rows] = 0
    (weight if isinstance(layer, nn.Linear) else weight[:, 1, 1, 1])[rows] = values[rows]


@torch.no_grad()
def start_from(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Take a flow's weights from one that does not project, so that it computes the same: what projects is new, and
    adds nothing at first. Raises ConfigError if other weights are missing, of another shape, or left over."""
    wanted = model.state_dict()
    derived = getattr(model, "derived_buffers", dict)()
    known = {key: key.replace(".cross_attn_block.", ".") for key in wanted if ".proj_linear." not in key}
    known = {key: source for key, source in known.items() if key not in derived}
    odd = sorted(set(known.values()) ^ set(tensors)) or sorted(
        key for key, source in known.items() if wanted[key].shape != tensors[source].shape
    )
    if odd:
        raise ConfigError(f"start: expected the weights of the same network without projection, got other {odd[:5]}")
    for key, source in known.items():
        wanted[key].copy_(tensors[source])
