"""Image to textured surface in six stages: condition, structure, shape, cascade, texture, decode."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image
from torch import nn

from ..o_voxel.core.progress import Progress, StageProgress, staged
from .checkpoint.config import PipelineConfig, SamplerConfig
from .checkpoint.layouts import Checkpoint
from .models import Backends
from .models.quantized import check_format
from .networks import Networks
from .runtime.residency import Residency, default_device, default_dtype
from .runtime.streaming import choose_residency
from .sampling import stages
from .values import Asset, ImageCondition, ShapeLatent, SparseStructure, TextureLatent

MAX_TOKENS = 49152


@dataclass(frozen=True)
class PipelineType:
    """structure: voxels a side of the sparse structure.  shape: voxels a side of the first shape's surface.
    cascade: of the second shape's surface, None without a cascade."""

    structure: int
    shape: int
    cascade: int | None = None

    @property
    def resolution(self) -> int:
        """Voxels a side of the final surface, at most."""
        return self.cascade or self.shape


PIPELINE_TYPES = {
    "512": PipelineType(structure=32, shape=512),
    "1024": PipelineType(structure=64, shape=1024),
    "1024_cascade": PipelineType(structure=32, shape=512, cascade=1024),
    "1536_cascade": PipelineType(structure=32, shape=512, cascade=1536),
    "2048_cascade": PipelineType(structure=32, shape=512, cascade=2048),
}


