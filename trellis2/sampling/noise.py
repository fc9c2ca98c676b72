"""Starting noise of the flow models, and the history that lets each stage continue its item's random stream.

The reference seeds one generator per object and draws the noise of every stage from it in turn. Here a seed and the
shapes drawn so far stand for that generator, so a stage is a plain function of its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Shapes of the noise that an item's earlier stages drew, in order.
NoiseHistory = tuple[tuple[int, ...], ...]

# torch.Generator takes seeds modulo this.
SEED_RANGE = 2**64


def batch_seeds(seed: int, batch_size: int) -> list[int]:
    """Seeds of a batch's items: seed + i modulo 2^64, so that a batch equals as many single runs."""
    return [(seed + i) % SEED_RANGE for i in range(batch_size)]


def draw_noise(
    seeds: Sequence[int], shapes: Sequence[tuple[int, ...]], histories: Sequence[NoiseHistory]
) -> list[Tensor]:
    """Standard normal noise of each item: float32, on the CPU, so that a seed gives the same noise for every device.

    seeds, shapes, histories: one of each per item. The generator first draws the shapes of the item's history, as the
    reference's has done by this stage. Raises ValueError unless all three are equally long.
    """
    noises = []
    for seed, shape, history in zip(seeds, shapes, histories, strict=True):
        generator = torch.Generator("cpu").manual_seed(seed)
        for earlier in history:
            torch.randn(earlier, generator=generator)
        noises.append(torch.randn(shape, generator=generator))
    return noises


def extend_histories(histories: Sequence[NoiseHistory], shapes: Sequence[tuple[int, ...]]) -> tuple[NoiseHistory, ...]:
    """Each item's history with one more shape at its end. Raises ValueError unless both are equally long."""
    return tuple((*history, shape) for history, shape in zip(histories, shapes, strict=True))


def next_noise(
    seed: int, shapes: Sequence[tuple[int, ...]], histories: Sequence[NoiseHistory]
) -> tuple[list[Tensor], tuple[NoiseHistory, ...]]:
    """A stage's noise and the histories after it: item i draws `shapes[i]` from the stream of seed + i."""
    noises = draw_noise(batch_seeds(seed, len(shapes)), shapes, histories)
    return noises, extend_histories(histories, shapes)
