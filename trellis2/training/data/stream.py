"""The stream of training samples: the sample at a position depends on (seed, stage, position) and nothing else.

A run resumed at step s therefore continues where it stopped, and several ranks or worker processes read the same
samples as one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .batches import Item

PACKAGE = __name__.rsplit(".", 4)[0]
# What makes objects: the package's modules, with torch and numba, but no compiled kernel.
PRELOADED = (
    "trellis2.training.data.dataset",
    "trellis2.training.world",
    "o_voxel.ops.raster.kernel_cpu",
    "o_voxel.ops.mesh_to_dual_grid.kernel_cpu",
    "o_voxel.ops.voxel_materials.kernel_cpu",
    "o_voxel.render.quick.kernel_cpu",
)


@dataclass(frozen=True)
class Stream(Dataset):
    """An endless, shuffled stream of items. make(index) returns a sample, the same for equal indices.

    objects: size of the dataset, shuffled anew each epoch; 0: index = position, without end.
    salt: separates the streams of one seed; the name of the stage.
    """

    make: Callable[[int], Any]
    objects: int
    seed: int
    salt: str

    def __getitem__(self, position: int) -> Item:
        index = position
        if self.objects:
            epoch, offset = divmod(position, self.objects)
            index = int(permutation(self.seed, epoch, self.objects)[offset])
        return self.make(index), mixed_seed(self.seed, self.salt, position)


@dataclass(frozen=True)
class Positions(Sampler):
    """Stream positions of the micro-batches of one rank, from step `start` on, without end.

    batch: items a step over all ranks; each rank takes a contiguous batch / world_size of them, `micro_batch` at a
    time. Raises ValueError unless world_size x micro_batch divides batch.
    """

    start: int
    batch: int
    micro_batch: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch % (self.world_size * self.micro_batch):
            raise ValueError(
                f"batch: expected a multiple of {self.world_size} cards x micro_batch {self.micro_batch}, "
                f"got {self.batch}"
            )

    @property
    def micro_batches(self) -> int:
        """Micro-batches a step."""
        return self.batch // (self.world_size * self.micro_batch)

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            first = step * self.batch + self.rank * (self.batch // self.world_size)
            for k in range(self.micro_batches):
                yield list(range(first + k * self.micro_batch, first + (k + 1) * self.micro_batch))
            step += 1


def default_workers(sharing: int = 1) -> int:
    """Processes that make objects: the cores that this process may use, but one, divided among `sharing` runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // sharing - 1)


def make_loader(
    stream: Stream,
    positions: Iterable[list[int]],
    collate: Callable[[list[Item]], Any],
    workers: int,
    *,
    pin: bool = False,
) -> DataLoader:
    """A DataLoader over lists of positions, in their order.

    workers: processes that make and collate the items; 0 does it in this process. They are forks of a server that has
    imported this package, where the system has that; not of this process, whose threads and CUDA context do not
    survive a fork.  pin: collate into pinned memory, for asynchronous copies to a GPU.
    """
    return DataLoader(
        stream,
        batch_sampler=positions,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context=worker_context() if workers else None,
        worker_init_fn=end_with_parent if workers else None,
        prefetch_factor=2 if workers else None,
        pin_memory=pin,
        # DataLoader draws a base seed for its workers: from a generator of its own, to leave torch's global one alone.
        generator=torch.Generator(),
    )


def worker_context() -> BaseContext:
    """The start method of worker processes: "forkserver", whose server imports once what all of them need, or
    "spawn"."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    # It takes effect before the first process starts; modules that cannot be imported there are left out.
    context.set_forkserver_preload(["__main__", "torch", "numba", *(f"{PACKAGE}.{name}" for name in PRELOADED)])
    return context


def end_with_parent(_: int = 0) -> None:
    """Run in a worker: ends it when the process that started it is gone, killed ones too.

    torch's own worker watches its parent by number, which is the server's; the server waits for the workers.
    """
    parent = parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    if parent is not None:
        Thread(target=watch, name="parent", daemon=True).start()


def map_in_order(
    make: Callable[[int], Any],
    indices: Sequence[int],
    workers: int,
    collate: Callable[[list[Item]], Any] | None = None,
    batch: int = 1,
) -> Iterator[Any]:
    """Collated batches of make(index) for all indices in order, prefetched by `workers` processes; without `collate`
    the results of make one by one."""
    groups = [list(indices[k : k + batch]) for k in range(0, len(indices), batch)]
    yield from make_loader(Stream(make, 0, 0, ""), groups, collate or _single, workers)


def mixed_seed(seed: int, salt: str, position: int) -> int:
    """A seed in [0, 2^63) hashed from the three (numpy's SeedSequence)."""
    words = np.random.SeedSequence([seed, *salt.encode(), position]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator for each seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def packed_noise(draws: Sequence[torch.Generator], lengths: Sequence[int], channels: int, like: Tensor) -> Tensor:
    """Standard normal noise [sum of lengths, channels] fp32 on the device of `like`; each object's rows come from its
    own CPU generator."""
    parts = [torch.randn(n, channels, generator=draw) for draw, n in zip(draws, lengths, strict=True)]
    return torch.cat(parts).to(like.device)


def _single(items: list[Item]) -> Any:
    """The sample of a batch of one, without its seed."""
    return items[0][0]


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, objects: int) -> np.ndarray:
    """The order [objects] int64 of the dataset in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(objects)
