"""Places networks on the device: with ComfyUI's model management, outside ComfyUI with the pack's own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...trellis2.runtime.cuda_graphs import weights_of
from ...trellis2.runtime.memory import GIB
from ...trellis2.runtime.placement import is_on
from ...trellis2.runtime.residency import OneAtATime, Residency, default_device
from ...trellis2.runtime.streaming import LOW_WEIGHTS, VRAM_MODES, Streamed, choose_residency, weights_at_once
from . import comfyui

log = logging.getLogger(__name__)

# Below this size, a flow network and its workspace do not fit together.
SMALL_CARD = 6 * GIB
# ComfyUI's state under --novram. It then leaves weights on the CPU, even of a model to load whole: its own layers fetch
# them as they compute, which torch's, of which our networks consist, do not.
NO_VRAM = "NO_VRAM"


def network_device() -> torch.device:
    """Returns the device that networks compute on: ComfyUI's, outside it the accelerator that torch finds."""
    management = comfyui.module("comfy.model_management")
    return management.get_torch_device() if management else default_device()


def residency(vram: str = "auto") -> Residency:
    """Returns ComfyUI's model management inside it, so that its models and this pack's make room for each other. vram:
    see `choose_residency`; under --novram, ComfyUI's own choice, "low" for each. Raises ValueError for an unknown mode.
    """
    management = comfyui.module("comfy.model_management")
    if not management:
        return choose_residency(vram, default_device())
    if vram not in VRAM_MODES:
        raise ValueError(f"vram: expected one of {VRAM_MODES}, got {vram!r}")
    device = management.get_torch_device()
    if management.vram_state.name == NO_VRAM:
        return _passing_through(management, device)
    small = device.type == "cuda" and management.get_total_memory(device) < SMALL_CARD
    if device.type == "cuda" and (vram == "low" or (vram == "auto" and small)):
        return ComfyStreamed(management, device)
    return ComfyResidency(management)


def _passing_through(management: Any, device: torch.device) -> Residency:
    """Returns a residency that leaves no network on the device after its use."""
    return ComfyStreamed(management, device) if device.type == "cuda" else ComfyOneAtATime(management, device)


class ComfyResidency:
    """Wraps networks as ModelPatchers: ComfyUI decides which ones stay on the device."""

    def __init__(self, management: Any) -> None:
        self._management = management
        self._patcher = comfyui.module("comfy.model_patcher").ModelPatcher
        self._patchers: dict[nn.Module, Any] = {}

    @property
    def device(self) -> torch.device:
        return self._management.get_torch_device()

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        if model not in self._patchers:
            offload = self._management.unet_offload_device()
            self._patchers[model] = self._patcher(model, load_device=self.device, offload_device=offload)
        patcher = self._patchers[model]
        self._management.load_models_gpu([patcher], memory_required=workspace, force_full_load=True)
        if is_on(model, self.device):
            yield model
            return
        # Not every ComfyUI loads whole what should be: --novram does not, and modes to come may not.
        log.info("ComfyUI left weights of %s off the device; they are brought there for this use", type(model).__name__)
        patcher.detach()
        with _passing_through(self._management, self.device).use(model, workspace):
            yield model

    def release(self) -> None:
        """Drops the references to the networks' patchers."""
        self._patchers.clear()


class ComfyStreamed(Streamed):
    """Streams one network at a time: ComfyUI frees memory for it, then this pack manages the network alone."""

    def __init__(self, management: Any, device: torch.device) -> None:
        super().__init__(device, LOW_WEIGHTS)
        self._management = management

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        wanted = weights_at_once(model, self.weights) + workspace + self._management.extra_reserved_memory()
        self._management.free_memory(wanted, self.device)
        with super().use(model, workspace):
            yield model


class ComfyOneAtATime(OneAtATime):
    """Keeps a network on the device only while it is used, after ComfyUI has freed memory for it."""

    def __init__(self, management: Any, device: torch.device) -> None:
        super().__init__(device)
        self._management = management

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        weights = sum(tensor.nbytes for tensor in weights_of(model))
        self._management.free_memory(weights + workspace + self._management.extra_reserved_memory(), self.device)
        with super().use(model, workspace):
            yield model
