"""Streams a flow transformer's blocks through two device buffers, for networks larger than the available memory.

While one block computes from a buffer, a second stream copies the next one's weights from page-locked memory to the
other. Results are bit-identical to those of a network loaded whole.

A network's first streamed use moves the streamed blocks to page-locked memory, which from then on holds the network's
CPU weights: no duplicate exists, later uses copy nothing, and it is freed with the network or as soon as its weights
are moved or replaced. Memory-mapped weights, whose pages the system could drop, then occupy memory: 2.6 GB for a
published flow network. If less than a quarter of the host's memory would remain free, the blocks are instead copied at
every use to one buffer shared by all networks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..models.transformer import FlowTransformer
from .memory import GIB, device_memory, host_memory
from .pinned import PinnedBuffer, pinned_bytes, upload
from .placement import place, tensors_of, weights_kept
from .residency import KeepLoaded, OneAtATime, Residency

log = logging.getLogger(__name__)

VRAM_MODES = ("auto", "high", "low")
# Device memory that holds all networks: 14 GB of weights, and the work at 2048 voxels a side.
HIGH_VRAM = 31 * GIB
# Device memory for a network's weights in "low". The rest streams, hidden behind the arithmetic of a card with so
# little memory.
LOW_WEIGHTS = GIB
# Bytes; smaller tensors (norms, biases) are not worth streaming.
SMALLEST = 2**16
BUFFERS = 2
ALIGNMENT = 256
# Share of the host's memory that page-locked weights leave free.
HOST_RESERVE = 1 / 4


def choose_residency(vram: str, device: torch.device | str) -> Residency:
    """Returns the residency for a mode. "high": networks stay on the device.  "low": keeps about 1 GiB of a network's
    weights on the device and streams the rest.  "auto": by device memory: networks stay on a large card; on others one
    is loaded at a time, and streamed if it does not fit beside its workspace. Only CUDA devices stream.

    Raises ValueError for another mode.
    """
    if vram not in VRAM_MODES:
        raise ValueError(f"vram: expected one of {VRAM_MODES}, got {vram!r}")
    device = torch.device(device)
    if vram == "high" or (vram == "auto" and device_memory(device).total >= HIGH_VRAM):
        return KeepLoaded(device)
    if device.type != "cuda":
        return OneAtATime(device)
    return Streamed(device, LOW_WEIGHTS if vram == "low" else None)


class Streamed:
    """Places one network at a time, and of a flow transformer only as many blocks as fit; the others stream.

    weights: bytes that a network's weights may take on the device; None: the free memory at its use, less its
    workspace.
    """

    def __init__(self, device: torch.device | str, weights: int | None = None) -> None:
        self.device, self.weights = torch.device(device), weights
        self._buffer = PinnedBuffer()

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        room = max(0, device_memory(self.device).free - workspace)
        streamed = choose_blocks(model, room if self.weights is None else min(room, self.weights))
        if not streamed:
            with weights_kept(model):
                upload(model, self.device, self._buffer)
                yield model
            return
        log.info("streaming %d blocks of %s: %.1f GiB free", len(streamed), type(model).__name__, room / GIB)
        launch = model.backends
        packed = self._packed(streamed)
        with weights_kept(model), ExitStack() as stack:
            stack.callback(setattr, model, "backends", launch)
            # CUDA graphs bake in weight addresses; streamed weights change theirs.
            model.backends = replace(launch, launch="eager")
            if packed is None:
                packed = self._copied(streamed)
            stack.enter_context(_streaming(streamed, packed, self.device))
            yield model.to(self.device)

    def release(self) -> None:
        """Frees the page-locked buffer shared by all networks; networks belong to their pipeline."""
        self._buffer.release()

    def _packed(self, blocks: Sequence[nn.Module]) -> list[Tensor] | None:
        """Returns the streamed weights of each block, [bytes] uint8 in page-locked memory that holds the network's
        weights from now on; None if the host has too little memory."""
        needed = sum(_size(block) for block in blocks if _find_packed(block) is None)
        host = host_memory()
        if needed and host is not None and host.free - needed < HOST_RESERVE * host.total:
            return None
        packed = []
        for block in blocks:
            bytes_ = _find_packed(block)
            if bytes_ is None:
                bytes_ = pinned_bytes(_size(block), self.device)
                _pack(block, bytes_)
            packed.append(bytes_)
        return packed

    def _copied(self, blocks: Sequence[nn.Module]) -> list[Tensor]:
        """Copies the streamed weights of each block, [bytes] uint8, to the shared buffer for this use."""
        sizes = [_size(block) for block in blocks]
        packed = list(self._buffer.get(sum(sizes), self.device).split(sizes))
        for block, bytes_ in zip(blocks, packed, strict=True):
            _pack(block, bytes_)
        return packed


def weights_at_once(model: nn.Module, room: int) -> int:
    """Returns the bytes that the weights take on the device while `choose_blocks(model, room)` stream."""
    streamed = [_size(block) for block in choose_blocks(model, room)]
    return _bytes(model) - sum(streamed) + BUFFERS * max(streamed, default=0)


def choose_blocks(model: nn.Module, room: int) -> list[nn.Module]:
    """Selects the blocks of `model` to stream so that its weights and the buffers take at most `room` bytes, spread
    evenly between the others. Empty if the model fits whole or is no flow transformer; all blocks if even that
    exceeds `room`."""
    if not isinstance(model, FlowTransformer) or _bytes(model) <= room:
        return []
    blocks = list(model.blocks)
    size = max(_size(block) for block in blocks)
    rest = _bytes(model) - sum(_size(block) for block in blocks)
    stay = max(0, (room - rest - BUFFERS * size) // max(1, size))
    # An even number, so that the last block and the first use different buffers.
    count = -(-max(0, len(blocks) - stay) // BUFFERS) * BUFFERS
    count = min(count, len(blocks) // BUFFERS * BUFFERS)
    return [] if count <= BUFFERS else [blocks[k * len(blocks) // count] for k in range(count)]


@contextmanager
def _streaming(blocks: Sequence[nn.Module], packed: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Context manager in which `packed`, the weights [bytes] uint8 of `blocks`, are copied to the device before each
    block runs."""
    size = max(len(bytes_) for bytes_ in packed)
    buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(BUFFERS)]
    for turn, block in enumerate(blocks):
        for (module, name, _), target in _packed_views(block, buffers[turn % BUFFERS]):
            place(module, name, target)
    copies = (_CudaCopies if device.type == "cuda" else _Copies)(packed, buffers)
    hooks = [
        hook
        for turn, block in enumerate(blocks)
        for hook in (
            block.register_forward_pre_hook(lambda *_, turn=turn: copies.await_turn(turn)),
            block.register_forward_hook(lambda *_, turn=turn: copies.end_turn(turn)),
        )
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        copies.finish()


class _Copies:
    """Copies packed[turn] to buffers[turn % 2] before block `turn` runs."""

    def __init__(self, packed: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
        self.packed, self.buffers = packed, buffers
        self.held: list[int | None] = [None] * len(buffers)

    def await_turn(self, turn: int) -> None:
        """Called before a block runs."""
        slot = turn % len(self.buffers)
        if self.held[slot] != turn:
            self._copy(turn)

    def end_turn(self, turn: int) -> None:
        """Called after a block: copies the weights of the next block that uses its buffer."""
        self._copy((turn + len(self.buffers)) % len(self.packed))

    def finish(self) -> None:
        """Waits for pending copies."""

    def _target(self, turn: int) -> Tensor:
        return self.buffers[turn % len(self.buffers)][: len(self.packed[turn])]

    def _copy(self, turn: int) -> None:
        slot = turn % len(self.buffers)
        self._target(turn).copy_(self.packed[turn])
        self.held[slot] = turn


class _CudaCopies(_Copies):
    """Copies on a stream of its own: a copy waits for the block that reads its buffer, a block for its copy."""

    def __init__(self, packed: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
        super().__init__(packed, buffers)
        self.stream = torch.cuda.Stream(buffers[0].device)
        self.arrived = [torch.cuda.Event() for _ in buffers]

    def await_turn(self, turn: int) -> None:
        super().await_turn(turn)
        torch.cuda.current_stream(self.stream.device).wait_event(self.arrived[turn % len(self.buffers)])

    def finish(self) -> None:
        self.stream.synchronize()

    def _copy(self, turn: int) -> None:
        slot = turn % len(self.buffers)
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            self._target(turn).copy_(self.packed[turn], non_blocking=True)
            self.arrived[slot].record(self.stream)
        self.held[slot] = turn


def _streamed(block: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yields (module, name, tensor) of a block's tensors to stream."""
    # `FlowTransformer.prepare` calls these layers outside their blocks' forward, so they stay on the device.
    resident = {id(module) for module in block.image_attention.to_kv.modules()}
    for module, name, tensor in tensors_of(block):
        if id(module) not in resident and tensor.nbytes >= SMALLEST and tensor.is_contiguous():
            yield module, name, tensor


def _packed_views(block: nn.Module, bytes_: Tensor) -> Iterator[tuple[tuple[nn.Module, str, Tensor], Tensor]]:
    """Yields each streamed tensor of a block with its view into packed `bytes_` [bytes] uint8."""
    offset = 0
    for entry in list(_streamed(block)):
        tensor = entry[2]
        yield entry, bytes_[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        offset += _padded(tensor)


def _pack(block: nn.Module, bytes_: Tensor) -> None:
    """Moves a block's streamed tensors to `bytes_` [bytes] uint8."""
    for (module, name, tensor), target in _packed_views(block, bytes_):
        target.copy_(tensor)
        place(module, name, target)


def _find_packed(block: nn.Module) -> Tensor | None:
    """Returns the [bytes] uint8 that `_pack` moved a block's weights to; None if they are elsewhere, as after a move or
    a replacement. Packed weights fill a whole storage, unlike those of a file or of a layer."""
    tensors = [tensor for _, _, tensor in _streamed(block)]
    if not tensors:
        return torch.empty(0, dtype=torch.uint8)
    storage, offset = tensors[0].untyped_storage(), 0
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.data_ptr() != storage.data_ptr() + offset:
            return None
        offset += _padded(tensor)
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (offset,), (1,)) if storage.nbytes() == offset else None


def _bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for _, _, tensor in tensors_of(model))


def _size(block: nn.Module) -> int:
    """Returns the bytes of a block's streamed tensors, packed."""
    return sum(_padded(tensor) for _, _, tensor in _streamed(block))


def _padded(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
