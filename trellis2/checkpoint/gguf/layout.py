"""Checkpoints whose flow networks are GGUF files: finds the files of one quantisation, and tells their roles.

A file holds one flow, with TRELLIS.2's keys or the aliases that converters give them, or several flows, told apart by
ComfyUI's key prefixes. The other networks come from the layout that the files lie in. (Facts: the files of
Aero-Ex/Trellis2-GGUF and of ComfyUI-GGUF's converter, as their loaders read them, 2026-11.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ...models import Backends, build_model
from ..config import ConfigError, PipelineConfig
from ..hub import MissingFileError
from ..stored import CheckpointError, read_json, without_fp8
from ..weights import CheckpointLayout, Quantization, load_weights
from .file import GgufFile, GgufTensor

SUFFIX = ".gguf"
# Folders of ComfyUI's models folder with files of single networks.
COMFY_FOLDERS = ("diffusion_models", "unet")
# The end of a file's name without its suffix: its quantisation.
TAG = re.compile(r"[-_.]((?:I?Q\d_\w+|TQ\d_\d|BF16|F16|FP16|F32))$", re.IGNORECASE)
# What names of TRELLIS.2's flows have in common; other models lie beside them in ComfyUI's folders.
NAMES = re.compile(r"trellis|pixal3d|ss_flow|slat_flow|img2shape|imgshape2tex|shape2txt", re.IGNORECASE)
# ComfyUI's key prefixes, after those of PARENTS; longer ones first.
PREFIXES: Mapping[str, str] = {
    "structure_model.": "sparse_structure_flow_model",
    "img2shape_512.": "shape_slat_flow_model_512",
    "img2shape.": "shape_slat_flow_model_1024",
    "shape2txt_512.": "tex_slat_flow_model_512",
    "shape2txt.": "tex_slat_flow_model_1024",
}
PARENTS = ("model.diffusion_model.", "model.")
FLOWS = tuple(PREFIXES.values())
# Aliases of keys and of their parts (facts: architecture "flux" of Aero-Ex's files).
STARTS: Mapping[str, str] = {
    "blk.": "blocks.",
    "time_in.": "t_embedder.",
    "guidance_in.": "adaLN_modulation.1.",
    "img_in.": "input_layer.",
    "final_layer.": "out_layer.",
}
PARTS: Mapping[str, str] = {
    ".attn.qkv.": ".self_attn.to_qkv.",
    ".attn.out.": ".self_attn.to_out.",
    ".cross_attn.q.": ".cross_attn.to_q.",
    ".cross_attn.kv.": ".cross_attn.to_kv.",
    ".cross_attn.out.": ".cross_attn.to_out.",
    ".ln1.": ".norm1.",
    ".ln2.": ".norm2.",
    ".ln3.": ".norm3.",
}
# Roles by the channels of the input: of structures, of shapes, of shapes with textures.
KINDS = {8: "sparse_structure_flow_model", 32: "shape_slat_flow_model_{}", 64: "tex_slat_flow_model_{}"}
# Follows from the configuration, and is complex, which GGUF has no type for.
POSITIONS = "rope_phases"
INPUT = "input_layer.weight"
# Of flows that take projected features.
PROJECTED = "blocks.0.cross_attn.proj_linear.weight"
PUBLISHED = "Aero-Ex/Trellis2-GGUF"


@dataclass(frozen=True)
class GgufFlow:
    """A flow network in a file. tensors: by the network's keys."""

    path: Path
    tensors: Mapping[str, GgufTensor]


@dataclass(frozen=True)
class GgufSet:
    """Files of one quantisation. root: the folder of the checkpoint; of files in ComfyUI's folders its models folder.

    label: for people: the folder's name and the quantisation.
    """

    root: Path
    files: tuple[Path, ...]
    label: str

    @property
    def projects(self) -> bool:
        """Whether a flow takes projected features, as Pixal3D's do. Only headers are read."""
        return any(key.endswith(PROJECTED) for path in self.files for key in GgufFile.open(path).tensors)


def tag_of(path: Path) -> str:
    """Returns the quantisation that a file's name ends with, such as "Q4_K_M", or ""."""
    found = TAG.search(path.stem)
    return found[1].upper() if found else ""


def base_of(path: Path) -> str:
    """Returns a file's name without its quantisation."""
    return TAG.sub("", path.stem)


