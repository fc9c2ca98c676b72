"""The flows' dataset in memory: objects are added while training reads those that are there.

A batch is gathered and its random numbers drawn on the device, from positions alone, as `Stream` does it for files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Thread

import torch
from torch import Tensor

from ..recipe import StageConfig
from .batches import Batch, to_device
from .draws import mixed_seeds
from .latents import SUPPORT, LatentFolder, LatentSample
from .stream import permutation

# Shares of the free memory that a pool may take.
DEVICE_SHARE, HOST_SHARE = 0.4, 0.4
# What is equally large of all objects; latents on voxels are not.
DENSE = ("images", "cameras", "structure", SUPPORT)
READERS = 8  # threads that read files


class LatentPool:
    """Latents of `objects` objects on a device. Rows are the objects' indices; `count` of them, without a gap, can be
    read. One thread adds, another reads."""

    def __init__(self, objects: int, device: torch.device) -> None:
        self.objects, self.device, self.count = objects, device, 0
        self._changed, self._present, self._error = Condition(), bytearray(objects), None
        self._dense: dict[str, Tensor] = {}  # [objects, ...] each
        self._ragged: dict[str, list[Tensor | None]] = {}  # of each object [T, C]

    def add(self, index: int, sample: LatentSample) -> None:
        """Add an object."""
        parts = {**sample.latents, "images": sample.images, "cameras": sample.cameras}
        dense = {name: value for name, value in parts.items() if name in DENSE}
        for name, value in dense.items():
            if name not in self._dense:
                self._dense[name] = torch.empty((self.objects, *value.shape), dtype=value.dtype, device=self.device)
            self._dense[name][index].copy_(value)
        for name in parts.keys() - dense.keys():
            self._ragged.setdefault(name, [None] * self.objects)[index] = parts[name].to(self.device)
        with self._changed:
            self._present[index] = 1
            while self.count < self.objects and self._present[self.count]:
                self.count += 1
            self._changed.notify_all()

    def wait(self, count: int) -> int:
        """Wait for `count` objects, or all; returns how many there are. Raises what ended their making."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self.count >= min(count, self.objects))
            if self._error is not None:
                raise self._error
            return self.count

    def fill(self, samples: Iterable[tuple[int, LatentSample]]) -> Thread:
        """Add the objects (index, sample) from a thread, which is returned; `wait` raises its error."""

        def run() -> None:
            try:
                for index, sample in samples:
                    self.add(index, sample)
            except BaseException as error:  # noqa: BLE001 passed on to the thread that waits
                with self._changed:
                    self._error = error
                    self._changed.notify_all()

        thread = Thread(target=run, name="objects", daemon=True)
        thread.start()
        return thread

    def values(self, name: str, count: int) -> list[Tensor]:
        """The latents `name` of the first `count` objects, which have been added."""
        return [self._ragged[name][index] for index in range(count)]

    def gather(self, rows: Tensor, seeds: Tensor) -> tuple[Batch, list[dict[str, Tensor]]]:
        """(images [B, S, S, 3] and cameras [B, 3] of one view of each object, and their latents), on the pool's device.

        rows: [B] int64.  seeds: [B] int64, non-negative: seed % V is the view.
        """
        numbers, rows, seeds = rows.tolist(), rows.to(self.device), seeds.to(self.device)
        views = seeds % self._dense["images"].shape[1]
        batch = {name: self._dense[name][rows, views] for name in ("images", "cameras")}
        samples: list[dict[str, Tensor]] = [{} for _ in numbers]
        whole = {name: self._dense[name][rows].unbind(0) for name in self._dense.keys() - batch.keys()}
        ragged = {name: [values[row] for row in numbers] for name, values in self._ragged.items()}
        for name, values in (whole | ragged).items():
            for sample, value in zip(samples, values, strict=True):
                sample[name] = value
        return batch, samples


@dataclass(frozen=True, eq=False)
class PoolStream:
    """Batches from a pool. first: objects to wait for before the first one.  seed, salt: as of `Stream`."""

    pool: LatentPool
    first: int
    seed: int
    salt: str

    def rows(self, positions: Sequence[int]) -> Tensor:
        """The objects [B] int64 at positions: of a whole pool each once an epoch, of one that grows any that is
        there."""
        objects, count = self.pool.objects, self.pool.wait(max(1, self.first))
        if count < objects:
            return mixed_seeds(self.seed, f"{self.salt} object", positions) % count
        found = [permutation(self.seed, position // objects, objects)[position % objects] for position in positions]
        return torch.tensor([int(index) for index in found])

    def batches(
        self,
        positions: Iterable[Sequence[int]],
        latents: Callable[[Sequence[dict[str, Tensor]]], Batch],
        drawn: Callable[[Batch, Tensor, StageConfig], Batch],
        stage: StageConfig,
        device: torch.device,
    ) -> Iterator[Batch]:
        """A batch on `device` for each group of positions. latents, drawn: of the flow's task."""
        for group in positions:
            seeds = mixed_seeds(self.seed, self.salt, group)
            batch, samples = self.pool.gather(self.rows(group), seeds)
            yield drawn(to_device({**latents(samples), **batch}, device), seeds.to(device), stage)


def read_pool(folder: LatentFolder, objects: int, device: torch.device) -> LatentPool:
    """The pool of a folder's first `objects` objects."""
    pool = LatentPool(objects, device)
    with ThreadPoolExecutor(READERS) as readers:
        for index, sample in enumerate(readers.map(folder, range(objects))):
            pool.add(index, sample)
    return pool


def place_of(nbytes: int, device: torch.device) -> torch.device | None:
    """Where a pool of `nbytes` bytes has room: the device, the host, or nowhere (None)."""
    if device.type == "cuda" and nbytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return device
    if hasattr(os, "sysconf") and nbytes <= HOST_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        return torch.device("cpu")
    return None
