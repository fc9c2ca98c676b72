"""Networks larger than the memory for them: a flow transformer's blocks pass through two buffers on the device.

While one block computes from a buffer, a second stream copies the next one's weights into the other, from page-locked
memory. The numbers are those of a network that is loaded whole, to the bit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..models.transformer import FlowTransformer
from .memory import GIB, device_memory
from .pinned import HostMemory, upload
from .residency import KeepLoaded, OneAtATime, Residency, place, tensors_of, weights_kept

log = logging.getLogger(__name__)

VRAM_MODES = ("auto", "high", "low")
# A card with this much keeps all networks: 14 GB of weights, and 2048 voxels a side beside them.
HIGH_VRAM = 31 * GIB
# What "low" lets a network's weights take on the device. The rest streams, which a card with so little memory hides
# behind its arithmetic.
LOW_WEIGHTS = GIB
# `FlowTransformer.prepare` calls these layers outside their blocks' turns, so they stay.
ALWAYS_PRESENT = "cross_attn.to_kv"
# Nor is it worth streaming norms and biases.
SMALLEST = 2**16
BUFFERS = 2
ALIGNMENT = 256


def choose_residency(vram: str, device: torch.device | str) -> Residency:
    """ "high": networks stay on the device.  "low": as little of them as pays.  "auto": by the memory there is: they
    stay on a large card; on others one is loaded at a time, and streamed where it does not fit beside its work.

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
    """One network at a time, and of a flow transformer only as many blocks as fit; the others stream.

    weights: bytes that a network's weights may take on the device; None: what is free when it is used, less its work.
    """

    def __init__(self, device: torch.device | str, weights: int | None = None) -> None:
        self.device, self.weights = torch.device(device), weights
        self._host = HostMemory()

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        room = max(0, device_memory(self.device).free - workspace)
        streamed = choose_blocks(model, room if self.weights is None else min(room, self.weights))
        if not streamed:
            with weights_kept(model):
                upload(model, self.device, self._host)
                yield model
            return
        log.info("streaming %d blocks of %s: %.1f GiB free", len(streamed), type(model).__name__, room / GIB)
        launch = model.backends
        with weights_kept(model), ExitStack() as stack:
            stack.callback(setattr, model, "backends", launch)
            # A recorded graph would hold on to addresses that no longer hold the weights' turn.
            model.backends = replace(launch, launch="eager")
            stack.enter_context(_streaming(streamed, self.device, self._host))
            yield model.to(self.device)

    def release(self) -> None:
        """Let go of the page-locked memory; networks belong to their pipeline."""
        self._host.release()


def weights_at_once(model: nn.Module, room: int) -> int:
    """Bytes that the weights take on the device when `choose_blocks(model, room)` stream."""
    streamed = [_size(block) for block in choose_blocks(model, room)]
    return _bytes(model) - sum(streamed) + BUFFERS * max(streamed, default=0)


def choose_blocks(model: nn.Module, room: int) -> list[nn.Module]:
    """The blocks of `model` to stream so that its weights and the buffers take at most `room` bytes, spread evenly
    between those that stay. None where it fits whole, or is no flow transformer; all where even that is too much."""
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
def _streaming(blocks: Sequence[nn.Module], device: torch.device, host: HostMemory) -> Iterator[None]:
    """Inside, the weights of `blocks` arrive on the device as each block's turn comes."""
    size = max(_size(block) for block in blocks)
    packed = host.get(len(blocks) * size, device).view(len(blocks), size)
    buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(BUFFERS)]
    for turn, block in enumerate(blocks):
        at = 0
        for module, name, tensor in list(_streamed(block)):
            source, target = (
                bytes_[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
                for bytes_ in (packed[turn], buffers[turn % BUFFERS])
            )
            source.copy_(tensor)
            place(module, name, target)
            at += _padded(tensor)
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
    """Brings packed[turn] into buffers[turn % 2] by the time its turn comes."""

    def __init__(self, packed: Tensor, buffers: Sequence[Tensor]) -> None:
        self.packed, self.buffers = packed, buffers
        self.held: list[int | None] = [None] * len(buffers)

    def await_turn(self, turn: int) -> None:
        """Before a block computes."""
        slot = turn % len(self.buffers)
        if self.held[slot] != turn:
            self._copy(turn)

    def end_turn(self, turn: int) -> None:
        """After it has: its buffer takes the weights of the turn after the next."""
        self._copy((turn + len(self.buffers)) % len(self.packed))

    def finish(self) -> None:
        """Wait for what is under way."""

    def _copy(self, turn: int) -> None:
        slot = turn % len(self.buffers)
        self.buffers[slot].copy_(self.packed[turn])
        self.held[slot] = turn


class _CudaCopies(_Copies):
    """The same on a stream of its own: a copy waits for what computes from its buffer, a block for its copy."""

    def __init__(self, packed: Tensor, buffers: Sequence[Tensor]) -> None:
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
            self.buffers[slot].copy_(self.packed[turn], non_blocking=True)
            self.arrived[slot].record(self.stream)
        self.held[slot] = turn


def _streamed(block: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """The tensors of a block that are worth streaming, and may be."""
    present = {id(module) for module in block.get_submodule(ALWAYS_PRESENT).modules()}
    for module, name, tensor in tensors_of(block):
        if id(module) not in present and tensor.nbytes >= SMALLEST and tensor.is_contiguous():
            yield module, name, tensor


def _bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for _, _, tensor in tensors_of(model))


def _size(block: nn.Module) -> int:
    """Bytes of what streams of a block, packed."""
    return sum(_padded(tensor) for _, _, tensor in _streamed(block))


def _padded(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
