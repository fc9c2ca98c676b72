"""Imports ComfyUI's modules and wraps its MESH and its progress bar with cancel. No other module imports ComfyUI."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from PIL.Image import Image

from ...o_voxel.core.progress import Progress, silent

PROGRESS_TICKS = 10_000
# Seconds between two messages of the bar; each goes to the browser.
BAR_SECONDS = 0.05


def module(name: str) -> ModuleType | None:
    """Returns the module `name` of the running ComfyUI, or None outside it."""
    inside = importlib.util.find_spec("folder_paths") is not None
    return importlib.import_module(name) if inside else None


def mesh(**parts: Any) -> Any:
    """Returns ComfyUI's MESH of these parts; outside it, an object with the same attributes."""
    api = module("comfy_api.latest")
    return api.Types.MESH(**parts) if api else SimpleNamespace(**parts)


def host_version() -> dict[str, str]:
    """Returns {"ComfyUI": its version} inside it; {} outside."""
    known = module("comfyui_version")
    return {} if known is None else {"ComfyUI": str(getattr(known, "__version__", "unknown"))}


def progress() -> Progress:
    """Returns report(fraction), which moves the node's progress bar and raises if the user has cancelled.

    Every call looks for a cancel; the bar moves at most every BAR_SECONDS, and at the end.
    """
    utils, management = module("comfy.utils"), module("comfy.model_management")
    if utils is None or management is None:
        return silent
    bar, moved = utils.ProgressBar(PROGRESS_TICKS), [0.0, -1]

    def report(fraction: float) -> None:
        management.throw_exception_if_processing_interrupted()
        now, ticks = time.monotonic(), round(fraction * PROGRESS_TICKS)
        if ticks != moved[1] and (now - moved[0] >= BAR_SECONDS or ticks >= PROGRESS_TICKS):
            moved[:] = now, ticks
            bar.update_absolute(ticks)

    return report


def absent(message: str) -> Any:
    """Returns the value of an output that has none: nodes connected to it fail with `message`. None outside ComfyUI."""
    graphs = module("comfy_execution.graph_utils")
    return graphs.ExecutionBlocker(message) if graphs else None


def staged_progress(stages: Sequence[str]) -> Callable[[str, float], None]:
    """Returns report(stage, fraction), `progress` with an equal part of the bar for each stage."""
    report = progress()
    return lambda stage, fraction: report((stages.index(stage) + fraction) / len(stages))


def show_text(lines: Sequence[str]) -> None:
    """Shows lines on the node that runs, in place of those it showed before; does nothing outside ComfyUI.

    The canvas draws a result's `ui` text for its own nodes only, and never removes a text: write one after every run.
    """
    server, execution = module("server"), module("comfy_execution.utils")
    running = execution.get_executing_context() if execution else None
    instance = getattr(server.PromptServer, "instance", None) if server else None
    if running is not None and instance is not None:
        instance.send_progress_text("\n".join(lines), running.node_id)


def show(draw: Callable[[], Image], fraction: float = 1.0) -> None:
    """Shows the picture that draw() returns on the running node, whose bar stands at `fraction`. Outside ComfyUI, and
    where it shows no progress, nothing is drawn."""
    utils = module("comfy.utils")
    bar = utils.ProgressBar(PROGRESS_TICKS) if utils else None
    if bar is not None and bar.hook is not None:
        picture = draw()
        bar.update_absolute(round(fraction * PROGRESS_TICKS), preview=("JPEG", picture, max(picture.size)))
