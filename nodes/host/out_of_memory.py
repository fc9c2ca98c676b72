"""What a node does when memory runs out: once more in the room that other models leave, then an error with the widget.
And after it: what is free of the main memory goes back to the system.

Sizes of parts follow the free memory (decoding, meshing), so the second run works in smaller ones. Nodes are pure, so
that it gives what the first would have.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...trellis2.runtime.memory import empty_cache, trim_heap
from . import comfyui
from .devices import DEVICE, NETWORKS, POLICY, working_device

log = logging.getLogger(__name__)

# Widgets that memory follows, the strongest first.
WIDGETS = (
    "pipeline_type",
    "resolution",
    "surface_resolution",
    "grid",
    "tokens",
    "max_tokens",
    "texture_size",
    "max_texture",
    "supersample",
    "faces",
    "size",
    "frames",
    "levels",
)
# What PyTorch says of the main memory, in a RuntimeError of no class of its own.
CPU_WORDS = ("not enough memory", "can't allocate memory")
ELSEWHERE: Mapping[str, str] = {
    NETWORKS: "set vram to low in Load Model, or generate at a lower resolution or with fewer max_tokens before",
    DEVICE: "take fewer faces before, by Simplify Mesh",
}

# Of nodes with a widget that sets the size of their parts.
PARTS: Mapping[str, str] = {"T2VoxelsToMesh": "set tile_size to 256 or less"}


def guard_memory(node: Any, name: str) -> Any:
    """Has the call of a node class, whose id is `name`, run once more where a device's memory runs out, and then raise
    an error of the same type that says what to change. The heap is trimmed after every call. Returns `node`."""
    call = getattr(node, node.FUNCTION)
    if not hasattr(call, "guards_memory"):
        guarded = _guarded(call, node, name)
        vars(guarded)["guards_memory"] = True
        setattr(node, node.FUNCTION, guarded)
    return node


def _guarded(call: Callable[..., Any], node: type, name: str) -> Callable[..., Any]:
    def attempts(*given: Any, **widgets: Any) -> Any:
        try:
            return call(*given, **widgets)
        except torch.OutOfMemoryError as error:
            log.warning("%s: %s; freeing the device and trying once more", name, _first_line(error))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(words in str(error) for words in CPU_WORDS):
                raise
            raise MemoryError(
                f"the main memory is full. {remedy(node, name, widgets)} ({_first_line(error)})"
            ) from error
        # Not in the handler, whose traceback holds what was allocated.
        free_device()
        try:
            return call(*given, **widgets)
        except torch.OutOfMemoryError as error:
            text = f"the memory of {working_device()} is full, also after other models have left it. "
            raise torch.OutOfMemoryError(f"{text}{remedy(node, name, widgets)} ({_first_line(error)})") from error

    @functools.wraps(call)
    def run(*given: Any, **widgets: Any) -> Any:
        try:
            return attempts(*given, **widgets)
        finally:
            trim_heap()  # here, where the call's own arrays are gone

    return run


def free_device() -> None:
    """Moves all models off the device, ComfyUI's and other packs' too, and empties torch's cache."""
    management = comfyui.module("comfy.model_management")
    if management:
        management.unload_all_models()
        management.soft_empty_cache()
    empty_cache(working_device())


def remedy(node: Any, name: str, widgets: Mapping[str, Any]) -> str:
    """Returns the sentence that says what to change: the node's own widgets that memory follows, with their values, and
    what helps before the node."""
    inputs = node.INPUT_TYPES()
    own = {**inputs.get("required", {}), **inputs.get("optional", {})}
    shown = [
        f"{widget} (now {widgets[widget]})" if widget in widgets else widget for widget in WIDGETS if widget in own
    ]
    parts = [PARTS[name]] if name in PARTS else []
    parts += [f"lower {' or '.join(shown)}"] if shown else []
    parts += [ELSEWHERE[POLICY[name]]] if POLICY.get(name) in ELSEWHERE else []
    said = "; or ".join(parts) or "close other programs, or give it smaller inputs"
    return f"{said[0].upper()}{said[1:]}."


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0][:200] or type(error).__name__
