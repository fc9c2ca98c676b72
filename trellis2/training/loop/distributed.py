"""The cards of a run: one process a card, started by torchrun; a process that was not stands alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ...runtime.residency import default_device


@dataclass(frozen=True)
class Team:
    """card: which of `cards` this process is.  device: where it computes."""

    device: torch.device
    card: int = 0
    cards: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes what all share."""
        return self.card == 0

    def barrier(self) -> None:
        """Wait for the others."""
        if self.cards > 1:
            distributed.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over the cards."""
        if self.cards == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.cards

    def parallel(self, module: nn.Module) -> nn.Module:
        """`module` with its gradients averaged over the cards. All start from equal weights, so none are sent."""
        if self.cards == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False, init_sync=False)


@contextmanager
def join(device: str | None = None) -> Iterator[Team]:
    """This process's place: under torchrun one of several, else alone on `device` (None: what is there)."""
    chosen = torch.device(device) if device else default_device()
    if not distributed.is_torchelastic_launched():
        yield Team(chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", distributed.get_node_local_rank())
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Team(chosen, distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
