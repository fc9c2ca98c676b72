"""ComfyUI itself: its modules, its MESH, the progress bar with the user's cancel. Nothing else imports it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

PROGRESS_TICKS = 1000


def module(name: str) -> ModuleType | None:
    """The module `name` of the ComfyUI that we run in, or None outside one."""
    inside = importlib.util.find_spec("folder_paths") is not None
    return importlib.import_module(name) if inside else None


def mesh(**parts: Any) -> Any:
    """ComfyUI's own MESH of these parts; outside it, an object with the same names."""
    api = module("comfy_api.latest")
    return api.Types.MESH(**parts) if api else SimpleNamespace(**parts)


def progress() -> Callable[[float], None]:
    """A callback for long work: moves the node's bar, and raises when the user has cancelled."""
    utils, management = module("comfy.utils"), module("comfy.model_management")
    if utils is None or management is None:
        return lambda fraction: None
    bar = utils.ProgressBar(PROGRESS_TICKS)

    def report(fraction: float) -> None:
        management.throw_exception_if_processing_interrupted()
        bar.update_absolute(round(fraction * PROGRESS_TICKS))

    return report


def staged_progress(stages: Sequence[str]) -> Callable[[str, float], None]:
    """`progress` for work that reports (stage, fraction), each stage an equal part of the bar."""
    report = progress()
    return lambda stage, fraction: report((stages.index(stage) + fraction) / len(stages))
