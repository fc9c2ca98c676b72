"""Random numbers of objects, a function of each object's seed and a counter: whole batches at once, on any device.

SplitMix64 (Steele, Lea and Flood 2014) of seed and counter; its bits are the same everywhere, so an object's numbers do
not depend on the batch, the rank or the worker that draws them. Letters: B objects, C numbers of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .stream import mixed_seed

# 2^64 / golden ratio and the two multipliers of SplitMix64, as signed 64-bit integers.
GOLDEN, FIRST, SECOND = (value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
STREAM_BITS = 40  # counters of a stream
UNIT = 2.0**-24


def uniform(seeds: Tensor, stream: int, count: int = 1) -> Tensor:
    """[B, C] fp32 uniform in [0, 1). seeds: [B] int64.  stream: numbers of different streams are independent."""
    return (_shifted(_bits(seeds, torch.arange(count, device=seeds.device), stream), 40)).float() * UNIT


def normal(seeds: Tensor, stream: int, count: int = 1) -> Tensor:
    """[B, C] fp32 standard normal; arguments as `uniform`."""
    return _gaussian(_bits(seeds, torch.arange(count, device=seeds.device), stream))


def packed_normal(seeds: Tensor, stream: int, item: Tensor, channels: int) -> Tensor:
    """[N, channels] fp32 standard normal for the rows of all objects. item: [N] int64 ascending, each row's object."""
    first = torch.searchsorted(item, torch.arange(len(seeds), device=item.device))
    row = torch.arange(len(item), device=item.device) - first[item]
    counter = row[:, None] * channels + torch.arange(channels, device=item.device)
    return _gaussian(_mixed(seeds[item][:, None], counter, stream))


def _bits(seeds: Tensor, counter: Tensor, stream: int) -> Tensor:
    return _mixed(seeds[:, None], counter, stream)


def _mixed(seeds: Tensor, counter: Tensor, stream: int) -> Tensor:
    """64 random bits, int64, for seeds and counters that broadcast."""
    # The seed is mixed before the counter is added: neighbouring seeds would share most of their numbers.
    state = _finished(seeds) + (counter + ((stream << STREAM_BITS) + 1)) * GOLDEN
    return _finished(state)


def _finished(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * FIRST
    z = (z ^ _shifted(z, 27)) * SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _gaussian(bits: Tensor) -> Tensor:
    """Standard normal of 64 random bits each (Box and Muller 1958)."""
    radius = ((_shifted(bits, 40) + 1).float() * UNIT).log().mul(-2).sqrt()
    return radius * ((bits & 0xFFFFFF).float() * (2 * math.pi * UNIT)).cos()


def mixed_seeds(seed: int, salt: str, positions: Sequence[int]) -> Tensor:
    """[B] int64 seeds in [0, 2^62), hashed from seed, salt and each position."""
    base = torch.tensor([mixed_seed(seed, salt, 0)])
    return _shifted(_mixed(base, torch.tensor(positions, dtype=torch.int64), 0), 2)
