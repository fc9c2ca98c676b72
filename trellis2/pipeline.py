"""Image to textured surface in six calls: condition, structure, shape, cascade, texture, decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import nn

from ..o_voxel.values import DualGrid, Mesh, VoxelField
from ..o_voxel.voxels.to_mesh import dual_grid_to_mesh
from .checkpoint.config import SamplerConfig
from .checkpoint.layouts import Checkpoint
from .image import to_pixels
from .models import Backends
from .models.quantized import check_format
from .models.structure_vae import occupied_voxels
from .runtime.cuda_graphs import forget
from .runtime.memory import device_memory, workspace
from .runtime.residency import Residency, default_device, default_dtype
from .runtime.streaming import choose_residency
from .sampling.flow_matching import Progress, draw_noise
from .sampling.stages import (
    cascade_voxels,
    denormalize,
    noise_on,
    normalize,
    sample_sparse_latent,
    sample_structure_latent,
)
from .values import EmptyOutputError, ImageCondition, ShapeLatent, SparseStructure, TextureLatent, extend

MAX_TOKENS = 49152
SEED_RANGE = 2**64
# What a voxel takes while the surface is made of all at once, and how many voxels thick the slabs are otherwise.
MESH_VOXEL_BYTES, MESH_SLAB = 256, 128


@dataclass(frozen=True)
class PipelineType:
    """structure: grid of the sparse structure.  shape: resolution of the first shape latent.  cascade: of the second,
    None without one."""

    structure: int
    shape: int
    cascade: int | None = None

    @property
    def resolution(self) -> int:
        return self.cascade or self.shape


PIPELINE_TYPES = {
    "512": PipelineType(structure=32, shape=512),
    "1024": PipelineType(structure=64, shape=1024),
    "1024_cascade": PipelineType(structure=32, shape=512, cascade=1024),
    "1536_cascade": PipelineType(structure=32, shape=512, cascade=1536),
    "2048_cascade": PipelineType(structure=32, shape=512, cascade=2048),
}


@dataclass(frozen=True, eq=False)
class Asset:
    """One decoded object: the raw surface, and its materials where a texture was sampled."""

    mesh: Mesh
    field: VoxelField | None


class Pipeline:
    """The published networks, loaded when first used, and the stages over them.

    Every stage takes and returns batches: item i of a batch draws the noise of seed + i, so a batch equals that many
    single runs. progress(fraction) is called as a stage advances and cancels it by raising.
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
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.residency = residency or choose_residency(vram, default_device())
        if checkpoint.quantization != "none":
            check_format(checkpoint.quantization, self.residency.device)
        self._backends = backends
        self._dtype = default_dtype(self.residency.device) if dtype == "auto" else dtype
        self._models: dict[str, nn.Module] = {}

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
        """From a folder or a hub repository; see `Checkpoint.open`, also for quantization. vram: where no residency is
        given, how much of the networks may stay on the device, see `choose_residency`.  dtype: of the torsos; "auto"
        as published where the device is good at it."""
        checkpoint = Checkpoint.open(source, quantization=quantization)
        return cls(checkpoint, residency, vram=vram, dtype=dtype, backends=backends)

    def unload(self) -> None:
        """Forget the loaded networks; the next stage loads what it needs again."""
        for model in self._models.values():
            forget(model)
        self._models.clear()
        self.residency.release()

    @contextmanager
    def model(self, role: str, tokens: int = 0, image_tokens: int = 0) -> Iterator[nn.Module]:
        """The network of a role, on the device. "image_encoder", or a role of pipeline.json.

        tokens, image_tokens: what it will work on, by which memory is kept free for it; see `workspace`.
        """
        if role not in self._models:
            self._models[role] = self.checkpoint.load_model(
                role, dtype=self._dtype, backends=self._backends, device=self.residency.device
            )
        needed = workspace(self._models[role], tokens, image_tokens)
        with self.residency.use(self._models[role], needed) as model:
            yield model

    @torch.no_grad()
    def condition(
        self,
        objects: Sequence[Sequence[Image.Image]],
        *,
        resolution: int = 1024,
        view_mode: str = "average",
        progress: Progress | None = None,
    ) -> ImageCondition:
        """Tokens of prepared images (see `prepare_image`): one sequence of views an object, as many for each.

        resolution: 512 leaves out the 1024-pixel tokens, which every pipeline type but "512" needs.
        """
        counts = {len(views) for views in objects}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(f"objects: expected the same number of views for each, got {sorted(counts)}")
        images = [image for views in objects for image in views]
        sizes = (512, 1024) if resolution > 512 else (512,)
        tokens: dict[int, list[torch.Tensor]] = {size: [] for size in sizes}
        with self.model("image_encoder") as encoder:
            for i, image in enumerate(images):
                for size in sizes:
                    tokens[size].append(encoder(to_pixels(image, size).to(self.residency.device)[None])[0])
                if progress is not None:
                    progress((i + 1) / len(images))
        by_view = (len(objects), -1)
        stacked = {size: torch.stack(rows).unflatten(0, by_view) for size, rows in tokens.items()}
        return ImageCondition(stacked[512], stacked.get(1024), view_mode)

    @torch.no_grad()
    def sample_structure(
        self,
        condition: ImageCondition,
        *,
        seed: int,
        resolution: int = 32,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> SparseStructure:
        """Where the object is: occupied voxels on a grid of 32 or 64 a side. Raises ValueError when there are none."""
        sampler = sampler or self.config.sparse_structure_sampler
        items = condition.batch_size
        with self.model("sparse_structure_flow_model", items * 16**3, condition.tokens(512)) as flow:
            shape = (flow.config.in_channels, *(flow.config.resolution,) * 3)
            drawn = ((),) * items
            noise = torch.stack(draw_noise(self._seeds(seed, items), [shape] * items, drawn))
            latent = sample_structure_latent(flow, noise.to(self.residency.device), condition, sampler, progress)
        with self.model("sparse_structure_decoder") as decoder:
            voxels = occupied_voxels(decoder(latent), resolution)
        empty = [i for i, item in enumerate(voxels) if len(item) == 0]
        if empty:
            raise EmptyOutputError(f"empty structure for object {empty[0]}: try another seed, or check image and mask")
        return SparseStructure(tuple(voxels), resolution, extend(drawn, [shape] * items))

    @torch.no_grad()
    def sample_shape(
        self,
        condition: ImageCondition,
        structure: SparseStructure,
        *,
        seed: int,
        sampler: SamplerConfig | None = None,
        progress: Progress | None = None,
    ) -> ShapeLatent:
        """The shape latent on the structure's voxels; a 32 grid gives a 512 surface, a 64 grid a 1024 one."""
        resolutions = (structure.resolution * 16,) * len(structure.items)
        return self._shape(condition, structure.items, resolutions, structure.drawn, seed, sampler, progress)

    @torch.no_grad()
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
        """The shape again, finer: on the voxels that the coarse shape's decoder predicts. The resolution is reduced,
        object by object, until it needs fewer than max_tokens tokens."""
        with self.model("shape_slat_decoder", len(shape.slat.coords)) as decoder:
            fine = decoder.upsample(shape.slat.to(self.residency.device), levels=4, progress=_scaled(progress, 0, 0.2))
        targets = [
            cascade_voxels(voxels, source, resolution, max_tokens)
            for voxels, source in zip(fine.voxels.split(fine.lengths), shape.resolutions, strict=True)
        ]
        voxels, resolutions = zip(*targets, strict=True)
        return self._shape(condition, voxels, resolutions, shape.drawn, seed, sampler, _scaled(progress, 0.2, 0.8))

    @torch.no_grad()
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
        _check_batch(condition, shape.batch_size)
        stats = self.config.tex_slat_normalization
        items = [voxels for voxels, _ in shape.slat.items()]
        tokens = 512 if max(shape.resolutions) == 512 else 1024
        with self.model(f"tex_slat_flow_model_{tokens}", len(shape.slat.coords), condition.tokens(tokens)) as flow:
            known = normalize(shape.slat.to(self.residency.device), self.config.shape_slat_normalization)
            channels = flow.config.in_channels - known.feats.shape[1]
            shapes = [(len(voxels), channels) for voxels in items]
            noises = draw_noise(self._seeds(seed, len(items)), shapes, shape.drawn)
            noise = known.replace(torch.cat(noises).to(self.residency.device))
            sampler = sampler or self.config.tex_slat_sampler
            latent = sample_sparse_latent(
                flow, noise, condition, sampler, resolution=tokens, concat=known, progress=progress
            )
        return TextureLatent(denormalize(latent, stats), shape.resolutions, extend(shape.drawn, shapes))

    @torch.no_grad()
    def decode(
        self,
        shape: ShapeLatent,
        texture: TextureLatent | None = None,
        *,
        progress: Progress | None = None,
        memory_budget: int | None = None,
    ) -> list[Asset]:
        """The surface of every object and, with a texture latent, its materials on the same voxels.

        memory_budget: see `SparseDecoder.forward`.
        """
        device, share = self.residency.device, 1.0 if texture is None else 0.5
        tokens = len(shape.slat.coords)
        with self.model("shape_slat_decoder", tokens) as decoder:
            decoded = decoder(shape.slat.to(device), None, _scaled(progress, 0, share), memory_budget)
            grids = decoder.dual_grids(decoded.output, shape.resolutions)
        guide = decoded.subdivisions
        # The output is as large as what comes of it, and is not needed beside it.
        del decoded
        meshes = []
        while grids:
            meshes.append(_surface(grids.pop(0)))
        if texture is None:
            return [Asset(mesh, None) for mesh in meshes]
        with self.model("tex_slat_decoder", tokens) as decoder:
            colored = decoder(texture.slat.to(device), guide, _scaled(progress, share, 1 - share), memory_budget)
            fields = decoder.fields(colored.output, shape.resolutions)
        return [Asset(mesh, field) for mesh, field in zip(meshes, fields, strict=True)]

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
        progress: Callable[[str, float], None] | None = None,
    ) -> list[Asset]:
        """All six stages. steps: for every sampler, None for the checkpoint's own.  step_cache: see `forecast`.
        progress(stage, fraction)."""
        kind = self.pipeline_type(pipeline_type)

        def told(stage: str) -> Progress | None:
            return None if progress is None else lambda fraction: progress(stage, fraction)

        def stepped(sampler: SamplerConfig) -> SamplerConfig:
            params = replace(sampler.params, step_cache=step_cache)
            return replace(sampler, params=params if steps is None else replace(params, steps=steps))

        structure_sampler = stepped(self.config.sparse_structure_sampler)
        shape_sampler = stepped(self.config.shape_slat_sampler)
        condition = self.condition(objects, resolution=kind.resolution, view_mode=view_mode, progress=told("condition"))
        structure = self.sample_structure(
            condition, seed=seed, resolution=kind.structure, sampler=structure_sampler, progress=told("structure")
        )
        shape = self.sample_shape(condition, structure, seed=seed, sampler=shape_sampler, progress=told("shape"))
        if kind.cascade is not None:
            shape = self.cascade_shape(
                condition,
                shape,
                seed=seed,
                resolution=kind.cascade,
                max_tokens=max_tokens,
                sampler=shape_sampler,
                progress=told("cascade"),
            )
        texture = self.sample_texture(
            condition, shape, seed=seed, sampler=stepped(self.config.tex_slat_sampler), progress=told("texture")
        )
        return self.decode(shape, texture, progress=told("decode"))

    def pipeline_type(self, name: str | None) -> PipelineType:
        """The type of that name, or the checkpoint's default. Raises ValueError for an unknown one."""
        name = name or self.config.default_pipeline_type
        if name not in PIPELINE_TYPES:
            raise ValueError(f"pipeline type: expected one of {list(PIPELINE_TYPES)}, got {name!r}")
        return PIPELINE_TYPES[name]

    def _shape(
        self,
        condition: ImageCondition,
        voxels: Sequence[torch.Tensor],
        resolutions: Sequence[int],
        drawn: Sequence[tuple[tuple[int, ...], ...]],
        seed: int,
        sampler: SamplerConfig | None,
        progress: Progress | None,
    ) -> ShapeLatent:
        _check_batch(condition, len(voxels))
        tokens = 512 if max(resolutions) == 512 else 1024
        sampler = sampler or self.config.shape_slat_sampler
        with self.model(f"shape_slat_flow_model_{tokens}", sum(map(len, voxels)), condition.tokens(tokens)) as flow:
            shapes = [(len(item), flow.config.in_channels) for item in voxels]
            noises = draw_noise(self._seeds(seed, len(voxels)), shapes, drawn)
            noise = noise_on(voxels, noises, self.residency.device)
            latent = sample_sparse_latent(flow, noise, condition, sampler, resolution=tokens, progress=progress)
        slat = denormalize(latent, self.config.shape_slat_normalization)
        return ShapeLatent(slat, tuple(resolutions), extend(drawn, shapes))

    @staticmethod
    def _seeds(seed: int, items: int) -> list[int]:
        return [(seed + i) % SEED_RANGE for i in range(items)]


def _surface(grid: DualGrid) -> Mesh:
    """The mesh of a dual grid, slab by slab where memory asks for it, which gives the same."""
    whole = len(grid.coords) * MESH_VOXEL_BYTES
    return dual_grid_to_mesh(grid, None if whole < device_memory(grid.coords.device).free else MESH_SLAB)


def _check_batch(condition: ImageCondition, objects: int) -> None:
    if condition.batch_size != objects:
        raise ValueError(
            f"condition: expected {objects} objects, as many as there are shapes, got {condition.batch_size}"
        )


def _scaled(progress: Progress | None, start: float, share: float) -> Progress | None:
    """The progress of a part of the work that begins at `start` and is `share` of the whole."""
    return None if progress is None else lambda fraction: progress(start + share * fraction)
