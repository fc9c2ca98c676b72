"""Parses pipeline.json and the models' .json files into frozen dataclasses.

Field names are those of the files. Unknown keys raise: an ignored option could change the network's output.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ..projection.framing import CropConfig
from .fields import FieldError, checked

# See `integrate`.
INTEGRATORS = ("euler", "heun", "rk4")
TRELLIS2, PIXAL3D = "Trellis2ImageTo3DPipeline", ("Pixal3DImageTo3DPipeline", "Pixal3DMVImageTo3DPipeline")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
C = TypeVar("C")
# Marks a field that the caller sets, and no file.
RUNTIME = {"runtime": True}
# Marks a key that is left out of files where it has its default.
OPTIONAL = {"optional": True}


class ConfigError(ValueError):
    """A configuration file with missing or unknown keys, or unsupported values."""


def check_times(times: Sequence[float]) -> None:
    """Raises ConfigError unless `times` decrease from 1 to 0."""
    falling = all(earlier > later for earlier, later in zip(times, times[1:], strict=False))
    if len(times) < 2 or times[0] != 1 or times[-1] != 0 or not falling:
        shown = ", ".join(f"{t:.4g}" for t in times[:8]) + (" …" if len(times) > 8 else "")
        raise ConfigError(f"times: expected at least two, each below the one before, from 1 to 0, got [{shown}]")


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(f"dtype: expected one of {list(DTYPES)}, got {name!r}")
    return DTYPES[name]


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """A flow transformer: SparseStructureFlowModel, SLatFlowModel, ElasticSLatFlowModel.

    image_attn_mode: "cross": each token attends to all image tokens; "proj" (Pixal3D): to a few of the whole image, and
    adds a linear layer of the proj_in_channels (None: cond_channels) features of the pixels that it projects to.
    """

    resolution: int
    in_channels: int
    model_channels: int
    cond_channels: int
    out_channels: int
    num_blocks: int
    num_heads: int | None = None
    num_head_channels: int = 64  # used only without num_heads
    mlp_ratio: float = 4
    pe_mode: str = "ape"
    rope_freq: tuple[float, float] = (1.0, 10000.0)
    dtype: str = "float32"  # of the linear layers inside the blocks; everything else is fp32
    share_mod: bool = False
    qk_rms_norm: bool = False
    qk_rms_norm_cross: bool = False
    initialization: str = "vanilla"  # training only
    use_checkpoint: bool = False  # training only: gradient checkpointing of the blocks
    image_attn_mode: str = dataclasses.field(default="cross", metadata=OPTIONAL)
    proj_in_channels: int | None = dataclasses.field(default=None, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        mode = self.image_attn_mode
        if mode not in ("cross", "proj") or (mode == "cross" and self.proj_in_channels is not None):
            got = f"got {mode!r} and {self.proj_in_channels}"
            raise ConfigError(f"image_attn_mode: expected 'cross', or 'proj' with proj_in_channels or without, {got}")
        if self.pe_mode not in ("ape", "rope"):
            raise ConfigError(f"pe_mode: expected 'ape' or 'rope', got {self.pe_mode!r}")
        if self.heads < 1 or self.model_channels % self.heads:
            raise ConfigError(f"model_channels: expected a multiple of {self.heads} heads, got {self.model_channels}")
        _dtype(self.dtype)

    @property
    def projected_channels(self) -> int:
        """The projected features of a token; 0 where it takes none."""
        return (self.proj_in_channels or self.cond_channels) if self.image_attn_mode == "proj" else 0

    @property
    def heads(self) -> int:
        """The number of attention heads."""
        return self.num_heads or self.model_channels // self.num_head_channels

    @property
    def head_channels(self) -> int:
        """The channels of one attention head."""
        return self.model_channels // self.heads

    @property
    def torso_dtype(self) -> torch.dtype:
        """The dtype of the linear layers inside the blocks."""
        return _dtype(self.dtype)


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """Fields shared by all encoders and decoders. dtype, when given, overrides use_fp16 for the torso."""

    latent_channels: int
    use_fp16: bool = False
    dtype: str | None = None

    @property
    def torso_dtype(self) -> torch.dtype:
        """The dtype of the convolutions and linear layers inside the blocks."""
        return _dtype(self.dtype or ("float16" if self.use_fp16 else "float32"))


@dataclass(frozen=True, kw_only=True)
class StructureVaeConfig(VaeConfig):
    """Fields shared by encoder and decoder of the dense VAE of the sparse structure."""

    channels: tuple[int, ...]  # per level, in execution order
    num_res_blocks: int
    num_res_blocks_middle: int = 2
    norm_type: str = "layer"

    def __post_init__(self) -> None:
        if self.norm_type != "layer":
            raise ConfigError(f"norm_type: expected 'layer', as in the published models, got {self.norm_type!r}")
        if not self.channels:
            raise ConfigError("channels: expected at least one level, got none")


@dataclass(frozen=True, kw_only=True)
class StructureEncoderConfig(StructureVaeConfig):
    """SparseStructureEncoder."""

    in_channels: int


@dataclass(frozen=True, kw_only=True)
class StructureDecoderConfig(StructureVaeConfig):
    """SparseStructureDecoder."""

    out_channels: int


@dataclass(frozen=True, kw_only=True)
class SparseVaeConfig(VaeConfig):
    """Fields shared by encoder and decoder of the sparse VAEs of shape and texture."""

    model_channels: tuple[int, ...]  # per level, in execution order
    num_blocks: tuple[int, ...]  # ConvNeXt blocks per level
    block_type: tuple[str, ...]
    block_args: tuple[Mapping[str, Any], ...] = ()  # training only

    def __post_init__(self) -> None:
        levels = len(self.model_channels)
        if not levels:
            raise ConfigError("model_channels: expected at least one level, got none")
        if len(self.num_blocks) != levels or len(self.block_type) != levels:
            raise ConfigError(
                f"num_blocks, block_type: expected {levels} entries as in model_channels, "
                f"got {len(self.num_blocks)} and {len(self.block_type)}"
            )
        _expect_all(self.block_type, "SparseConvNeXtBlock3d", "block_type")


@dataclass(frozen=True, kw_only=True)
class SparseEncoderConfig(SparseVaeConfig):
    """SparseUnetVaeEncoder."""

    down_block_type: tuple[str, ...]
    in_channels: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _expect_all(self.down_block_type, "SparseResBlockS2C3d", "down_block_type")
        # The skip path averages the eight children's channels to the next level's width.
        _expect_steps(self.model_channels, lambda width, following: 8 * width % following == 0)


@dataclass(frozen=True, kw_only=True)
class SparseDecoderConfig(SparseVaeConfig):
    """SparseUnetVaeDecoder."""

    up_block_type: tuple[str, ...]
    out_channels: int
    pred_subdiv: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _expect_all(self.up_block_type, "SparseResBlockC2S3d", "up_block_type")
        # The skip path splits the channels over eight children and repeats them to the next level's width.
        _expect_steps(self.model_channels, lambda width, following: width % 8 == 0 and following % (width // 8) == 0)


@dataclass(frozen=True, kw_only=True)
class ShapeEncoderConfig(SparseEncoderConfig):
    """FlexiDualGridVaeEncoder."""

    in_channels: int = 6


@dataclass(frozen=True, kw_only=True)
class ShapeDecoderConfig(SparseDecoderConfig):
    """FlexiDualGridVaeDecoder."""

    resolution: int  # training only; decoding takes it as an argument
    out_channels: int = 7
    voxel_margin: float = 0.5


@dataclass(frozen=True, kw_only=True)
class SamplerParams:
    """Settings of a sampling run.

    guidance_strength, guidance_rescale, guidance_interval: see `Guidance`.  rescale_t: see `schedule`.
    step_cache: extrapolate every second velocity instead of computing it, see `with_step_cache`; with Euler alone.
    integrator: of INTEGRATORS, see `integrate`.  times: a schedule of its own, steps + 1 decreasing times from 1 to 0,
    in place of rescale_t's. Neither is a key of pipeline.json, whose samplers are Euler's.
    """

    steps: int
    guidance_strength: float
    guidance_rescale: float
    guidance_interval: tuple[float, float]
    rescale_t: float
    step_cache: bool = False
    integrator: str = dataclasses.field(default="euler", metadata=RUNTIME)
    times: tuple[float, ...] | None = dataclasses.field(default=None, metadata=RUNTIME)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps: expected at least 1, got {self.steps}")
        if self.integrator not in INTEGRATORS:
            raise ConfigError(f"integrator: expected one of {list(INTEGRATORS)}, got {self.integrator!r}")
        if self.step_cache and self.integrator != "euler":
            raise ConfigError(
                f"step_cache: expected the euler integrator, got {self.integrator}, which evaluates between the steps "
                "that the cache extrapolates; switch one of them off"
            )
        if self.times is not None:
            check_times(self.times)
            if len(self.times) != self.steps + 1:
                raise ConfigError(f"times: expected {self.steps + 1} for {self.steps} steps, got {len(self.times)}")


@dataclass(frozen=True, kw_only=True)
class SamplerArgs:
    """sigma_min: standard deviation of the noise at time 0, see `sampling`."""

    sigma_min: float


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """A sampler of pipeline.json. Only its published name is accepted."""

    name: str
    args: SamplerArgs
    params: SamplerParams

    def __post_init__(self) -> None:
        if self.name != "FlowEulerGuidanceIntervalSampler":
            raise ConfigError(f"sampler: expected 'FlowEulerGuidanceIntervalSampler', got {self.name!r}")


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Per-channel statistics of a latent: model space = (latent - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise ConfigError(f"normalization: expected positive stds, one per mean, got {self.std} for {self.mean}")

    @property
    def fingerprint(self) -> str:
        """Short digest of the numbers, which identifies the latent space that they were measured in."""
        return hashlib.sha256(repr((self.mean, self.std)).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class ExternalModelArgs:
    """model_name: path or hub repository.  image_size: pixels a side."""

    model_name: str
    image_size: int = 512


@dataclass(frozen=True, kw_only=True)
class ExternalModel:
    """A model of another project: image encoder or background remover."""

    name: str
    args: ExternalModelArgs


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """The contents of pipeline.json. models: role to path, in the checkpoint's folder or `owner/repository/path`.
    crop: of flows that read one picture where their tokens are in it (the built-in model); None: tokens alone.
    projects: Pixal3D's, by the file's name: pictures are projected onto the voxels from known cameras."""

    models: Mapping[str, str]
    sparse_structure_sampler: SamplerConfig
    shape_slat_sampler: SamplerConfig
    tex_slat_sampler: SamplerConfig
    shape_slat_normalization: Normalization
    tex_slat_normalization: Normalization
    image_cond_model: ExternalModel
    rembg_model: ExternalModel | None = None
    low_vram: bool = True
    default_pipeline_type: str = "1024_cascade"
    crop: CropConfig | None = dataclasses.field(default=None, metadata=OPTIONAL)
    projects: bool = dataclasses.field(default=False, metadata=RUNTIME)


@dataclass(frozen=True, kw_only=True)
class TexturingConfig:
    """The contents of texturing_pipeline.json: what `PipelineConfig` has, without the samplers of structure and shape.

    models: role to path; they include the shape encoder. The rest repeats pipeline.json.
    """

    models: Mapping[str, str]
    tex_slat_sampler: SamplerConfig
    shape_slat_normalization: Normalization
    tex_slat_normalization: Normalization
    image_cond_model: ExternalModel | None = None
    rembg_model: ExternalModel | None = None
    low_vram: bool = True
    default_pipeline_type: str = "1024"


_PARTS = (SamplerArgs, SamplerParams, SamplerConfig, Normalization, ExternalModel, ExternalModelArgs, CropConfig)
NESTED = {kind.__name__: kind for kind in _PARTS}


def parse(kind: type[C], data: object, where: str) -> C:
    """Parses JSON data to a `kind`. Raises ConfigError naming `where` and the first five unknown or missing keys."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected an object, got {type(data).__name__}")
    fields = {f.name: f for f in dataclasses.fields(kind) if not f.metadata.get("runtime")}
    unknown = [key for key in data if key not in fields]
    absent = dataclasses.MISSING
    needed = [n for n, f in fields.items() if f.default is absent and f.default_factory is absent and n not in data]
    if unknown or needed:
        raise ConfigError(f"{where}: unknown keys {unknown[:5]}, missing keys {needed[:5]}")
    try:
        return kind(**{key: _value(str(fields[key].type), value, f"{where}.{key}") for key, value in data.items()})
    except (TypeError, ZeroDivisionError, FieldError, ConfigError) as error:
        named = str(error).startswith(where)
        raise ConfigError(str(error) if named else f"{where}: {error}") from error


