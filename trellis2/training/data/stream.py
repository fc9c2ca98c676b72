"""The stream of training examples: what stands at a position follows from the position alone.

So a run that goes on from step s reads on where it stopped, and several cards or worker processes read what one would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

# One object and the seed of all that is random about it: its view, noise and time.
Item = tuple[Any, int]
# Tensors, and tuples of the host's own numbers, by name.
Batch = dict[str, Any]


@dataclass(frozen=True)
class Stream(Dataset):
    """Item `position` of an endless stream. make(index) gives an object: the same for the same index.

    objects: how many there are, shuffled anew each time all were seen; 0: index = position, without end.
    salt: tells apart the streams of one seed.
    """

    make: Callable[[int], Any]
    objects: int
    seed: int
    salt: str

    def __getitem__(self, position: int) -> Item:
        index = position
        if self.objects:
            epoch, place = divmod(position, self.objects)
            index = int(_order(self.seed, epoch, self.objects)[place])
        return self.make(index), mixed_seed(self.seed, self.salt, position)


@dataclass(frozen=True)
class Positions(Sampler):
    """Positions of the micro-batches of one card, from step `start` on, without end.

    batch: items a step over all cards, of which this one takes every run of batch / cards, `micro_batch` at a time.
    """

    start: int
    batch: int
    micro_batch: int
    card: int = 0
    cards: int = 1

    def __post_init__(self) -> None:
        if self.batch % (self.cards * self.micro_batch):
            raise ValueError(
                f"batch: expected a multiple of {self.cards} cards x micro_batch {self.micro_batch}, got {self.batch}"
            )

    @property
    def micro_batches(self) -> int:
        """Micro-batches a step."""
        return self.batch // (self.cards * self.micro_batch)

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            first = step * self.batch + self.card * (self.batch // self.cards)
            for k in range(self.micro_batches):
                yield list(range(first + k * self.micro_batch, first + (k + 1) * self.micro_batch))
            step += 1


def loader(
    stream: Stream,
    positions: Iterable[list[int]],
    collate: Callable[[list[Item]], Any],
    workers: int,
    *,
    pin: bool = False,
) -> DataLoader:
    """Batches in the order of `positions`. workers: processes that make them, started afresh (spawn) because threads
    and GPU contexts do not survive a fork; 0 makes them here.
    pin: in memory that a GPU copies from while it computes."""
    return DataLoader(
        stream,
        batch_sampler=positions,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=2 if workers else None,
        pin_memory=pin,
        # The loader draws a seed for its workers; from here, so that the process's own stream does not move.
        generator=torch.Generator(),
    )


def in_order(
    make: Callable[[int], Any],
    indices: Sequence[int],
    workers: int,
    gather: Callable[[list[Item]], Any] | None = None,
    at_once: int = 1,
) -> Iterator[Any]:
    """gather(of `at_once` objects) for all indices in turn, made by `workers` processes ahead of time; without
    `gather` the objects themselves, one by one."""
    groups = [list(indices[k : k + at_once]) for k in range(0, len(indices), at_once)]
    yield from loader(Stream(make, 0, 0, ""), groups, gather or _only, workers)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in batch.items()
    }


def mixed_seed(seed: int, salt: str, position: int) -> int:
    """63 well-mixed bits of the three."""
    words = np.random.SeedSequence([seed, *salt.encode(), position]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def packed_noise(draws: Sequence[torch.Generator], lengths: Sequence[int], channels: int, like: Tensor) -> Tensor:
    """Standard normal [sum of lengths, channels], each object's from its own generator, on the device of `like`."""
    parts = [torch.randn(n, channels, generator=draw) for draw, n in zip(draws, lengths, strict=True)]
    return torch.cat(parts).to(like.device)


def _only(items: list[Item]) -> Any:
    """The object of a batch of one, without its seed."""
    return items[0][0]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, objects: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(objects)
