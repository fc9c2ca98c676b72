"""Published checkpoints: the files of each network's weights and configuration, in either published layout.

Microsoft: pipeline.json and, for every role, <path>.json + <path>.safetensors; a path may name another repository.
Comfy-Org: files of several networks each, distinguished by key prefix, without configurations (facts: the key names in
ComfyUI 0.33, checked against the published tables); the published configurations come with this package.

A role is a key of `models` in pipeline.json, or IMAGE_ENCODER.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..models import Backends, build_model
from ..models.dino import VIT_L16, DinoConfig, DinoVisionTransformer, to_transformers_keys
from ..models.quantized import quantize_model
from .builtin import NAME, built_in
from .config import ConfigError, PipelineConfig, parse_pipeline
from .hub import Download, FileSource, MissingFileError, hub_download
from .weights import CheckpointError, load_weights, read_tensors

log = logging.getLogger(__name__)

MICROSOFT = "microsoft/TRELLIS.2-4B"
COMFY_ORG = "Comfy-Org/TRELLIS.2"
IMAGE_ENCODER = "image_encoder"

# Ungated copies of the DINOv3 weights, tried in this order where the named repository cannot be read.
UNGATED_ENCODERS = (
    (COMFY_ORG, "clip_vision/dino_v3_vit_l.safetensors"),
    ("timm/vit_large_patch16_dinov3.lvd1689m", "model.safetensors"),
)

# Comfy-Org's layout: role -> (file, prefix of its keys). The texture flow at 512 is not published there.
_BF16_FLOWS = "diffusion_models/trellis_2_bf16.safetensors"
# The same networks in 8 bits, half the size.
_INT8_FLOWS = "diffusion_models/trellis_2_int8_convrot.safetensors"
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
COMFY_ENCODER = "clip_vision/dino_v3_vit_l.safetensors"


class Layout(Protocol):
    """An arrangement of a checkpoint's files."""

    config: PipelineConfig

    def files(self, role: str) -> list[Path]:
        """The files of a role's network, downloaded if need be. Raises MissingFileError."""

    def load(self, role: str, dtype: str | None, backends: Backends | None) -> nn.Module:
        """The network of a role, on the CPU, in eval mode. dtype: of its torso, None as published."""


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint. layout: finds and reads its files.  quantization: "none", "int8" or "fp8", see `open`."""

    layout: Layout
    quantization: str = "none"

    @classmethod
    def open(
        cls,
        source: str,
        folder: Path | None = None,
        download: Download = hub_download,
        *,
        quantization: str = "none",
    ) -> Checkpoint:
        """A checkpoint in a folder, in a hub repository "owner/name", or "mini", the one that comes with the pack.

        folder: where a repository's files are kept, None for the hub's cache.
        quantization: number format of the flow networks' large products, "none", "int8" or "fp8". "int8" prefers
        Comfy-Org's int8 files where they exist, and computes with their weights unchanged; other weights are quantised
        while they are loaded. Without "int8", the weights of int8 files are dequantised.

        Raises MissingFileError or ConfigError. Only pipeline.json is read here; weights are read when first used.
        """
        if source == NAME and not Path(source).is_dir():
            source = str(built_in())
        single_files = source == COMFY_ORG or any(
            (Path(source).expanduser() / name).exists() for name in (_BF16_FLOWS, _INT8_FLOWS, _SHAPE_VAE, _TEXTURE_VAE)
        )
        files = FileSource.open(source, COMFY_ORG if single_files else MICROSOFT, folder, download)
        layout = SingleFiles(files, int8=quantization == "int8") if single_files else Folder(files)
        return cls(layout, quantization)

    @property
    def config(self) -> PipelineConfig:
        """The contents of pipeline.json."""
        return self.layout.config

    def require(self, roles: list[str]) -> None:
        """Download the files of these roles if need be. Raises MissingFileError for the first that cannot be had."""
        for role in roles:
            self.layout.files(role)

    def load_model(
        self,
        role: str,
        *,
        dtype: str | None = None,
        backends: Backends | None = None,
        device: torch.device | str = "cpu",
    ) -> nn.Module:
        """The network of a role, on the CPU, in eval mode. `Networks` has accessors with precise types.

        dtype: of its torso, None as published.  device: on which weights are quantised, if they are.

        Raises MissingFileError; ConfigError; CheckpointError for a missing, unexpected or misshapen key; ValueError for
        a quantization that the device cannot compute with.
        """
        model = self.layout.load(role, dtype, backends)
        return model if self.quantization == "none" else quantize_model(model, self.quantization, torch.device(device))


class Folder:
    """Microsoft's layout: pipeline.json, and two files a network."""

    def __init__(self, files: FileSource) -> None:
        """Reads pipeline.json. Raises MissingFileError or ConfigError."""
        self._files = files
        path = files.get("pipeline.json")
        self.config = parse_pipeline(_read_json(path), str(path))

    def files(self, role: str) -> list[Path]:
        """The description and the weights of a role, downloaded if need be. Raises MissingFileError."""
        if role == IMAGE_ENCODER:
            return [path for path in self._encoder_files() if path is not None]
        if role not in self.config.models:
            raise MissingFileError(
                f"{role}: pipeline.json has no such model, only {list(self.config.models)}; this checkpoint is made "
                f"for the pipeline type {self.config.default_pipeline_type!r}"
            )
        return self.network_files(self.config.models[role])

    def network_files(self, path: str) -> list[Path]:
        """[description, weights] at a path of pipeline.json, downloaded if need be. Raises MissingFileError."""
        source, name = self._files, path
        # A path of three parts or more may name another repository; files of this one take precedence.
        ours = all(source.find(f"{path}.{suffix}") for suffix in ("json", "safetensors"))
        if path.count("/") >= 2 and not ours:
            source, name = source.elsewhere(path)
        return [source.get(f"{name}.json"), source.get(f"{name}.safetensors")]

    def load(self, role: str, dtype: str | None, backends: Backends | None) -> nn.Module:
        """See `Layout.load`. Raises as `Checkpoint.load_model`."""
        if role == IMAGE_ENCODER:
            config, weights = self._encoder_files()
            return load_encoder(weights, read_encoder_config(config) if config else VIT_L16)
        description, weights = self.files(role)
        model = build_model(_read_json(description), str(description), dtype=dtype, backends=backends)
        return load_weights(model, read_tensors(weights), str(weights))

    def _encoder_files(self) -> tuple[Path | None, Path]:
        """(config.json, weights) of the image encoder; None for the config of an ungated copy, which has none."""
        name = self.config.image_cond_model.args.model_name
        if self._files.find(name) is not None:
            return self._files.get(f"{name}/config.json"), self._files.get(f"{name}/model.safetensors")
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


