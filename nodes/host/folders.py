"""Paths of models, input and output. Outside ComfyUI, folders next to the pack."""

from __future__ import annotations

from pathlib import Path

from ...trellis2.checkpoint.builtin import built_in, find_built_in
from ...trellis2.checkpoint.hub import hub_download
from ...trellis2.checkpoint.layouts import COMFY_ORG, MICROSOFT
from . import comfyui

ROOT = Path(__file__).resolve().parents[2]
# Folder of this pack's models under ComfyUI's models folder.
FOLDER = "trellis2"
# Name of the bundled checkpoint in the loader's widget. Saved workflows contain this value.
BUILT_IN = "mini (built in)"


def models_folder() -> Path:
    """Returns ComfyUI's models folder; outside it, `models` in the pack's folder."""
    folders = comfyui.module("folder_paths")
    return Path(folders.models_dir) if folders else ROOT / "models"


def model_choices() -> list[str]:
    """Returns the loader's choices: the built-in checkpoint if this copy of the pack has it, so that a first run needs
    no download; folders with a pipeline.json under models/trellis2; then downloadable checkpoints."""
    base = models_folder() / FOLDER
    found = [path.parent for depth in ("*", "*/*") for path in base.glob(f"{depth}/pipeline.json")]
    local = {folder.relative_to(base).as_posix() for folder in found}
    built_in_choice = [BUILT_IN] if find_built_in() else []
    return [*built_in_choice, *sorted(local - {MICROSOFT}), MICROSOFT, COMFY_ORG]


def model_source(choice: str) -> tuple[str, Path]:
    """Returns (source, folder) for `Checkpoint.open`. Downloads go where ComfyUI and its core nodes look for them.
    Raises FileNotFoundError for the built-in checkpoint if absent."""
    if choice == BUILT_IN:
        return str(built_in()), built_in()
    if choice == COMFY_ORG:
        return choice, models_folder()
    local = models_folder() / FOLDER / choice
    return (choice if choice == MICROSOFT else str(local)), local


def download(repository: str, name: str, folder: Path | None) -> Path:
    """`hub_download` with the bar of the node that runs, which can be cancelled."""
    return hub_download(repository, name, folder, comfyui.progress())


def input_path(name: str) -> Path:
    """Returns the path of a file in ComfyUI's input folder, or of an absolute path. Raises FileNotFoundError."""
    folders = comfyui.module("folder_paths")
    base = Path(folders.get_input_directory()) if folders else ROOT / "input"
    path = base / name  # an absolute name replaces the folder
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no such file in {base}; put it there, or give an absolute path")
    return path


def output_folder() -> Path:
    """Returns ComfyUI's output folder; outside it, `output` in the pack's folder."""
    folders = comfyui.module("folder_paths")
    return Path(folders.get_output_directory()) if folders else ROOT / "output"


def output_path(prefix: str, extension: str) -> tuple[Path, str]:
    """Returns (file to write, its subfolder of the output folder), numbered by ComfyUI's rules and never outside it."""
    folders, base = comfyui.module("folder_paths"), output_folder().resolve()
    if folders:
        folder, name, counter, subfolder, _ = folders.get_save_image_path(prefix, str(base))
        return Path(folder) / f"{name}_{counter:05}_.{extension}", subfolder
    target = (base / prefix).resolve()
    if not target.is_relative_to(base):
        raise ValueError(f"filename_prefix: expected a path inside {base}, got {prefix!r}")
    taken = len(list(target.parent.glob(f"{target.name}_*_.{extension}"))) if target.parent.is_dir() else 0
    subfolder = target.parent.relative_to(base).as_posix()
    return target.with_name(f"{target.name}_{taken + 1:05}_.{extension}"), "" if subfolder == "." else subfolder
