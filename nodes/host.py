"""ComfyUI through one door: folders, progress and cancel, model residency. Outside ComfyUI, plain stand-ins."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import nn

from ..o_voxel.values import tensor_bytes, to_device
from ..trellis2.checkpoint.builtin import built_in, find_built_in
from ..trellis2.checkpoint.layouts import COMFY_ORG, MICROSOFT
from ..trellis2.runtime.memory import GIB
from ..trellis2.runtime.residency import Residency, default_device
from ..trellis2.runtime.streaming import LOW_WEIGHTS, VRAM_MODES, Streamed, choose_residency, weights_at_once

ROOT = Path(__file__).resolve().parents[1]
PROGRESS_TICKS = 1000
# Where our models live under ComfyUI's models folder.
FOLDER = "trellis2"
# The checkpoint that comes with the pack, as the loader's widget names it. Saved workflows hold this value.
BUILT_IN = "mini (built in)"
# With less than this, a flow network and its work do not fit at once.
SMALL_CARD = 6 * GIB
# Mesh work on a GPU takes about so many times the memory of what it works on.
WORK_FACTOR = 20

T = TypeVar("T")


def _comfy(name: str) -> ModuleType | None:
    """A module of the ComfyUI that we run in, or None outside one."""
    inside = importlib.util.find_spec("folder_paths") is not None
    return importlib.import_module(name) if inside else None


def models_folder() -> Path:
    """ComfyUI's models folder; outside it, `models` beside the pack."""
    folders = _comfy("folder_paths")
    return Path(folders.models_dir) if folders else ROOT / "models"


def model_choices() -> list[str]:
    """What the loader offers: the built-in checkpoint if this copy of the pack has it, so that a first run needs no
    download; folders with a pipeline.json under models/trellis2; then what can be downloaded."""
    base = models_folder() / FOLDER
    found = [path.parent for depth in ("*", "*/*") for path in base.glob(f"{depth}/pipeline.json")]
    local = {folder.relative_to(base).as_posix() for folder in found}
    ours = [BUILT_IN] if find_built_in() else []
    return [*ours, *sorted(local - {MICROSOFT}), MICROSOFT, COMFY_ORG]


def model_source(choice: str) -> tuple[str, Path]:
    """(source, folder) for `Checkpoint.open`. Downloads land where ComfyUI, and core's own nodes, look for them.
    Raises FileNotFoundError for the built-in checkpoint where it is absent."""
    if choice == BUILT_IN:
        return str(built_in()), built_in()
    if choice == COMFY_ORG:
        return choice, models_folder()
    local = models_folder() / FOLDER / choice
    return (choice if choice == MICROSOFT else str(local)), local


def input_path(name: str) -> Path:
    """A file that the user names: in ComfyUI's input folder, or an absolute path. Raises FileNotFoundError."""
    folders = _comfy("folder_paths")
    base = Path(folders.get_input_directory()) if folders else ROOT / "input"
    path = base / name  # an absolute name replaces the folder
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no such file in {base}; put it there, or give an absolute path")
    return path


def output_folder() -> Path:
    """ComfyUI's output folder; outside it, `output` beside the pack."""
    folders = _comfy("folder_paths")
    return Path(folders.get_output_directory()) if folders else ROOT / "output"


def output_path(prefix: str, extension: str) -> tuple[Path, str]:
    """(file to write, its subfolder of the output folder), numbered by ComfyUI's own rules and never outside it."""
    folders, base = _comfy("folder_paths"), output_folder().resolve()
    if folders:
        folder, name, counter, subfolder, _ = folders.get_save_image_path(prefix, str(base))
        return Path(folder) / f"{name}_{counter:05}_.{extension}", subfolder
    target = (base / prefix).resolve()
    if not target.is_relative_to(base):
        raise ValueError(f"filename_prefix: expected a place inside {base}, got {prefix!r}")
    taken = len(list(target.parent.glob(f"{target.name}_*_.{extension}"))) if target.parent.is_dir() else 0
    subfolder = target.parent.relative_to(base).as_posix()
    return target.with_name(f"{target.name}_{taken + 1:05}_.{extension}"), "" if subfolder == "." else subfolder


def progress() -> Callable[[float], None]:
    """A callback for long work: moves the node's bar, and raises when the user has cancelled."""
    utils, management = _comfy("comfy.utils"), _comfy("comfy.model_management")
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


def working_device() -> torch.device:
    """Where mesh work runs: ComfyUI's device; outside it, what is there."""
    management = _comfy("comfy.model_management")
    return management.get_torch_device() if management else torch.device(default_device())


def at_work(value: T) -> T:
    """`value` on the working device, with room made there for work on it."""
    device = working_device()
    management = _comfy("comfy.model_management")
    if management and device.type != "cpu":
        management.free_memory(WORK_FACTOR * tensor_bytes(value), device)
    return to_device(value, device)


def at_rest(value: T) -> T:
    """`value` in main memory, where ComfyUI's cache may keep it without taking room from models."""
    return to_device(value, torch.device("cpu"))


def comfy_mesh(**parts: Any) -> Any:
    """ComfyUI's own MESH of these parts; outside it, an object with the same names."""
    api = _comfy("comfy_api.latest")
    return api.Types.MESH(**parts) if api else SimpleNamespace(**parts)


def residency(vram: str = "auto") -> Residency:
    """ComfyUI's own model management inside it, so that its other models make room for ours and ours for them.
    vram: see `choose_residency`. Raises ValueError for an unknown mode."""
    management = _comfy("comfy.model_management")
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
    """Networks as ModelPatchers: ComfyUI decides what stays on the device."""

    def __init__(self, management: Any) -> None:
        self._management = management
        self._patcher = _comfy("comfy.model_patcher").ModelPatcher
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
        """Let ComfyUI forget our networks."""
        self._patchers.clear()


class ComfyStreamed(Streamed):
    """One network at a time, streamed: ComfyUI's models make room for it, and then it is ours alone."""

    def __init__(self, management: Any, device: torch.device) -> None:
        super().__init__(device, LOW_WEIGHTS)
        self._management = management

    @contextmanager
    def use(self, model: nn.Module, workspace: int = 0) -> Iterator[nn.Module]:
        wanted = weights_at_once(model, self.weights) + workspace + self._management.extra_reserved_memory()
        self._management.free_memory(wanted, self.device)
        with super().use(model, workspace):
            yield model
