"""Uploads weights to the device at the speed of the bus, through page-locked memory."""

from __future__ import annotations

import logging
import threading
import weakref
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from .memory import GIB
from .placement import place, tensors_of

log = logging.getLogger(__name__)

# A piece is staged in page-locked memory while the previous one is transferred.
PIECE_BYTES, PIECES = 64 * 2**20, 2
# Granularity of locks, and the flag that locks memory for all devices (facts: CUDA's cudaHostRegister).
PAGE, PORTABLE = 4096, 1


def upload(model: nn.Module, device: torch.device, host: PinnedBuffer) -> nn.Module:
    """Returns `model.to(device)`, on CUDA several times as fast for weights in pageable memory or a memory-mapped
    file."""
    if device.type != "cuda":
        return model.to(device)
    with host.lock:
        _upload(model, device, host.get(PIECES * PIECE_BYTES, device).view(PIECES, PIECE_BYTES))
    return model.to(device)


def _upload(model: nn.Module, device: torch.device, pieces: Tensor) -> None:
    """Moves the large tensors. pieces: [PIECES, PIECE_BYTES] uint8, page-locked."""
    free = [torch.cuda.Event() for _ in range(PIECES)]
    turns, stream = count(), torch.cuda.current_stream(device)
    for module, name, tensor in tensors_of(model):
        if tensor.device.type == "cpu" and tensor.nbytes >= 2**20 and _plain(tensor):
            uploaded = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            sources, targets = (side.reshape(-1).view(torch.uint8).split(PIECE_BYTES) for side in (tensor, uploaded))
            for source, target in zip(sources, targets, strict=True):
                slot = next(turns) % PIECES
                free[slot].synchronize()
                piece = pieces[slot, : len(source)]
                piece.copy_(source)
                target.copy_(piece, non_blocking=True)
                free[slot].record(stream)
            place(module, name, uploaded)
    stream.synchronize()


def _plain(tensor: Tensor) -> bool:
    """True if the tensor's bytes are its elements in order."""
    return tensor.is_contiguous() and not tensor.is_complex()


class PinnedBuffer:
    """Growing page-locked host buffer, whose copies to the device overlap with computation. Kept until `release`:
    locking memory takes as long as some forwards.

    lock: held while networks are uploaded through it, which several threads may want at a time.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def get(self, size: int, device: torch.device) -> Tensor:
        """Returns [size] uint8, see `pinned_bytes`. The next call may return the same memory."""
        if len(self._bytes) < size:
            self.release()
            self._bytes = pinned_bytes(size, device)
        return self._bytes[:size]

    def release(self) -> None:
        """Frees the memory once no tensor uses it."""
        self._bytes = torch.empty(0, dtype=torch.uint8)


def pinned_bytes(size: int, device: torch.device) -> Tensor:
    """Allocates [size] uint8, page-locked for copies to `device` as long as any tensor uses its storage of `size`
    bytes. Falls back to pageable memory, slower but otherwise equivalent, if the system refuses to lock it.

    torch's pinned memory comes in powers of two, nearly twice the size needed here.
    """
    length = -(-size // PAGE) * PAGE
    memory = np.empty(length + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE  # locks must not share a page
    if device.type == "cuda" and size:
        runtime, address = torch.cuda.cudart(), memory.ctypes.data + start
        with torch.cuda.device(device):
            error = int(runtime.cudaHostRegister(address, length, PORTABLE))
        if error:
            log.warning("streaming: could not lock %.1f GiB of memory (CUDA error %d)", size / GIB, error)
        else:
            # The storage keeps the array alive; its finalizer unlocks the memory before it is freed.
            weakref.finalize(memory, runtime.cudaHostUnregister, address).atexit = False
    return torch.from_numpy(memory[start : start + size])
