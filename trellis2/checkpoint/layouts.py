"""Opens published checkpoints: finds each network's weights and configuration in either published layout.

Microsoft: pipeline.json and, for every role, <path>.json + <path>.safetensors; a path may name another repository. The
shape encoder, for meshes as input, is named in texturing_pipeline.json, which is read when the encoder is needed.
Comfy-Org: files of several networks each, separated by key prefix, without configurations (facts: the key names in
ComfyUI 0.33, checked against the published tables); the published configurations come with this package.

GGUF files hold flow networks; the others come from either layout, see `gguf.layout`.

A role is a key of `models` in pipeline.json, or IMAGE_ENCODER.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ...o_voxel.core.progress import Progress, in_background
from ..models import Backends, build_model
from ..models.dino import VIT_L16
from ..models.quantized import check_format, quantize_model
from .builtin import NAME, built_in
from .config import ConfigError, PipelineConfig, parse_pipeline, parse_texturing
from .gguf.layout import GgufLayout, GgufSet, choose
from .hub import Download, FileSource, MissingFileError, hub_download
from .image_models import load_encoder, load_upsampler, read_encoder_config
from .pixal3d import (
    COMFY_PIXAL3D,
    OWN_NAF,
    PIPELINE_FILES,
    PIXAL3D_FILES,
    TRELLIS2_FILES,
    FileSet,
    description_of,
    file_set,
    pipeline_of,
    split_source,
)
from .pixal3d import ENCODER as NAF_ENCODER
from .stored import check_format as check_file
from .stored import read_json as _read_json
from .stored import without_fp8
from .weights import CheckpointLayout, Quantization, load_weights, read_stored

log = logging.getLogger(__name__)

MICROSOFT = "microsoft/TRELLIS.2-4B"
COMFY_ORG = TRELLIS2_FILES.official
IMAGE_ENCODER, IMAGE_UPSAMPLER = "image_encoder", "image_upsampler"
SHAPE_ENCODER, TEXTURING = "shape_slat_encoder", "texturing_pipeline.json"
# About what it takes to read a network.
LOAD_SECONDS = 5

# Ungated copies of the DINOv3 weights, tried in this order if the named repository cannot be read.
UNGATED_ENCODERS = (
    (COMFY_ORG, "clip_vision/dino_v3_vit_l.safetensors"),
    ("timm/vit_large_patch16_dinov3.lvd1689m", "model.safetensors"),
)

# In place of pipeline.json (facts: visualbruno/TRELLIS.2-4B-FP8, 2026-11).
FP8_PIPELINE = "pipeline_fp8.json"
# Folders into which some repositories sort the files of Microsoft's (facts: Aero-Ex/Trellis2-GGUF, 2026-11).
SORTED_FOLDERS = ("", "decoders/Stage1/", "decoders/Stage2/", "encoders/")

# Comfy-Org's layout: role -> (file, prefix of its keys). The texture flow at 512 is not published there.
# The same networks in 8 bits, half the size, are _INT8_FLOWS; Pixal3D's files of both are named in `pixal3d`.
_BF16_FLOWS, _INT8_FLOWS = TRELLIS2_FILES.flows
_SHAPE_VAE = "vae/trellis_2_shape_vae_bf16.safetensors"
_TEXTURE_VAE = "vae/trellis_2_texture_vae_bf16.safetensors"
COMFY_ROLES: Mapping[str, tuple[str, str]] = {
    "sparse_structure_flow_model": (_BF16_FLOWS, "model.structure_model."),
    "shape_slat_flow_model_512": (_BF16_FLOWS, "model.img2shape_512."),
    "shape_slat_flow_model_1024": (_BF16_FLOWS, "model.img2shape."),
    "tex_slat_flow_model_1024": (_BF16_FLOWS, "model.shape2txt."),
    "sparse_structure_decoder": (_SHAPE_VAE, "struct_dec."),
    "shape_slat_decoder": (_SHAPE_VAE, "shape_dec."),
    "tex_slat_decoder": (_TEXTURE_VAE, "txt_dec."),
}


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint. layout: finds and reads its files.  quantization: "none", "int8" or "fp8", see `open`.

    new_progress: makes the progress callback of one network's loading; None: none.  name: of the checkpoint, without
    the folders that it lies in; empty: unknown.
    """

    layout: CheckpointLayout
    quantization: str = "none"
    new_progress: Callable[[], Progress] | None = None
    name: str = ""

    @classmethod
    def open(
        cls,
        source: str,
        folder: Path | None = None,
        download: Download = hub_download,
        *,
        quantization: str = "none",
        new_progress: Callable[[], Progress] | None = None,
    ) -> Checkpoint:
        """Opens a folder, a hub repository "owner/name", "mini", the checkpoint bundled with the pack, or GGUF files
        (see `gguf.layout.choose`). A folder or repository of Pixal3D, followed by ":multiview", is the checkpoint for
        several views.

        folder: download folder of a repository; None: the hub's cache.
        quantization: number format of the flow networks' large products, "none", "int8" or "fp8". "int8" prefers
        Comfy-Org's int8 files where they exist, and computes with their weights unchanged; other weights are quantised
        on loading. Without "int8", the weights of int8 files are dequantised.
        new_progress: called when a network is read, for a callback that may raise to cancel.

        Raises MissingFileError or ConfigError. Only pipeline.json is read here; weights are read on first use.
        """
        if source == NAME and not Path(source).is_dir():
            source = str(built_in())
        path = Path(source).expanduser()
        if path.is_file() and path.suffix == ".safetensors":
            check_file(path)
            raise MissingFileError(f"{source}: expected the folder of a checkpoint, got one of its files")
        chosen = choose(source)
        if chosen is not None:
            return cls(_gguf_layout(chosen, folder, download), quantization, new_progress, chosen.label)
        named, (source, multiview) = source, split_source(source)
        kind, path = file_set(source, multiview), Path(source).expanduser()
        if kind is None and any((path / name).exists() for name in (_SHAPE_VAE, _TEXTURE_VAE)):
            kind = TRELLIS2_FILES
        files = FileSource.open(source, MICROSOFT if kind is None else kind.official, folder, download)
        int8 = quantization == "int8"
        layout = Folder(files, PIPELINE_FILES[multiview]) if kind is None else SingleFiles(files, int8, kind)
        return cls(layout, quantization, new_progress, path.resolve().name if path.is_dir() else named)

    @property
    def config(self) -> PipelineConfig:
        """The contents of pipeline.json."""
        return self.layout.config

    def require(self, roles: list[str]) -> None:
        """Downloads the absent files of these roles. Raises MissingFileError for the first unavailable one, which
        names all files of the checkpoint that are missing."""
        for role in roles:
            try:
                self.layout.files(role)
            except MissingFileError as error:
                names = self.layout.missing()
                listed = "".join(f"\n    {name}" for name in names)
                also = f"\nThese files of the checkpoint are missing:{listed}" if len(names) > 1 else ""
                raise MissingFileError(f"{error}{also}") from error

    def load_model(
        self,
        role: str,
        *,
        dtype: str | None = None,
        backends: Backends | None = None,
        device: torch.device | str = "cpu",
    ) -> nn.Module:
        """Loads a role's network on the CPU, in eval mode. `Networks` has accessors with precise types.

        dtype: of its torso; None: as published.  device: on which weights are quantised, if at all.

        Raises MissingFileError; ConfigError; CheckpointError for a missing, unexpected or misshapen key; ValueError for
        a quantization that the device does not support.
        """
        self.require([role])
        progress, device = None if self.new_progress is None else self.new_progress(), torch.device(device)
        chosen = None if self.quantization == "none" else Quantization(check_format(self.quantization, device), device)
        model = in_background(lambda _: self.layout.load(role, dtype, backends, chosen), progress, LOAD_SECONDS)
        return model if chosen is None else quantize_model(model, self.quantization, device)


