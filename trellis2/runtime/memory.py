"""Reports the memory of devices and host, and estimates the workspace of a network."""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ..checkpoint.config import FlowConfig, SparseDecoderConfig

log = logging.getLogger(__name__)

T = TypeVar("T")
B = TypeVar("B")
GIB = 2**30
MEMINFO = Path("/proc/meminfo")
# Assumed for a device that does not report its memory.
UNKNOWN = 8 * GIB


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes. total: available to this process.  free: of these, still allocatable."""

    total: int
    free: int


def device_memory(device: torch.device) -> DeviceMemory:
    """Returns the current memory of a device. Memory in torch's cache counts as free; a limit set with
    `torch.cuda.set_per_process_memory_fraction` counts as the device's size."""
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return DeviceMemory(total, max(0, total - torch.mps.current_allocated_memory()))
    if device.type not in ("cuda", "xpu"):
        return DeviceMemory(UNKNOWN, UNKNOWN)
    backend = torch.cuda if device.type == "cuda" else torch.xpu
    free, total = backend.mem_get_info(device)
    used = backend.memory_allocated(device)
    # Not in every version of torch, nor on every backend.
    share = getattr(backend, "get_per_process_memory_fraction", lambda device: 1.0)(device.index)
    allowed = int(total * share)
    return DeviceMemory(allowed, max(0, min(free + backend.memory_reserved(device) - used, allowed - used)))


def with_less(work: Callable[[B], T], first: B, less: Callable[[], B], device: torch.device) -> T:
    """Returns work(first); where the memory of `device` runs out, once more work(less()), which has to be cheaper and
    to give the same. `less` is called when torch's cache is empty, so that it sees what is free.

    Raises torch.OutOfMemoryError where that does not do either.
    """
    try:
        return work(first)
    except torch.OutOfMemoryError as error:
        log.info("%s; trying once more in smaller parts", str(error).partition(". ")[0])
    # Not in the handler, whose traceback holds what was allocated.
    empty_cache(device)
    return work(less())


def empty_cache(device: torch.device) -> None:
    """Gives the memory that torch keeps for later back to the device."""
    backend = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.mps}.get(device.type)
    if backend is not None and backend.is_available():
        backend.empty_cache()


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Returns glibc's malloc_trim, None where the C library has none."""
    if sys.platform != "linux":
        return None
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl
        return None


def trim_heap() -> None:
    """Gives the pages that are free in the heap back to the system. Has no effect where the C library cannot.

    glibc frees large arrays at once only until it has seen some (its threshold rises to 32 MiB); from then on they
    lie in the heap, where one small object in use keeps what was freed below it. The resident memory of a process
    that makes many objects would stay at the largest of them, and above.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def host_memory() -> DeviceMemory | None:
    """Returns the host's current memory; free excludes swap and includes the page cache. None where the system does not
    report it in /proc, as Linux does."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if rest.split()}
    if not {"MemTotal", "MemAvailable"} <= kib.keys():
        return None
    return DeviceMemory(1024 * kib["MemTotal"], 1024 * kib["MemAvailable"])


def workspace(model: nn.Module, tokens: int, image_tokens: int = 0) -> int:
    """Estimates the bytes that a network's forward needs besides its weights.

    A network that takes pictures alone may say it itself, as `workspace_bytes`. tokens: of a flow transformer or latent
    voxels of a sparse decoder, image_tokens: of its condition, both summed over batch items (and views).
    """
    own, config = getattr(model, "workspace_bytes", None), getattr(model, "config", None)
    if own is not None:
        return own
    if isinstance(config, FlowConfig):
        return flow_workspace(config, tokens, image_tokens)
    return decoder_workspace(tokens) if isinstance(config, SparseDecoderConfig) else GIB


def flow_workspace(config: FlowConfig, tokens: int, image_tokens: int) -> int:
    """Estimates the bytes that a flow network's forwards need besides its weights: the image's keys and values in every
    block, projected features (as made, and in the torso's dtype), and the widest activations of one block.

    tokens, image_tokens: summed over batch items and views.
    """
    channels, size = config.model_channels, config.torso_dtype.itemsize
    kept = 2 * config.num_blocks * image_tokens * channels + 3 * tokens * config.projected_channels
    # x, its norm, the residual branch, query, key and value before and after rotation; the MLP's hidden layer.
    moving = tokens * channels * (10 + config.mlp_ratio)
    # Twice: a CUDA graph has activations of its own.
    return int(1.25 * size * (kept + 2 * moving)) + GIB // 4


def decoder_workspace(tokens: int, parts: int = GIB) -> int:
    """Estimates the bytes that a sparse decoder needs besides its weights, for `tokens` latent voxels of a surface.

    Voxels quadruple at each level. Counted are the finest whole level, a quarter of the finest voxels at 128 channels,
    three times, its neighbour map twice, and rows, index and output at the finest.
    parts: bytes of the finest level's parts.
    """
    return tokens * (64 * (3 * 256 + 2 * 112) + 256 * (16 + 16 + 28 + 16)) + parts
