"""Export of a run as a checkpoint in the published layout, which `Pipeline.load` reads strictly."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...checkpoint.config import OPTIONAL, RUNTIME, Normalization, parse_pipeline
from ...checkpoint.layouts import IMAGE_ENCODER
from ...projection.framing import CROP
from ..data.latents import LatentFolder
from ..recipe import Recipe
from ..tasks import TASKS
from .networks import network_files, open_checkpoint, read_network, resolved, write_network

PUBLISHED = Path(__file__).parents[2] / "checkpoint" / "published.json"
WEIGHTS = "ckpts"
# Latent -> (key of its statistics in pipeline.json, role of the encoder that makes it).
STATISTICS = {
    "shape": ("shape_slat_normalization", "shape_slat_encoder"),
    "texture": ("tex_slat_normalization", "tex_slat_encoder"),
}


def pipeline_arguments(recipe: Recipe) -> dict[str, Any]:
    """pipeline.json's "args": the base checkpoint's, or the published ones, deeply updated by the recipe's."""
    if recipe.base is None:
        args = json.loads(PUBLISHED.read_text(encoding="utf-8"))["pipeline"]["args"]
    else:
        args = _as_in_file(open_checkpoint(recipe.base).config)
    return _merged(args, recipe.pipeline)


def normalizations(recipe: Recipe, run: Path) -> dict[str, Normalization]:
    """Statistics of the "shape" and "texture" latents: the run's if it trained the encoder or has no base checkpoint,
    else the base's."""
    stages = [stage for stage in recipe.stages.values() if stage.task.endswith("_flow")]
    found = [LatentFolder.of(run, TASKS[stage.task].learns, stage.resolution).statistics() for stage in stages]
    computed = next((statistics for statistics in reversed(found) if statistics is not None), {})
    args, chosen = pipeline_arguments(recipe), {}
    for latent, (key, encoder) in STATISTICS.items():
        own = recipe.base is None or _trained(run, encoder)
        chosen[latent] = computed[latent] if own and latent in computed else Normalization(**args[key])
    return chosen


def pack(recipe: Recipe, run: Path, folder: Path) -> Path:
    """Write the run's networks, the statistics of its latents and pipeline.json into `folder`, and return it.

    Trained networks are written in the recipe's dtype. Other networks of the base are referenced if it is on the hub
    and copied if it is a folder. Existing contents of `folder` are replaced.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    args = pipeline_arguments(recipe)
    models = {} if recipe.base is None else _base_models(recipe.base, args["models"], partial)
    for role in {**dict.fromkeys(models), **recipe.networks}:
        if role == IMAGE_ENCODER or not _trained(run, role):
            continue
        _write(recipe, run, role, partial / WEIGHTS)
        models[role] = f"{WEIGHTS}/{role}"
    if _trained(run, IMAGE_ENCODER):
        _write(recipe, run, IMAGE_ENCODER, partial)
        args["image_cond_model"]["args"]["model_name"] = IMAGE_ENCODER
    elif recipe.base is not None:
        _copy(Path(recipe.base) / args["image_cond_model"]["args"]["model_name"], partial / IMAGE_ENCODER, args)
    trained = [resolved(role, recipe.network(role)) for role in recipe.networks if _trained(run, role)]
    if any(network.get("args", {}).get("image_attn_mode") == "proj" for network in trained):
        args["crop"] = dataclasses.asdict(CROP)
    statistics = normalizations(recipe, run)
    normal = {key: dataclasses.asdict(statistics[latent]) for latent, (key, _) in STATISTICS.items()}
    pipeline = {"name": "Trellis2ImageTo3DPipeline", "args": {**args, "models": models, **normal}}
    parse_pipeline(pipeline, "pipeline.json")
    (partial / "pipeline.json").write_text(json.dumps(pipeline, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return folder


def _write(recipe: Recipe, run: Path, role: str, folder: Path) -> None:
    """Write a trained network below `folder`."""
    model = read_network(role, *network_files(run / "networks", role))
    write_network(model, resolved(role, recipe.network(role)), network_files(folder, role), recipe.dtype)


def _trained(run: Path, role: str) -> bool:
    """True if the run has trained the network."""
    return network_files(run / "networks", role)[1].exists()


def _base_models(base: str, models: Mapping[str, str], target: Path) -> dict[str, str]:
    """role -> path of the base's networks in the new checkpoint; files of a local base are copied to `target`."""
    if not Path(base).is_dir():
        return {role: path if path.count("/") >= 2 else f"{base}/{path}" for role, path in models.items()}
    paths = {}
    for role, path in models.items():
        files = open_checkpoint(base).network_files(path)
        (target / WEIGHTS).mkdir(exist_ok=True)
        for file, copy in zip(files, network_files(target / WEIGHTS, role), strict=True):
            shutil.copyfile(file, copy)
        paths[role] = f"{WEIGHTS}/{role}"
    return paths


def _copy(encoder: Path, target: Path, args: dict[str, Any]) -> None:
    """Copy the image encoder of a local base, and refer to the copy; one on the hub is left there."""
    if encoder.is_dir():
        shutil.copytree(encoder, target)
        args["image_cond_model"]["args"]["model_name"] = IMAGE_ENCODER


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` deeply updated by `changes`."""
    merged = dict(base)
    for key, value in changes.items():
        inner = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if inner else value
    return merged


def _as_in_file(config: Any) -> Any:
    """A parsed configuration as its file has it: nested dictionaries, without the fields that are no keys of it."""
    if isinstance(config, Mapping):
        return {key: _as_in_file(value) for key, value in config.items()}
    if not dataclasses.is_dataclass(config):
        return config
    values = [(item, getattr(config, item.name)) for item in dataclasses.fields(config)]
    left_out = {f.name for f, v in values if f.metadata == RUNTIME or (f.metadata == OPTIONAL and v == f.default)}
    return {item.name: _as_in_file(value) for item, value in values if item.name not in left_out}
