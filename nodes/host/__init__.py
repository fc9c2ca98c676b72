"""Access to ComfyUI: folders, progress and cancel, devices, model residency; with plain substitutes outside it."""

from __future__ import annotations

from .comfyui import mesh as comfy_mesh
from .comfyui import progress, staged_progress
from .devices import at_rest, at_work, working_device
from .folders import BUILT_IN, ROOT, download, input_path, model_choices, model_source, output_path
from .model_residency import ComfyResidency, ComfyStreamed, residency

__all__ = [
    "BUILT_IN",
    "ROOT",
    "ComfyResidency",
    "ComfyStreamed",
    "at_rest",
    "at_work",
    "comfy_mesh",
    "download",
    "input_path",
    "model_choices",
    "model_source",
    "output_path",
    "progress",
    "residency",
    "staged_progress",
    "working_device",
]