class SingleFiles:
    """Comfy-Org's layout: several networks a file."""

    def __init__(self, files: FileSource, int8: bool = False) -> None:
        """int8: prefer the file of 8-bit flow networks, and keep its weights in 8 bits."""
        self._files, self._int8 = files, int8
        self._published = _read_json(Path(__file__).with_name("published.json"))
        self.config = parse_pipeline(self._published["pipeline"], "published.json")

    def files(self, role: str) -> list[Path]:
        """The file that holds a role's network, downloaded if need be. Raises MissingFileError."""
        if role == IMAGE_ENCODER:
            return [self._files.get(COMFY_ENCODER)]
        if role not in COMFY_ROLES:
            raise MissingFileError(f"{role} is not part of {COMFY_ORG}: use {MICROSOFT}, or another resolution")
        name = COMFY_ROLES[role][0]
        if name != _BF16_FLOWS:
            return [self._files.get(name)]
        first, second = (_INT8_FLOWS, _BF16_FLOWS) if self._int8 else (_BF16_FLOWS, _INT8_FLOWS)
        return [self._files.find(first) or self._files.find(second) or self._files.get(first)]

    def load(self, role: str, dtype: str | None, backends: Backends | None) -> nn.Module:
        """See `Layout.load`. Raises as `Checkpoint.load_model`."""
        (weights,) = self.files(role)
        if role == IMAGE_ENCODER:
            return load_encoder(weights, VIT_L16)
        prefix = COMFY_ROLES[role][1]
        tensors = read_tensors(weights, prefix)
        if not tensors:
            raise MissingFileError(
                f"{weights}: expected the keys {prefix}* of the {role}, got none; download the file of {COMFY_ORG}"
            )
        model = build_model(self._published["models"][role], role, dtype=dtype, backends=backends)
        return load_weights(model, tensors, f"{weights} ({prefix}*)", keep_int8=self._int8)


def load_encoder(weights: Path, config: DinoConfig) -> DinoVisionTransformer:
    """The image encoder, fp32 on the CPU, from a file in the transformers, timm or ComfyUI key layout.

    Raises CheckpointError for another layout, or keys and shapes that do not fit `config`.
    """
    model = DinoVisionTransformer(config, device="meta", dtype=torch.float32)
    try:
        tensors = to_transformers_keys(read_tensors(weights))
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{weights}: {error}") from error
    return load_weights(model, tensors, str(weights))


def read_encoder_config(path: Path) -> DinoConfig:
    """The image encoder's config.json. Raises ConfigError naming the file."""
    try:
        return DinoConfig.from_transformers(_read_json(path))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
