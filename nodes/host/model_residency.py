"""Places networks on the device: with ComfyUI's model management, outside ComfyUI with the pack's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...trellis2.runtime.memory import GIB
from ...trellis2.runtime.residency import Residency, default_device
from ...trellis2.runtime.streaming import LOW_WEIGHTS, VRAM_MODES, Streamed, choose_residency, weights_at_once
from . import comfyui

# Below this size, a flow network and its workspace do not fit together.
SMALL_CARD = 6 * GIB


def network_device() -> torch.device:
    """Returns the device that networks compute on: ComfyUI's, outside it the accelerator that torch finds."""
    management = comfyui.module("comfy.model_management")
    return management.get_torch_device() if management else default_device()


def residency(vram: str = "auto") -> Residency:
    """Returns ComfyUI's model management inside it, so that its models and this pack's make room for each other. vram:
    see `choose_residency`. Raises ValueError for an unknown mode."""
    management = comfyui.module("comfy.model_management")
    if not management:
        return choose_residency(vram, default_device())
    if vram not in VRAM_MODES:
        raise ValueError(f"vram: expected one of {VRAM_MODES}, got {vram!r}")
    device = management.get_torch_device()
    small = device.type == "cuda" and management.get_total_memory(device) < SMALL_CARD
    if device.type == "cuda" and (vram == "low" or (vram == "auto" and small)):
        return ComfyStreamed(management, device)
    return ComfyResidency(management)


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
        self._management.load_models_gpu([self._patchers[model]], memory_required=workspace, force_full_load=True)
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
