"""Weights from the host to the device at the speed of the bus, through page-locked memory."""

from __future__ import annotations

import logging
import weakref
from itertools import count

import torch
from torch import Tensor, nn

from .memory import GIB
from .residency import place, tensors_of

log = logging.getLogger(__name__)

# A piece is copied into page-locked memory while the piece before it crosses the bus.
PIECE_BYTES, PIECES = 64 * 2**20, 2


def upload(model: nn.Module, device: torch.device, host: HostMemory) -> nn.Module:
    """`model.to(device)`, on CUDA several times as fast for weights that ordinary memory or a file holds."""
    if device.type != "cuda":
        return model.to(device)
    pieces = host.get(PIECES * PIECE_BYTES, device).view(PIECES, PIECE_BYTES)
    free = [torch.cuda.Event() for _ in range(PIECES)]
    turns = count()
    for module, name, tensor in tensors_of(model):
        if tensor.device.type == "cpu" and tensor.nbytes >= 2**20 and _plain(tensor):
            there = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            ours, theirs = (side.reshape(-1).view(torch.uint8).split(PIECE_BYTES) for side in (tensor, there))
            for source, target in zip(ours, theirs, strict=True):
                slot = next(turns) % PIECES
                free[slot].synchronize()
                piece = pieces[slot, : len(source)]
                piece.copy_(source)
                target.copy_(piece, non_blocking=True)
                free[slot].record()
            place(module, name, there)
    torch.cuda.current_stream(device).synchronize()
    return model.to(device)


def _plain(tensor: Tensor) -> bool:
    """Whether its bytes are its numbers, one after the other."""
    return tensor.is_contiguous() and not tensor.is_complex()


class HostMemory:
    """Page-locked host memory, from which copies to the device run beside its work. It grows, and is kept until it is
    released: locking it takes as long as some forwards."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._unlock: weakref.finalize | None = None

    def get(self, size: int, device: torch.device) -> Tensor:
        """[size] uint8. Where the system refuses to lock so much, ordinary memory: slower, otherwise the same."""
        if len(self._bytes) < size:
            self.release()
            self._bytes = torch.empty(size, dtype=torch.uint8)
            if device.type == "cuda":
                self._lock(self._bytes)
        return self._bytes[:size]

    def release(self) -> None:
        if self._unlock is not None:
            self._unlock()
        self._bytes, self._unlock = torch.empty(0, dtype=torch.uint8), None

    def _lock(self, memory: Tensor) -> None:
        """In place: torch's own page-locked memory comes in powers of two, nearly twice of what is needed here."""
        runtime = torch.cuda.cudart()
        error = int(runtime.cudaHostRegister(memory.data_ptr(), len(memory), 0))
        if error:
            log.warning("streaming: could not lock %.1f GiB of memory (CUDA error %d)", len(memory) / GIB, error)
            return
        self._unlock = weakref.finalize(self, runtime.cudaHostUnregister, memory.data_ptr())
        self._unlock.atexit = False