class Pipeline:
    """A checkpoint's networks and the six stages over them; see `stages` for what each one computes.

    Every stage takes and returns batches: item i of a batch draws the noise of seed + i, so a batch equals that many
    single runs. sampler: None for the checkpoint's own.  progress(fraction) is called as a stage advances and cancels
    it by raising.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        residency: Residency | None = None,
        *,
        vram: str = "auto",
        dtype: str = "auto",
        backends: Backends | None = None,
    ) -> None:
        """See `load`. Raises ValueError for a quantization that the device cannot compute with."""
        self.checkpoint = checkpoint
        residency = residency or choose_residency(vram, default_device())
        if checkpoint.quantization != "none":
            check_format(checkpoint.quantization, residency.device)
        dtype = default_dtype(residency.device) if dtype == "auto" else dtype
        self.networks = Networks(checkpoint, residency, dtype, backends)

    @classmethod
    def load(
        cls,
        source: str,
        residency: Residency | None = None,
        *,
        vram: str = "auto",
        dtype: str = "auto",
        quantization: str = "none",
        backends: Backends | None = None,
    ) -> Pipeline:
        """A pipeline over a folder or a hub repository; see `Checkpoint.open` for source and quantization.

        vram: how much of the networks may stay on the device where no residency is given, see `choose_residency`.
        dtype: of the networks' torsos; "auto" for the published one unless the device is bad at it.
        """
        checkpoint = Checkpoint.open(source, quantization=quantization)
        return cls(checkpoint, residency, vram=vram, dtype=dtype, backends=backends)

    @property
    def config(self) -> PipelineConfig:
        """The checkpoint's pipeline.json."""
        return self.networks.config

    @property
    def residency(self) -> Residency:
        """Places the networks on the compute device."""
        return self.networks.residency

    def unload(self) -> None:
        """Drop the loaded networks; the next stage loads what it needs again."""
        self.networks.unload()

    def model(self, role: str, tokens: int = 0, image_tokens: int = 0) -> AbstractContextManager[nn.Module]:
        """The network of a role of pipeline.json, or of "image_encoder", on the device. `networks` has typed ones.

        tokens, image_tokens: how many of each it will work on, by which memory is kept free; see `workspace`.
        """
        return self.networks.model(role, tokens, image_tokens)

    def condition(
        self,
        objects: Sequence[Sequence[Image.Image]],
        *,
        resolution: int = 1024,
        view_mode: str = "average",
        progress: Progress | None = None,
    ) -> ImageCondition:
        """Image tokens of prepared images (see `prepare_image`): one sequence of views an object, as many for each.

        resolution: of the surface to come. 512 leaves out the tokens of 1024-pixel images, which every pipeline type
        but "512" needs.
        """
        image_sizes = (512, 1024) if resolution > 512 else (512,)
        return stages.encode_images(
            self.networks, objects, image_sizes=image_sizes, view_mode=view_mode, progress=progress
        )

    def sample_structure(
        self,
        condition: ImageCondition,
        *,
        seed: int,
        resolution: int = 32,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> SparseStructure:
        """The occupied voxels on a grid of 32 or 64 a side. Raises ValueError for an object without any."""
        sampler = sampler or self.config.sparse_structure_sampler
        return stages.sample_structure(
            self.networks, condition, sampler, seed=seed, resolution=resolution, progress=progress
        )

    def sample_shape(
        self,
        condition: ImageCondition,
        structure: SparseStructure,
        *,
        seed: int,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> ShapeLatent:
        """The shape latent on the structure's voxels: of a 512 surface on a grid of 32, of a 1024 one on 64."""
        sampler = sampler or self.config.shape_slat_sampler
        return stages.sample_shape(self.networks, condition, structure, sampler, seed=seed, progress=progress)

    def cascade_shape(
        self,
        condition: ImageCondition,
        shape: ShapeLatent,
        *,
        seed: int,
        resolution: int,
        max_tokens: int = MAX_TOKENS,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> ShapeLatent:
        """The shape latent again, for a finer surface of `resolution` voxels a side, which is lowered object by object
        until the latent has fewer than max_tokens voxels."""
        return stages.cascade_shape(
            self.networks,
            condition,
            shape,
            sampler or self.config.shape_slat_sampler,
            seed=seed,
            resolution=resolution,
            max_tokens=max_tokens,
            progress=progress,
        )

    def sample_texture(
        self,
        condition: ImageCondition,
        shape: ShapeLatent,
        *,
        seed: int,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> TextureLatent:
        """The material latent on the voxels of a shape latent."""
        sampler = sampler or self.config.tex_slat_sampler
        return stages.sample_texture(self.networks, condition, shape, sampler, seed=seed, progress=progress)

    def decode(
        self,
        shape: ShapeLatent,
        texture: TextureLatent | None = None,
        *,
        progress: Progress | None = None,
        memory_budget: int | None = None,
    ) -> list[Asset]:
        """The surface of each object and, given a texture latent, its materials on the same voxels.

        memory_budget: bytes, see `SparseDecoder.forward`.
        """
        return stages.decode(self.networks, shape, texture, progress=progress, memory_budget=memory_budget)

    def run(
        self,
        objects: Sequence[Sequence[Image.Image]],
        *,
        pipeline_type: str | None = None,
        seed: int = 42,
        steps: int | None = None,
        max_tokens: int = MAX_TOKENS,
        view_mode: str = "average",
        step_cache: bool = False,
        progress: StageProgress | None = None,
    ) -> list[Asset]:
        """All six stages. steps: of every sampler, None for the checkpoint's own.  step_cache: see `with_step_cache`.
        progress(stage, fraction)."""
        kind = self.pipeline_type(pipeline_type)
        report = partial(staged, progress)

        def adjusted(sampler: SamplerConfig) -> SamplerConfig:
            params = replace(sampler.params, step_cache=step_cache)
            return replace(sampler, params=params if steps is None else replace(params, steps=steps))

        structure_sampler = adjusted(self.config.sparse_structure_sampler)
        shape_sampler = adjusted(self.config.shape_slat_sampler)
        texture_sampler = adjusted(self.config.tex_slat_sampler)
        condition = self.condition(
            objects, resolution=kind.resolution, view_mode=view_mode, progress=report("condition")
        )
        structure = self.sample_structure(
            condition,
            seed=seed,
            resolution=kind.structure,
            sampler=structure_sampler,
            progress=report("structure"),
        )
        shape = self.sample_shape(condition, structure, seed=seed, sampler=shape_sampler, progress=report("shape"))
        if kind.cascade is not None:
            shape = self.cascade_shape(
                condition,
                shape,
                seed=seed,
                resolution=kind.cascade,
                max_tokens=max_tokens,
                sampler=shape_sampler,
                progress=report("cascade"),
            )
        texture = self.sample_texture(condition, shape, seed=seed, sampler=texture_sampler, progress=report("texture"))
        return self.decode(shape, texture, progress=report("decode"))

    def pipeline_type(self, name: str | None) -> PipelineType:
        """The type of that name, or the checkpoint's default. Raises ValueError for an unknown one."""
        name = name or self.config.default_pipeline_type
        if name not in PIPELINE_TYPES:
            raise ValueError(f"pipeline type: expected one of {list(PIPELINE_TYPES)}, got {name!r}")
        return PIPELINE_TYPES[name]