def _value(declared: str, value: object, where: str) -> object:
    nested = NESTED.get(declared.removesuffix(" | None"))
    if nested is not None and value is not None:
        return parse(nested, value, where)
    return checked(declared, value, where)


def parse_pipeline(data: object, where: str) -> PipelineConfig:
    """Parses the contents of pipeline.json. Raises ConfigError naming `where`."""
    config = parse(PipelineConfig, _args(data, (TRELLIS2, *PIXAL3D), where), where)
    return dataclasses.replace(config, projects=data["name"] in PIXAL3D)


def parse_texturing(data: object, where: str) -> TexturingConfig:
    """Parses the contents of texturing_pipeline.json. Raises ConfigError naming `where`."""
    return parse(TexturingConfig, _args(data, ("Trellis2TexturingPipeline",), where), where)


def _args(data: object, names: tuple[str, ...], where: str) -> object:
    if not isinstance(data, Mapping) or set(data) != {"name", "args"}:
        raise ConfigError(f"{where}: expected the keys 'name' and 'args'")
    if data["name"] not in names:
        raise ConfigError(f"{where}: expected a {' or '.join(names)}, got {data['name']!r:.200}")
    return data["args"]


def _expect_all(values: tuple[str, ...], expected: str, name: str) -> None:
    if any(value != expected for value in values):
        raise ConfigError(f"{name}: expected {expected} everywhere, got {list(values)}")


def _expect_steps(widths: tuple[int, ...], fits: Callable[[int, int], bool]) -> None:
    for width, following in zip(widths, widths[1:], strict=False):
        if not fits(width, following):
            raise ConfigError(f"model_channels: {width} and {following} do not fit eight children per voxel")
