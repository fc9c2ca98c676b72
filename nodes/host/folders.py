"""Paths of models, input and output. Outside ComfyUI, folders next to the pack."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Literal, get_args

from ...trellis2.checkpoint.builtin import NAME, built_in, find_built_in
from ...trellis2.checkpoint.gguf.layout import COMFY_FOLDERS, SUFFIX, patterns_in
from ...trellis2.checkpoint.hub import hub_download
from ...trellis2.checkpoint.layouts import COMFY_ORG, FP8_PIPELINE, MICROSOFT
from ...trellis2.checkpoint.pixal3d import COMFY_PIXAL3D, MULTIVIEW, PIPELINE_FILES, PUBLISHED, TENCENT, split_source
from ...trellis2.doctor.weights import Source
from . import comfyui

ROOT = Path(__file__).resolve().parents[2]
Place = Literal["input", "output", "temp"]
PLACES: tuple[Place, ...] = get_args(Place)
# Folder of this pack's models under ComfyUI's models folder.
FOLDER = "trellis2"
# Name of the bundled checkpoint in the loader's widget. Saved workflows contain this value.
BUILT_IN = "mini (built in)"
# "C:" at the start of a Windows path, which leaves the folder that it is joined to.
DRIVE = re.compile(r"\s*[A-Za-z]:")


def models_folder() -> Path:
    """Returns ComfyUI's models folder; outside it, `models` in the pack's folder."""
    folders = comfyui.module("folder_paths")
    return Path(folders.models_dir) if folders else ROOT / "models"


def model_choices() -> list[str]:
    """Returns the loader's choices: the built-in checkpoint if this copy of the pack has it, so that a first run needs
    no download; folders with a pipeline.json under models/trellis2, once more for several views if they have Pixal3D's
    second one; then downloadable checkpoints; then GGUF files."""
    base = models_folder() / FOLDER
    kinds = {"pipeline.json": "", FP8_PIPELINE: "", PIPELINE_FILES[True]: MULTIVIEW}
    found = [
        (path, kind) for depth in ("*", "*/*") for name, kind in kinds.items() for path in base.glob(depth + "/" + name)
    ]
    local = {path.parent.relative_to(base).as_posix() + kind for path, kind in found}
    published = [MICROSOFT, COMFY_ORG, *PUBLISHED]
    built_in_choice = [BUILT_IN] if find_built_in() else []
    return [*built_in_choice, *sorted(local.difference(published)), *published, *gguf_choices()]


def gguf_choices() -> list[str]:
    """Returns "folder/*Q4_K_M.gguf", below the models folder, for each quantisation of TRELLIS.2's flows there: in
    ComfyUI's folders, in the folders of models/trellis2, and in models/Trellis2, where another pack puts them."""
    models = models_folder()
    named = [path for path in models.glob("*") if path.name.lower() == FOLDER and (path / "pipeline.json").is_file()]
    folders = [*(models / name for name in COMFY_FOLDERS), *named]
    folders += [path for path in (models / FOLDER).glob("*") if path.is_dir() and models / FOLDER not in named]
    return [f"{path.relative_to(models).as_posix()}/{name}" for path in sorted(folders) for name in patterns_in(path)]


def model_source(choice: str) -> tuple[str, Path]:
    """Returns (source, folder) for `Checkpoint.open`. Downloads go where ComfyUI and its core nodes look for them.
    Raises FileNotFoundError for the built-in checkpoint if absent, ValueError for a name that leads out of the models
    folder."""
    if leads_out(choice) or choice.lstrip().startswith(("/", "\\")) or DRIVE.match(choice):
        raise ValueError(f"model: expected a checkpoint inside ComfyUI's models folder, got {choice!r:.200}")
    if choice == BUILT_IN:
        return str(built_in()), built_in()
    name, multiview = split_source(choice)
    if name in (COMFY_ORG, COMFY_PIXAL3D):
        return choice, models_folder()
    if choice.endswith(SUFFIX):
        return str(models_folder() / choice), models_folder()
    local = models_folder() / FOLDER / name
    return (choice if name in (MICROSOFT, TENCENT) else f"{local}{MULTIVIEW if multiview else ''}"), local


def download(repository: str, name: str, folder: Path | None) -> Path:
    """`hub_download` with the bar of the node that runs, which can be cancelled, and its speed on the node."""
    return hub_download(repository, name, folder, comfyui.progress(), lambda line: comfyui.show_text([line]))


def comfy_folder(place: Place) -> Path:
    """Returns ComfyUI's input, output or temp folder; outside it, the one of that name in the pack's folder."""
    folders = comfyui.module("folder_paths")
    return Path(getattr(folders, f"get_{place}_directory")()) if folders else ROOT / place


def leads_out(name: str) -> bool:
    """Whether a name from a widget is blank, has control characters, or climbs out of the folder it is joined to."""
    plain = name.replace("\\", "/")
    return not plain.strip() or ".." in plain.split("/") or any(ord(letter) < 32 for letter in plain)


def inside_output(name: str, refusal: str) -> Path:
    """Returns a path in the output folder, links resolved. Raises ValueError(refusal) for any other, also through a
    symbolic link, and for the folder itself."""
    base = comfy_folder("output").resolve()
    try:
        target = (base / name.replace("\\", "/")).resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links; a NUL
        raise ValueError(refusal) from None
    if not target.is_relative_to(base) or target == base or DRIVE.match(name):
        raise ValueError(refusal)
    return target


def output_path(prefix: str, extension: str) -> tuple[Path, str]:
    """Returns (file to write, its subfolder of the output folder), numbered by ComfyUI's rules and never outside it.

    Raises ValueError for a prefix that leaves the folder, also through a symbolic link.
    """
    folders, base = comfyui.module("folder_paths"), comfy_folder("output").resolve()
    target = inside_output(prefix, f"filename_prefix: expected a path inside ComfyUI's output folder, got {prefix!r}")
    if folders:
        folder, name, counter, subfolder, _ = folders.get_save_image_path(prefix, str(base))
        return Path(folder) / f"{name}_{counter:05}_.{extension}", subfolder
    taken = len(list(target.parent.glob(f"{target.name}_*_.{extension}"))) if target.parent.is_dir() else 0
    subfolder = target.parent.relative_to(base).as_posix()
    return target.with_name(f"{target.name}_{taken + 1:05}_.{extension}"), "" if subfolder == "." else subfolder


def temp_path(prefix: str, extension: str) -> Path:
    """Returns a new file of the temp folder, which ComfyUI empties at its start; no two have the same name."""
    return comfy_folder("temp") / f"{prefix}_{uuid.uuid4().hex}.{extension}"


def places() -> dict[str, Path]:
    """Returns where weights and outputs are written."""
    return {"models": models_folder(), "outputs": comfy_folder("output"), "temp": comfy_folder("temp")}


def weight_sources() -> list[Source]:
    """Returns the loader's choices as checkpoints to look for."""
    found = []
    for choice in model_choices():
        source, folder = model_source(choice)
        found.append(Source(NAME if choice == BUILT_IN else choice, source, folder))
    return found