def find_files(folder: Path, pattern: str = f"*{SUFFIX}") -> list[Path]:
    """Returns the GGUF files with flows, by their names, in `folder` and two folders below, sorted."""
    found = [path for depth in ("", "*/", "*/*/") for path in folder.glob(depth + pattern)]
    return sorted(path for path in found if path.suffix.lower() == SUFFIX and NAMES.search(path.name))


def patterns_in(folder: Path) -> list[str]:
    """Returns names with * for the files of each quantisation in `find_files`, sorted; files without one as they are.

    Joined to `folder` they are sources for `choose`.
    """
    files = find_files(folder)
    return sorted({f"*{path.stem[-len(tag_of(path)) :]}{SUFFIX}" if tag_of(path) else path.name for path in files})


def choose(source: str) -> GgufSet | None:
    """Returns the files that `source` names, or None if it names none: a file, of whose quantisation all are taken; a
    name with *, of the files that it matches; or a folder without other flow files.

    Raises MissingFileError if no file matches, ConfigError for a folder with several quantisations.
    """
    path = Path(source).expanduser().absolute()
    if path.suffix.lower() == SUFFIX and not path.is_dir():
        if "*" not in path.name and not path.is_file():
            raise MissingFileError(f"{source}: expected a GGUF file, or a name with * that some have")
        folder = _top(path.parent)
        files = find_files(folder, path.name) if "*" in path.name else _same(find_files(folder), path)
        if not files:
            raise MissingFileError(f"{source}: no GGUF file of a flow of TRELLIS.2 has such a name")
    elif path.is_dir():
        folder, files = path, [] if _has_others(path) else find_files(path)
        tags = sorted({tag_of(file) for file in files})
        if not files:
            return None
        if len(tags) > 1:
            patterns = " or ".join(f"{path}/{pattern}" for pattern in patterns_in(path))
            raise ConfigError(f"{source}: GGUF files of several quantisations; choose {patterns}")
    else:
        return None
    root = folder.parent if folder.name in COMFY_FOLDERS else folder
    tags = sorted({tag_of(file) for file in files})
    return GgufSet(root.resolve(), tuple(files), f"{folder.resolve().name} {' '.join(tags)}".strip())


def _has_others(folder: Path) -> bool:
    """Has a folder flows that are no GGUF files? They are taken before."""
    if any(folder.glob("diffusion_models/trellis_2_*.safetensors")):
        return True
    pipeline = folder / "pipeline.json"
    if not pipeline.is_file():
        return False
    try:
        models = read_json(pipeline)["args"]["models"]
        return any((folder / f"{path}.safetensors").is_file() for role, path in models.items() if role in FLOWS)
    except (ConfigError, TypeError, KeyError, AttributeError):
        return False  # what is wrong with it is told where it is read


def _same(files: Iterable[Path], path: Path) -> list[Path]:
    """The files of the quantisation of `path`, which is one of them, whatever its name."""
    return sorted({path, *(file for file in files if tag_of(file) == tag_of(path))})


def _top(folder: Path) -> Path:
    """The checkpoint's folder: the nearest with a pipeline.json, at most two above; else `folder`."""
    above = (folder, *folder.parents[:2])
    return next((parent for parent in above if (parent / "pipeline.json").is_file()), folder)


def read_flows(files: Sequence[Path], paths: Mapping[str, str]) -> dict[str, GgufFlow]:
    """Reads the files' headers and returns the flows by role. paths: of pipeline.json, whose names tell roles.

    Raises CheckpointError for a damaged file, one in a format that is not read, one that holds no flow of TRELLIS.2,
    and for two files with the same one.
    """
    flows: dict[str, GgufFlow] = {}
    for path in files:
        for role, tensors in _split(GgufFile.open(path), paths).items():
            if role in flows:
                raise CheckpointError(
                    f"{path} and {flows[role].path}: both hold the {role}; move one of them, or choose a narrower name"
                )
            flows[role] = GgufFlow(path, tensors)
    return flows


def _split(file: GgufFile, paths: Mapping[str, str]) -> dict[str, dict[str, GgufTensor]]:
    """The tensors of each role, under the network's keys."""
    tensors = dict(file.tensors)
    for parent in PARENTS:
        if tensors and all(key.startswith(parent) for key in tensors):
            tensors = {key.removeprefix(parent): tensor for key, tensor in tensors.items()}
    split: dict[str, dict[str, GgufTensor]] = {}
    for key, tensor in tensors.items():
        prefix = next((prefix for prefix in PREFIXES if key.startswith(prefix)), "")
        own = plain_key(key.removeprefix(prefix))
        if own != POSITIONS:
            split.setdefault(PREFIXES.get(prefix, ""), {})[own] = tensor
    if "" not in split:
        return split
    if len(split) > 1 or INPUT not in split[""]:
        strangers = [key for key in list(split[""])[:5] if key != INPUT]
        raise CheckpointError(f"{file.path}: expected the keys of TRELLIS.2's flows, got {strangers}")
    return {_role(file.path, split[""], paths): split[""]}