class Folder:
    """Microsoft's layout: pipeline.json, and two files per network."""

    def __init__(self, files: FileSource, pipeline: str = "pipeline.json") -> None:
        """Reads `pipeline`. Raises MissingFileError or ConfigError."""
        self._files = files
        fp8 = files.find(pipeline) is None and files.find(FP8_PIPELINE) is not None
        path = files.get(FP8_PIPELINE if fp8 else pipeline)
        self.config = parse_pipeline(_read_json(path), str(path))

    def files(self, role: str) -> list[Path]:
        """Returns the description and the weights of a role, downloading absent ones. Raises MissingFileError."""
        if role == IMAGE_ENCODER:
            return [path for path in self._encoder_files() if path is not None]
        if role == IMAGE_UPSAMPLER and self.config.projects:
            return [self._files.find(OWN_NAF) or self._naf_encoder()]
        if role in self.config.models:
            return self.network_files(self.config.models[role])
        problem = f"{role}: pipeline.json has no such model, only {list(self.config.models)}; "
        if role != SHAPE_ENCODER:
            made_for = f"this checkpoint is made for the pipeline type {self.config.default_pipeline_type!r}"
            raise MissingFileError(problem + made_for)
        try:
            return self.network_files(self._encoder_path())
        except MissingFileError as error:
            raise MissingFileError(f"{problem}meshes as input need it. {error}") from error

    def missing(self) -> list[str]:
        """Returns the names of all files that are not there yet."""
        names = []
        for path in self.config.models.values():
            source, name = self._located(path)
            names += [f"{path}.{end}" for end in ("json", "safetensors") if not source.has(f"{name}.{end}")]
        encoder = self.config.image_cond_model.args.model_name
        if self.config.projects:
            if self._files.find(OWN_NAF) is None or self._files.find(encoder) is None:
                source, name = self._files.elsewhere(f"{COMFY_PIXAL3D}/{NAF_ENCODER}")
                names += [] if source.has(name) else [f"{COMFY_PIXAL3D}/{name}"]
        elif self._files.find(encoder) is None:
            published = [self._files.elsewhere(f"{encoder}/{file}") for file in ("config.json", "model.safetensors")]
            copies = [self._files.elsewhere(f"{repository}/{file}") for repository, file in UNGATED_ENCODERS]
            if not any(source.has(name) for source, name in copies):
                names += [f"{encoder}/{name}" for source, name in published if not source.has(name)]
        return sorted(set(names))

    def network_files(self, path: str) -> list[Path]:
        """Returns [description, weights] at a path of pipeline.json, downloading absent ones. Raises
        MissingFileError."""
        source, name = self._located(path)
        return [source.get(f"{name}.json"), source.get(f"{name}.safetensors")]

    def load(
        self, role: str, dtype: str | None, backends: Backends | None, quantization: Quantization | None = None
    ) -> nn.Module:
        """See `CheckpointLayout.load`. Raises the errors of `Checkpoint.load_model`."""
        if role == IMAGE_ENCODER:
            config, weights = self._encoder_files()
            return load_encoder(weights, read_encoder_config(config) if config else VIT_L16)
        if role == IMAGE_UPSAMPLER and self.config.projects:
            return load_upsampler(*self.files(role))
        description, weights = self.files(role)
        tensors = read_stored(weights)
        model = build_model(without_fp8(_read_json(description)), str(description), dtype=dtype, backends=backends)
        return load_weights(model, tensors, str(weights), quantization=quantization)

    def _encoder_path(self) -> str:
        """Returns the shape encoder's path in texturing_pipeline.json. Raises MissingFileError; ConfigError for a file
        of another latent space than pipeline.json's."""
        path = self._files.get(TEXTURING)
        config = parse_texturing(_read_json(path), str(path))
        for name in ("shape_slat_normalization", "tex_slat_normalization"):
            if getattr(config, name) != getattr(self.config, name):
                raise ConfigError(f"{path}: expected the {name} of pipeline.json, got another; download both again")
        if SHAPE_ENCODER not in config.models:
            raise ConfigError(f"{path}: expected a model {SHAPE_ENCODER}, got only {list(config.models)}")
        return config.models[SHAPE_ENCODER]

    def _located(self, path: str) -> tuple[FileSource, str]:
        """Returns the source of a path of pipeline.json, and the path there."""
        # A path of three parts or more may name another repository; files of this checkpoint take precedence.
        name = path.rpartition("/")[2]
        for candidate in (path, *(folder + name for folder in SORTED_FOLDERS)):
            if all(self._files.find(f"{candidate}.{suffix}") for suffix in ("json", "safetensors")):
                return self._files, candidate
        return (self._files, path) if path.count("/") < 2 else self._files.elsewhere(path)

    def _encoder_files(self) -> tuple[Path | None, Path]:
        """Returns (config.json or None, weights) of the image encoder; ungated copies come without a config."""
        name = self.config.image_cond_model.args.model_name
        for local in (name, f"dinov3/{name}"):
            if self._files.find(local) is not None:
                return self._files.get(f"{local}/config.json"), self._files.get(f"{local}/model.safetensors")
        if self.config.projects:  # the file with the upsampler's weights holds the encoder's as well
            return None, self._naf_encoder()
        source, _ = self._files.elsewhere(f"{name}/model.safetensors")
        try:
            return source.get("config.json"), source.get("model.safetensors")
        except MissingFileError as error:
            problems = [str(error)]
        for repository, file in UNGATED_ENCODERS:
            try:
                weights = self._files.elsewhere(f"{repository}/{file}")[0].get(file)
                log.info("image encoder: %s is not readable, using the same weights from %s", name, repository)
                return None, weights
            except MissingFileError as error:
                problems.append(str(error))
        raise MissingFileError("\n".join(["image encoder: none of its sources can be read.", *problems]))

    def _naf_encoder(self) -> Path:
        """Returns Comfy-Org's file of image encoder and upsampler, from a folder above this one or its repository."""
        near = [] if self._files.folder is None else [parent / NAF_ENCODER for parent in self._files.folder.parents[:3]]
        found = next((path for path in near if path.exists()), None)
        return found or self._files.elsewhere(f"{COMFY_PIXAL3D}/{NAF_ENCODER}")[0].get(NAF_ENCODER)


