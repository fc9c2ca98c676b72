"""Data parallelism: one process a card under torchrun, or a single process without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ...runtime.residency import default_device


@dataclass(frozen=True)
class DistributedContext:
    """This process's device, its rank and the number of processes."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True for rank 0, which writes the shared files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            distributed.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """Elementwise mean of `values` over the ranks, of their shape."""
        if self.world_size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.world_size

    def parallel(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over the ranks. All start from equal weights: DDP's broadcast is off."""
        if self.world_size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False, init_sync=False)


@contextmanager
def init_distributed(device: str | None = None) -> Iterator[DistributedContext]:
    """Join torchrun's process group, on the card of the local rank; without torchrun a single process on `device`
    (None: the best available)."""
    chosen = torch.device(device) if device else default_device()
    if not distributed.is_torchelastic_launched():
        yield DistributedContext(chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", distributed.get_node_local_rank())
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield DistributedContext(chosen, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