def plain_key(key: str) -> str:
    """Returns TRELLIS.2's key for one of its aliases; others as they are."""
    for alias, name in STARTS.items():
        if key.startswith(alias):
            key = name + key.removeprefix(alias)
    for alias, name in PARTS.items():
        key = key.replace(alias, name)
    return key


def _role(path: Path, tensors: Mapping[str, GgufTensor], paths: Mapping[str, str]) -> str:
    """The role of a file with a single flow: by pipeline.json's names; else by the channels of the input and the
    resolution in the file's name."""
    for role, name in paths.items():
        if role in FLOWS and name.rpartition("/")[2] in (path.stem, base_of(path)):
            return role
    channels = tensors[INPUT].shape[-1]
    kind = KINDS.get(channels)
    if kind is None:
        raise CheckpointError(f"{path}: expected a flow of 8, 32 or 64 channels, got {channels}")
    sizes = set(re.findall(r"(?<!\d)(512|1024)(?!\d)", base_of(path)))
    if "{}" in kind and len(sizes) != 1:
        raise CheckpointError(f"{path}: expected 512 or 1024 in its name, which tells the two flows apart; rename it")
    return kind.format(*sizes)


class GgufLayout:
    """Flows of GGUF files; the other networks of another layout."""

    def __init__(self, chosen: GgufSet, rest: CheckpointLayout) -> None:
        """rest: its flows that lie in the folder are used where no GGUF file holds them.

        Raises the errors of `read_flows`. Only headers are read.
        """
        self._rest, self._chosen = rest, chosen
        self._flows = read_flows(chosen.files, rest.config.models)
        models = {
            role: path
            for role, path in rest.config.models.items()
            if role not in FLOWS or (chosen.root / f"{path}.safetensors").is_file()
        }
        self.config: PipelineConfig = replace(
            rest.config, models=models | {role: flow.path.name for role, flow in self._flows.items()}
        )

    def files(self, role: str) -> list[Path]:
        """See `CheckpointLayout.files`."""
        if role in self._flows:
            return [self._flows[role].path]
        if role in FLOWS and role not in self.config.models:
            raise MissingFileError(
                f"{role}: none of the files {[path.name for path in self._chosen.files]} in {self._chosen.root} holds "
                f"it. {PUBLISHED} has one of the same quantisation; put it beside them"
            )
        return self._rest.files(role)

    def missing(self) -> list[str]:
        """See `CheckpointLayout.missing`: without the files of flows, which the GGUF files stand for."""
        flows = tuple(f"{path}." for role, path in self._rest.config.models.items() if role in FLOWS)
        return [name for name in self._rest.missing() if not name.startswith((*flows, f"{COMFY_FOLDERS[0]}/"))]

    def load(
        self, role: str, dtype: str | None, backends: Backends | None, quantization: Quantization | None = None
    ) -> nn.Module:
        """See `CheckpointLayout.load`. Weights are dequantised, and quantised again if asked for, one at a time."""
        flow = self._flows.get(role)
        if flow is None:
            return self._rest.load(role, dtype, backends, quantization)
        where = f"{flow.path} ({role})"
        model = build_model(self._description(role, flow), where, dtype=dtype, backends=backends)
        return load_weights(model, flow.tensors, where, quantization=quantization)

    def _description(self, role: str, flow: GgufFlow) -> Mapping[str, Any]:
        """A flow's {"name", "args"}: of the .json beside its file, or that pipeline.json names, or as published."""
        beside = [flow.path.with_name(f"{name}.json") for name in (flow.path.stem, base_of(flow.path))]
        named = self._chosen.root / f"{self._rest.config.models.get(role, role)}.json"
        found = next((path for path in (*beside, named) if path.is_file()), None)
        if found is not None:
            return without_fp8(read_json(found))
        description = published_models()[role]
        projected = flow.tensors.get(PROJECTED)
        if projected is None:
            return description
        args = {"image_attn_mode": "proj", "proj_in_channels": projected.shape[1]}
        return description | {"args": description["args"] | args}


def published_models() -> Mapping[str, Any]:
    """Returns the published {"name", "args"} of each role."""
    return read_json(Path(__file__).parents[1] / "published.json")["models"]