class SingleFiles:
    """Comfy-Org's layout: several networks per file."""

    def __init__(self, files: FileSource, int8: bool = False, kind: FileSet = TRELLIS2_FILES) -> None:
        """int8: prefer the int8 file of the flow networks, and keep its weights in int8.  kind: the files' names."""
        self._files, self._int8, self._kind = files, int8, kind.as_found(files.find)
        self._published = _read_json(Path(__file__).with_name("published.json"))
        pipeline = self._published["pipeline"]
        config = parse_pipeline(pipeline_of(pipeline) if self._kind.projects else pipeline, "published.json")
        self.config = replace(
            config, models={role: path for role, path in config.models.items() if role in COMFY_ROLES}
        )

    def files(self, role: str) -> list[Path]:
        """Returns the file with a role's network, downloading it if absent. Raises MissingFileError."""
        if role == IMAGE_ENCODER or (role == IMAGE_UPSAMPLER and self._kind.projects):
            return [self._files.get(self._kind.encoder)]
        if role not in COMFY_ROLES:
            or_else = "" if role == SHAPE_ENCODER else ", or another resolution"
            raise MissingFileError(f"{role} is not part of {self._kind.official}: use {MICROSOFT}{or_else}")
        name = COMFY_ROLES[role][0]
        if name != _BF16_FLOWS:
            return [self._files.get(name)]
        first, second = self._kind.ordered(self._int8)
        return [self._files.find(first) or self._files.find(second) or self._files.get(first)]

    def missing(self) -> list[str]:
        """Returns the names of all files that are not there yet; the other number format of the flows will do."""
        flows = self._kind.ordered(self._int8)
        names = [_SHAPE_VAE, _TEXTURE_VAE, self._kind.encoder]
        if not any(self._files.has(name) for name in flows):
            names.append(flows[0])
        return sorted(name for name in names if not self._files.has(name))

    def load(
        self, role: str, dtype: str | None, backends: Backends | None, quantization: Quantization | None = None
    ) -> nn.Module:
        """See `CheckpointLayout.load`. Raises the errors of `Checkpoint.load_model`."""
        (weights,) = self.files(role)
        if role == IMAGE_ENCODER:
            return load_encoder(weights, VIT_L16)
        if role == IMAGE_UPSAMPLER:
            return load_upsampler(weights)
        prefix = COMFY_ROLES[role][1]
        tensors = read_stored(weights, prefix)
        if not tensors:
            raise MissingFileError(
                f"{weights}: expected the keys {prefix}* of the {role}, got none; download the file of "
                f"{self._kind.official}"
            )
        description = self._published["models"][role]
        description = description_of(description) if self._kind.projects else description
        model, where = build_model(description, role, dtype=dtype, backends=backends), f"{weights} ({prefix}*)"
        return load_weights(model, tensors, where, keep_int8=self._int8, quantization=quantization)


def _gguf_layout(chosen: GgufSet, folder: Path | None, download: Download) -> GgufLayout:
    """The layout of GGUF files: beside them pipeline.json and what it names, else ComfyUI's files of the rest.

    folder: of ComfyUI's files, which are downloaded if absent; None: `chosen.root`, without downloads.
    """
    kind = PIXAL3D_FILES if chosen.projects else TRELLIS2_FILES
    if (chosen.root / "pipeline.json").is_file():
        return GgufLayout(chosen, Folder(FileSource.open(str(chosen.root), MICROSOFT, None, download)))
    source = str(chosen.root) if folder is None else kind.official
    return GgufLayout(chosen, SingleFiles(FileSource.open(source, kind.official, folder, download), kind=kind))
