"""Access to ComfyUI: folders, progress and cancel, devices, model residency; with plain substitutes outside it."""

from __future__ import annotations

from .comfyui import absent, host_version, progress, show, show_text, staged_progress
from .comfyui import mesh as comfy_mesh
from .devices import at_rest, at_work, geometry_at_work, working_device
from .files import (
    NO_FILE,
    changed,
    file_3d,
    file_problem,
    input_files,
    input_path,
    metadata,
    opened,
    received,
    saved_files,
)
from .folders import (
    BUILT_IN,
    ROOT,
    download,
    model_choices,
    model_source,
    output_path,
    places,
    temp_path,
    weight_sources,
)
from .model_residency import ComfyResidency, ComfyStreamed, network_device, residency
from .sources import output_subfolder, picture_source, picture_sources, readable, source_changed

__all__ = [
    "BUILT_IN",
    "NO_FILE",
    "ROOT",
    "ComfyResidency",
    "ComfyStreamed",
    "absent",
    "at_rest",
    "at_work",
    "changed",
    "comfy_mesh",
    "download",
    "file_3d",
    "file_problem",
    "geometry_at_work",
    "host_version",
    "input_files",
    "input_path",
    "metadata",
    "model_choices",
    "model_source",
    "network_device",
    "opened",
    "output_path",
    "output_subfolder",
    "picture_source",
    "picture_sources",
    "places",
    "progress",
    "readable",
    "received",
    "residency",
    "saved_files",
    "show",
    "show_text",
    "source_changed",
    "staged_progress",
    "temp_path",
    "weight_sources",
    "working_device",
]
