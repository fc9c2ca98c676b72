"""From a run to a checkpoint in the published layout, which `Pipeline.load` reads strictly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import ConfigError, parse_pipeline
from .flows import IMAGE_ENCODER
from .latents import LatentFolder
from .networks import network_files, read_network, resolved, write_network
from .recipe import Recipe

PUBLISHED = Path(__file__).parents[1] / "published.json"
WEIGHTS = "ckpts"


def pipeline_arguments(recipe: Recipe) -> dict[str, Any]:
    """pipeline.json's "args": the published ones with the recipe's on top, key by key."""
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))["pipeline"]["args"]
    return _merged(published, recipe.pipeline)


def pack(recipe: Recipe, run: Path, folder: Path) -> Path:
    """Write the run's networks, the statistics of its latents and pipeline.json into `folder`, and return it.

    Networks that the run trained are written in the recipe's dtype; those that it only read stay where they are and
    are named there. Raises ConfigError when a network is neither.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    arguments, roles = pipeline_arguments(recipe), {}
    for role, description in recipe.networks.items():
        files = network_files(run / "networks", role)
        trained = files[1].exists()
        if trained and role == IMAGE_ENCODER:
            write_network(read_network(role, *files), description, network_files(partial, role), recipe.dtype)
            arguments["image_cond_model"]["args"]["model_name"] = IMAGE_ENCODER
        elif trained:
            target = network_files(partial / WEIGHTS, role)
            write_network(read_network(role, *files), resolved(role, description), target, recipe.dtype)
            roles[role] = f"{WEIGHTS}/{role}"
        elif role != IMAGE_ENCODER and "from" in description:
            roles[role] = _published_path(role, description)
        elif "from" not in description:
            # A recipe may stop before its last networks; a checkpoint then lacks their roles.
            continue
    arguments["models"] = roles
    arguments |= _statistics(recipe, run)
    pipeline = {"name": "Trellis2ImageTo3DPipeline", "args": arguments}
    parse_pipeline(pipeline, "pipeline.json")
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "pipeline.json").write_text(json.dumps(pipeline, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return folder


def _published_path(role: str, description: Mapping[str, Any]) -> str:
    """`owner/repository/path`, as pipeline.json names a network of elsewhere."""
    source = description["from"]
    if Path(source).expanduser().is_dir():
        raise ConfigError(f"networks.{role}: it was read from the folder {source} and not trained; name a repository")
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))["pipeline"]["args"]["models"]
    path = description.get("path") or published[role]
    return path if path.count("/") >= 2 else f"{source}/{path}"


def _statistics(recipe: Recipe, run: Path) -> dict[str, Any]:
    """The normalisations of the latents that the run encoded last; none where it encoded none."""
    encoded = [stage.resolution for stage in recipe.stages.values() if stage.task.endswith("_flow")]
    found = [LatentFolder(run / f"latents_{resolution}").statistics() for resolution in encoded]
    last = next((statistics for statistics in reversed(found) if statistics is not None), None)
    if last is None:
        return {}
    as_json = {key: {"mean": list(stats.mean), "std": list(stats.std)} for key, stats in last.items()}
    return {"shape_slat_normalization": as_json["shape"], "tex_slat_normalization": as_json["texture"]}


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, object by object."""
    merged = dict(base)
    for key, value in changes.items():
        inner = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merged(base[key], value) if inner else value
    return merged
