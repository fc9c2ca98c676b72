"""Generates textured surfaces from images in six stages: condition, structure, shape, cascade, texture, decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

from PIL import Image
from torch import nn

from ..o_voxel.core.progress import Progress, StageProgress, staged
from ..o_voxel.values import OVoxel, VoxelField
from .capabilities import PIPELINE_TYPES, Capabilities, PipelineType, attention_problem, device_problem
from .checkpoint.config import PipelineConfig, SamplerConfig
from .checkpoint.layouts import Checkpoint
from .image.views import ViewBlend
from .models import Backends
from .models.quantized import check_format
from .networks import Networks
from .projection.camera import ViewRig
from .runtime.residency import Residency, default_device, default_dtype
from .runtime.streaming import choose_residency
from .sampling import stages
from .sampling.checks import what_is_left
from .values import Asset, ImageCondition, Latents, Made, ShapeLatent, SparseStructure, TextureLatent

MAX_TOKENS = 49152

# watch(stage, its result)
Watch = Callable[[str, SparseStructure | ShapeLatent], None]


class Pipeline:
    """Runs the six stages (see `stages`) with a checkpoint's networks. config: the contents of pipeline.json.

    Stages take and return batches. Item i draws its noise from seed + i, so a batch equals single runs with those
    seeds. sampler: None: the checkpoint's.  progress(fraction) is called as a stage advances and may raise to cancel.
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
        """See `load`. Raises ValueError for a quantization, dtype or attention that the device does not support."""
        self.checkpoint = checkpoint
        self.config: PipelineConfig = checkpoint.config
        self._watch: Watch | None = None
        self._start: Latents | None = None
        residency = residency or choose_residency(vram, default_device())
        problem = device_problem(residency.device, dtype, checkpoint.quantization)
        if problem is None and backends is not None:
            problem = attention_problem(residency.device, dtype, backends.attention)
        if problem is not None:
            raise ValueError(problem)
        if checkpoint.quantization != "none":
            check_format(checkpoint.quantization, residency.device)
        chosen = default_dtype(residency.device) if dtype == "auto" else dtype
        self.networks = Networks(checkpoint, residency, chosen, backends)

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
        """Opens a folder or a hub repository; see `Checkpoint.open` for source and quantization.

        vram: residency mode if no residency is given, see `choose_residency`.
        dtype: of the networks' torsos; "auto": as published unless the device lacks fast arithmetic for it.
        """
        checkpoint = Checkpoint.open(source, quantization=quantization)
        return cls(checkpoint, residency, vram=vram, dtype=dtype, backends=backends)

    @property
    def capabilities(self) -> Capabilities:
        """What the checkpoint can make."""
        return Capabilities.of(self.config)

    @property
    def residency(self) -> Residency:
        """The residency that places the networks on the compute device."""
        return self.networks.residency

    def guided(
        self, structure: float | None = None, shape: float | None = None, texture: float | None = None
    ) -> Pipeline:
        """Returns a pipeline over the same networks with other guidance strengths; None: the checkpoint's."""

        strengths = (structure, shape, texture)
        return self._sampling(*({} if value is None else {"guidance_strength": value} for value in strengths))

    def integrated(self, integrator: str) -> Pipeline:
        """Returns a pipeline over the same networks whose samplers integrate by `integrator`, see `integrate`."""
        return self._sampling(*[{"integrator": integrator}] * 3)

    def watched(self, watch: Watch) -> Pipeline:
        """Returns a pipeline over the same networks whose `run` calls watch(stage, result) after the stages
        "structure", "shape" and "cascade"; it may raise to cancel."""
        watched = copy(self)
        watched._watch = watch
        return watched

    def starting_from(self, latents: Latents) -> Pipeline:
        """Returns a pipeline over the same networks whose `sample` and `run` keep the structure and the shape of
        `latents` and begin after them; a texture is sampled anew."""
        other = copy(self)
        other._start = latents
        return other

    def unload(self) -> None:
        """Drops the loaded networks; later stages load them again."""
        self.networks.unload()

    def model(self, role: str, tokens: int = 0, image_tokens: int = 0) -> AbstractContextManager[nn.Module]:
        """Returns a context manager with the network of a role of pipeline.json, or of "image_encoder", on the device.
        `networks` has typed accessors.

        tokens, image_tokens: numbers that the network will process, from which `workspace` estimates the memory to keep
        free.
        """
        return self.networks.model(role, tokens, image_tokens)

    def condition(
        self,
        objects: Sequence[Sequence[Image.Image]],
        *,
        resolution: int = 1024,
        view_mode: str | ViewBlend | ViewRig = "average",
        progress: Progress | None = None,
    ) -> ImageCondition:
        """Encodes prepared images (see `prepare_image`) to tokens [B, V, L, C] fp32. objects: B sequences of V views.

        resolution: of the final surface. 512 skips the tokens of 1024-pixel images, which every pipeline type but "512"
        needs.  view_mode: how several views guide the sampling: "average", "cycle", or a blend by their directions.
        A checkpoint that projects (`Capabilities.projects`) takes RGBA cut-outs instead, which it crops, and a
        `ViewRig`, the cameras, as the mode.
        """
        return stages.encode_images(
            self.networks,
            objects,
            image_sizes=(512, 1024) if resolution > 512 else (512,),
            view_mode=view_mode,
            progress=progress,
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
        """Samples the occupied voxels on a grid of 32 or 64 a side. Raises ValueError for an object without any, and
        for a grid on which the checkpoint samples no shape."""
        self.capabilities.check_structure(resolution)
        sampler = sampler or self.config.sparse_structure_sampler
        structure = stages.sample_structure(
            self.networks, condition, sampler, seed=seed, resolution=resolution, progress=progress
        )
        return replace(structure, made=self._made((), "structure", seed, sampler))

    def sample_shape(
        self,
        condition: ImageCondition,
        structure: SparseStructure,
        *,
        seed: int,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> ShapeLatent:
        """Samples the shape latent [T, C] fp32 on the structure's voxels: a 32 grid gives a 512 surface, a 64 grid a
        1024 one. Raises ValueError if the checkpoint lacks its network, or the condition its tokens or objects."""
        self.capabilities.check_shape(structure.resolution * stages.LATENT_STRIDE)
        sampler = sampler or self.config.shape_slat_sampler
        shape = stages.sample_shape(self.networks, condition, structure, sampler, seed=seed, progress=progress)
        return replace(shape, made=self._made(structure.made, "shape", seed, sampler))

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
        """Samples the shape latent [T, C] fp32 again for a finer surface. resolution: voxels a side, lowered for each
        object until its latent has fewer than max_tokens voxels. Raises the errors of `sample_shape`."""
        self.capabilities.check_cascade(resolution)
        sampler = sampler or self.config.shape_slat_sampler
        finer = stages.cascade_shape(
            self.networks,
            condition,
            shape,
            sampler,
            seed=seed,
            resolution=resolution,
            max_tokens=max_tokens,
            progress=progress,
        )
        return replace(finer, made=self._made(shape.made, "cascade", seed, sampler))

    def sample_texture(
        self,
        condition: ImageCondition,
        shape: ShapeLatent,
        *,
        seed: int,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> TextureLatent:
        """Samples the material latent [T, C] fp32 on the voxels of a shape latent. Raises ValueError if the checkpoint
        lacks its network, or the shape is another checkpoint's."""
        self.capabilities.check_texture(max(shape.resolutions))
        sampler = sampler or self.config.tex_slat_sampler
        texture = stages.sample_texture(self.networks, condition, shape, sampler, seed=seed, progress=progress)
        return replace(texture, made=self._made(shape.made, "texture", seed, sampler))

    def decode(
        self,
        shape: ShapeLatent,
        texture: TextureLatent | None = None,
        *,
        progress: Progress | None = None,
        memory_budget: int | None = None,
    ) -> list[Asset]:
        """Decodes the surface of each object and, given a texture latent, its materials on the same voxels.

        memory_budget: bytes, see `SparseDecoder.forward`.
        """
        return stages.decode(self.networks, shape, texture, progress=progress, memory_budget=memory_budget)

    def encode(self, voxels: OVoxel, *, progress: Progress | None = None) -> tuple[ShapeLatent, TextureLatent | None]:
        """Encodes one object to its latents, without an image; see `stages.encode`."""
        return stages.encode(self.networks, voxels, progress=progress)

    def decode_materials(
        self, shape: ShapeLatent, texture: TextureLatent, *, progress: Progress | None = None
    ) -> list[VoxelField]:
        """Decodes the materials on the voxels of an encoded surface alone; see `stages.decode_materials`."""
        return stages.decode_materials(self.networks, shape, texture, progress=progress)

    def refine_shape(
        self,
        condition: ImageCondition,
        shape: ShapeLatent,
        *,
        seed: int,
        strength: float,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> ShapeLatent:
        """Samples the shape latent [T, C] fp32 again from itself with noise; see `stages.refine_shape`."""
        self.capabilities.check_shape(max(shape.resolutions))
        sampler = sampler or self.config.shape_slat_sampler
        refined = stages.refine_shape(
            self.networks, condition, shape, sampler, seed=seed, strength=strength, progress=progress
        )
        return replace(refined, made=self._made(shape.made, "refine", seed, sampler))

    def reconstruct(self, voxels: OVoxel) -> Asset:
        """Encodes and decodes one object with the VAEs alone, which predict the surface's voxels: the upper bound of a
        checkpoint's quality."""
        shape, texture = self.encode(voxels)
        return self.decode(replace(shape, surface=None), texture)[0]

    def run(
        self,
        objects: Sequence[Sequence[Image.Image]],
        *,
        progress: StageProgress | None = None,
        **settings: Any,
    ) -> list[Asset]:
        """Runs all six stages: `sample` with the same arguments, then `decode`."""
        latents = self.sample(objects, progress=progress, **settings)
        assert latents.shape is not None  # `sample` returns all of them
        return self.decode(latents.shape, latents.texture, progress=staged(progress, "decode"))

    def sample(
        self,
        objects: Sequence[Sequence[Image.Image]],
        *,
        pipeline_type: str | None = None,
        seed: int = 42,
        steps: int | None = None,
        max_tokens: int = MAX_TOKENS,
        view_mode: str | ViewBlend | ViewRig = "average",
        step_cache: bool = False,
        progress: StageProgress | None = None,
    ) -> Latents:
        """Runs the five stages before decoding. steps: of every sampler; None: the checkpoint's.  view_mode: see
        `condition`.  step_cache: see `with_step_cache`.  progress(stage, fraction).

        A shape that it starts from keeps its resolution where pipeline_type is None, else is cascaded to that type's.
        Raises ValueError, before a network is loaded, for a pipeline type that the checkpoint lacks networks for, or
        that does not follow from what it starts from."""
        start = self._start
        kind = (
            self.check(pipeline_type)
            if start is None
            else what_is_left(start, self.check(pipeline_type), pipeline_type)
        )
        report = partial(staged, progress)

        def adjusted(sampler: SamplerConfig) -> SamplerConfig:
            params = replace(sampler.params, step_cache=step_cache)
            return replace(sampler, params=params if steps is None else replace(params, steps=steps))

        shape_sampler = adjusted(self.config.shape_slat_sampler)
        condition = self.condition(
            objects,
            resolution=kind.resolution,
            view_mode=view_mode,
            progress=report("condition"),
        )
        structure, shape = (None, None) if start is None else (start.structure, start.shape)
        if structure is None and shape is None:
            structure = self.sample_structure(
                condition,
                seed=seed,
                resolution=kind.structure,
                sampler=adjusted(self.config.sparse_structure_sampler),
                progress=report("structure"),
            )
            self._show("structure", structure)
        if shape is None:
            assert structure is not None  # given, or sampled above
            shape = self.sample_shape(condition, structure, seed=seed, sampler=shape_sampler, progress=report("shape"))
            self._show("shape", shape)
        if kind.cascade is not None and max(shape.resolutions) < kind.cascade:
            shape = self.cascade_shape(
                condition,
                shape,
                seed=seed,
                resolution=kind.cascade,
                max_tokens=max_tokens,
                sampler=shape_sampler,
                progress=report("cascade"),
            )
            self._show("cascade", shape)
        texture_sampler = adjusted(self.config.tex_slat_sampler)
        texture = self.sample_texture(condition, shape, seed=seed, sampler=texture_sampler, progress=report("texture"))
        return Latents(structure, shape, texture)

    def pipeline_type(self, name: str | None) -> PipelineType:
        """Returns the named type, or the checkpoint's default for None. Raises ValueError for an unknown name."""
        return PIPELINE_TYPES[self._type_name(name)]

    def check(self, pipeline_type: str | None) -> PipelineType:
        """Returns `pipeline_type` as above. Also raises ValueError, naming those that work, if the checkpoint lacks
        networks for it."""
        name = self._type_name(pipeline_type)
        self.capabilities.check_type(name)
        return PIPELINE_TYPES[name]

    def _type_name(self, name: str | None) -> str:
        name = name or self.config.default_pipeline_type
        if name not in PIPELINE_TYPES:
            raise ValueError(f"pipeline type: expected one of {list(PIPELINE_TYPES)}, got {name!r}")
        return name

    def _sampling(self, structure: dict[str, Any], shape: dict[str, Any], texture: dict[str, Any]) -> Pipeline:
        """Returns a pipeline over the same networks with these parameters of the samplers replaced."""

        def changed(sampler: SamplerConfig, params: dict[str, Any]) -> SamplerConfig:
            return replace(sampler, params=replace(sampler.params, **params))

        other = copy(self)
        other.config = replace(
            self.config,
            sparse_structure_sampler=changed(self.config.sparse_structure_sampler, structure),
            shape_slat_sampler=changed(self.config.shape_slat_sampler, shape),
            tex_slat_sampler=changed(self.config.tex_slat_sampler, texture),
        )
        return other

    def _made(self, before: tuple[Made, ...], stage: str, seed: int, sampler: SamplerConfig) -> tuple[Made, ...]:
        return (*before, Made(stage, seed, sampler.params, self.checkpoint.name))

    def _show(self, stage: str, result: SparseStructure | ShapeLatent) -> None:
        if self._watch is not None:
            self._watch(stage, result)
