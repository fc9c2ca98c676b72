"""Access to ComfyUI: folders, progress and cancel, devices, model residency; with plain substitutes outside it."""

from __future__ import annotations

from .comfyui import mesh as comfy_mesh
from .comfyui import progress, show, staged_progress
from .devices import at_rest, at_work, working_device
from .folders import BUILT_IN, ROOT, input_path, model_choices, model_source, output_path
from .model_residency import ComfyResidency, ComfyStreamed, network_device, residency

__all__ = [
    "BUILT_IN",
    "ROOT",
    "ComfyResidency",
    "ComfyStreamed",
    "at_rest",
    "at_work",
    "comfy_mesh",
    "input_path",
    "model_choices",
    "model_source",
    "network_device",
    "output_path",
    "progress",
    "residency",
    "show",
    "staged_progress",
    "working_device",
]
