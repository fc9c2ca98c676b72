"""The six stages, each a function from values to values: its networks, its noise and its normalisation.

Every stage takes and returns batches; item i draws the noise of seed + i, so a batch equals that many single runs.
progress(fraction) is called as a stage advances, from above 0 up to 1, and may raise to cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from ...o_voxel.core.progress import Progress, scaled
from ...o_voxel.values import DualGrid, Mesh, OVoxel, VoxelField, to_device
from ...o_voxel.voxels.to_mesh import dual_grid_to_mesh
from ..capabilities import LATENT_STRIDE, Capabilities, image_size_of
from ..checkpoint.config import Normalization, SamplerConfig
from ..image import to_pixels
from ..image.views import ViewBlend
from ..models.shape_vae import dual_grid_features
from ..models.structure_vae import occupied_voxels
from ..models.texture_vae import field_features
from ..networks import SHAPE_ENCODER, TEXTURE_ENCODER, Networks
from ..projection.camera import ViewRig
from ..projection.frame import field_to_z_up, mesh_to_z_up
from ..runtime.memory import device_memory, with_less
from ..sparse import CoordSet, SparseTensor, Subdivision
from ..values import Asset, EmptyOutputError, ImageCondition, ShapeLatent, SparseStructure, TextureLatent
from .checks import check_channels, check_condition, check_frame, check_same_voxels, check_space
from .cropped import crop_views
from .flow_matching import noised
from .flow_sampling import sample_sparse_latent, sample_structure_latent
from .noise import NoiseHistory, next_noise
from .projected import encode_projected, latent_guide, structure_guide

# The structure flow's tokens for each object: its latent grid is 16 a side.
STRUCTURE_TOKENS = 16**3
# The cascade lowers its resolution by this much at a time, and never below the floor.
CASCADE_STEP, CASCADE_FLOOR = 128, 1024
# Memory that meshing takes for each voxel of a whole dual grid; thickness in voxels of the slabs where there is less.
MESH_VOXEL_BYTES, MESH_SLAB = 256, 128


@torch.no_grad()
def encode_images(
    networks: Networks,
    objects: Sequence[Sequence[Image.Image]],
    *,
    image_sizes: Sequence[int],
    view_mode: str | ViewBlend | ViewRig,
    progress: Progress | None = None,
) -> ImageCondition:
    """Image tokens of prepared RGB images: one sequence of views for each object, all equally long.

    image_sizes: pixels a side that each image is encoded at, (512,) or (512, 1024).  view_mode: see `ImageCondition`.
    Raises ValueError for unequal or no views, and for an image that is not RGB. A checkpoint that projects takes RGBA
    too, see `encode_projected`.
    """
    counts = {len(views) for views in objects}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"objects: expected the same number of views for each, got {sorted(counts)}")
    if Capabilities.of(networks.config).projects:
        return encode_projected(networks, objects, image_sizes=image_sizes, view_mode=view_mode, progress=progress)
    images, report = [image for views in objects for image in views], scaled(progress, 0, 1)
    tokens: dict[int, list[Tensor]] = {size: [] for size in image_sizes}
    with networks.image_encoder() as encoder:
        for i, image in enumerate(images):
            for size in image_sizes:
                tokens[size].append(encoder(to_pixels(image, size).to(networks.device)[None])[0])
            report((i + 1) / len(images))
    stacked = {size: torch.stack(rows).unflatten(0, (len(objects), -1)) for size, rows in tokens.items()}
    crop = None if networks.config.crop is None else crop_views(networks.config.crop, objects, view_mode)
    condition = partial(ImageCondition, stacked[512], stacked.get(1024), crop=crop)
    if isinstance(view_mode, ViewBlend):
        return condition(view_mode="blend", directions=view_mode.vectors(), temperature=view_mode.temperature)
    return condition(view_mode="average" if isinstance(view_mode, ViewRig) else view_mode)


@torch.no_grad()
def sample_structure(
    networks: Networks,
    condition: ImageCondition,
    sampler: SamplerConfig,
    *,
    seed: int,
    resolution: int,
    progress: Progress | None = None,
) -> SparseStructure:
    """The occupied voxels of each object on a grid of `resolution` a side, 32 or 64.

    Raises EmptyOutputError where an object has none, ValueError for another resolution.
    """
    objects = condition.batch_size
    with networks.structure_flow(objects * STRUCTURE_TOKENS, condition.num_tokens(512)) as flow:
        check_channels(condition, flow.config)
        shape = (flow.config.in_channels, *(flow.config.resolution,) * 3)
        noises, history = next_noise(seed, [shape] * objects, [()] * objects)
        noise = torch.stack(noises).to(networks.device)
        guide = structure_guide(networks, condition, flow.config.resolution)
        latent = sample_structure_latent(flow, noise, guide, sampler, progress)
    with networks.structure_decoder() as decoder:
        voxels = occupied_voxels(decoder(latent), resolution)
    for i, item in enumerate(voxels):
        if len(item) == 0:
            raise EmptyOutputError(f"empty structure for object {i}: try another seed, or check its image and mask")
    return SparseStructure(tuple(voxels), resolution, history, y_up=Capabilities.of(networks.config).projects)


@torch.no_grad()
def sample_shape(
    networks: Networks,
    condition: ImageCondition,
    structure: SparseStructure,
    sampler: SamplerConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> ShapeLatent:
    """The shape latent on the structure's voxels: of a 512 surface on a grid of 32, of a 1024 surface on one of 64."""
    check_frame(structure, networks.config)
    resolutions = (structure.resolution * LATENT_STRIDE,) * len(structure.items)
    targets = list(zip(structure.items, resolutions, strict=True))
    return _sample_shape_on(networks, condition, targets, structure.noise_history, sampler, seed, progress)


@torch.no_grad()
def cascade_shape(
    networks: Networks,
    condition: ImageCondition,
    shape: ShapeLatent,
    sampler: SamplerConfig,
    *,
    seed: int,
    resolution: int,
    max_tokens: int,
    progress: Progress | None = None,
) -> ShapeLatent:
    """The shape latent again, on the finer voxels that the coarse shape's decoder predicts.

    resolution: of the surface, lowered for each object until its latent has fewer than max_tokens voxels, see
    `cascade_voxels`.
    """
    check_frame(shape, networks.config)
    check_condition(condition, shape.batch_size, image_size_of([resolution]))
    check_space(shape, networks.config.shape_slat_normalization)
    with networks.shape_decoder(len(shape.slat.coords)) as decoder:
        fine = decoder.upsample(shape.slat.to(networks.device), levels=4, progress=scaled(progress, 0, 0.2))
    targets = [
        cascade_voxels(voxels, source, resolution, max_tokens, on_faces=shape.y_up)
        for voxels, source in zip(fine.voxels.split(fine.lengths), shape.resolutions, strict=True)
    ]
    progress = scaled(progress, 0.2, 0.8)
    return _sample_shape_on(networks, condition, targets, shape.noise_history, sampler, seed, progress)


@torch.no_grad()
def sample_texture(
    networks: Networks,
    condition: ImageCondition,
    shape: ShapeLatent,
    sampler: SamplerConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> TextureLatent:
    """The material latent on the voxels of a shape latent, which the flow takes as further input channels."""
    check_frame(shape, networks.config)
    image_size, coords = image_size_of(shape.resolutions), shape.slat.coords
    check_condition(condition, shape.batch_size, image_size)
    check_space(shape, networks.config.shape_slat_normalization)
    guide, progress = latent_guide(networks, condition, "texture", coords, shape.resolutions, progress)
    with networks.texture_flow(image_size, len(coords), condition.num_tokens(image_size)) as flow:
        check_channels(condition, flow.config)
        known = normalize(shape.slat.to(networks.device), networks.config.shape_slat_normalization)
        channels = flow.config.in_channels - known.feats.shape[1]
        noises, history = next_noise(seed, [(length, channels) for length in coords.lengths], shape.noise_history)
        noise = known.replace(torch.cat(noises).to(networks.device))
        latent = sample_sparse_latent(
            flow, noise, guide, sampler, image_size=image_size, concat=known, progress=progress
        )
    stats = networks.config.tex_slat_normalization
    latent = denormalize(latent, stats)
    return TextureLatent(latent, shape.resolutions, history, stats.fingerprint, y_up=shape.y_up)


@torch.no_grad()
def decode(
    networks: Networks,
    shape: ShapeLatent,
    texture: TextureLatent | None = None,
    *,
    progress: Progress | None = None,
    memory_budget: int | None = None,
) -> list[Asset]:
    """The surface of each object and, given a texture latent, its materials on the same voxels.

    A shape that was encoded, not sampled, is decoded on the voxels of the encoded surface, as in the reference.
    memory_budget: see `SparseDecoder`.  Raises ValueError where the texture has other voxels or another checkpoint's.
    """
    check_space(shape, networks.config.shape_slat_normalization)
    if texture is not None:
        check_space(texture, networks.config.tex_slat_normalization)
        check_same_voxels(shape, texture)
    num_tokens, share = len(shape.slat.coords), 1.0 if texture is None else 0.5
    with networks.shape_decoder(num_tokens) as decoder:
        known = _encoded_surface(shape, networks.device)
        decoded = decoder(shape.slat.to(networks.device), known, scaled(progress, 0, share), memory_budget)
        grids = decoder.dual_grids(decoded.output, shape.resolutions)
    subdivisions = decoded.subdivisions
    # Free the raw decoder output: it is as large as the dual grids made from it.
    del decoded
    meshes = []
    while grids:  # each grid is freed before the next one is meshed
        meshes.append(_surface(grids.pop(0)))
    if shape.y_up:
        meshes = [mesh_to_z_up(mesh) for mesh in meshes]
    if texture is None:
        return [Asset(mesh, None) for mesh in meshes]
    progress = scaled(progress, share, 1 - share)
    with networks.texture_decoder(num_tokens) as decoder:
        colored = decoder(texture.slat.to(networks.device), subdivisions, progress, memory_budget)
        fields = decoder.fields(colored.output, shape.resolutions)
    if shape.y_up:
        fields = [field_to_z_up(field) for field in fields]
    return [Asset(mesh, field) for mesh, field in zip(meshes, fields, strict=True)]


@torch.no_grad()
def decode_materials(
    networks: Networks,
    shape: ShapeLatent,
    texture: TextureLatent,
    *,
    progress: Progress | None = None,
    memory_budget: int | None = None,
) -> list[VoxelField]:
    """The materials of each object on the voxels of the surface that was encoded, without the shape's decoder.

    memory_budget: bytes, see `SparseDecoder.forward`.  Raises ValueError for a shape that was sampled, and as `decode`.
    """
    check_space(texture, networks.config.tex_slat_normalization)
    check_same_voxels(shape, texture)
    if shape.surface is None:
        raise ValueError("shape: expected one that was encoded from a mesh, got a sampled one; decode it instead")
    known = _encoded_surface(shape, networks.device)
    with networks.texture_decoder(len(shape.slat.coords)) as decoder:
        colored = decoder(texture.slat.to(networks.device), known, progress, memory_budget)
        return decoder.fields(colored.output, shape.resolutions)


@torch.no_grad()
def encode(
    networks: Networks, voxels: OVoxel, *, progress: Progress | None = None
) -> tuple[ShapeLatent, TextureLatent | None]:
    """Encodes one object to its shape and texture latents, [T, C] fp32: the encoders' means, which the flows learn.

    The texture latent is None for an object without materials. Raises MissingFileError, before anything is computed, if
    the checkpoint has no encoder for it; the published one has the shape's alone.
    """
    networks.require(SHAPE_ENCODER, *([] if voxels.field is None else [TEXTURE_ENCODER]))
    resolution = voxels.dual_grid.grid.shape[0]
    voxels = to_device(voxels, networks.device)
    features = dual_grid_features([voxels.dual_grid])
    share = 1.0 if voxels.field is None else 0.5
    with networks.shape_encoder() as encoder:
        mean = encoder(features, scaled(progress, 0, share)).mean
    config = networks.config
    # Without the maps derived on the way: a decoder makes its own.
    surface = CoordSet(features.coords.rows, features.coords.lengths)
    shape = ShapeLatent(mean, (resolution,), ((),), config.shape_slat_normalization.fingerprint, surface)
    if voxels.field is None:
        return shape, None
    with networks.texture_encoder() as encoder:
        mean = encoder(field_features([voxels.field]), scaled(progress, share, 1 - share)).mean
    return shape, TextureLatent(mean, (resolution,), ((),), config.tex_slat_normalization.fingerprint)


@torch.no_grad()
def refine_shape(
    networks: Networks,
    condition: ImageCondition,
    shape: ShapeLatent,
    sampler: SamplerConfig,
    *,
    seed: int,
    strength: float,
    progress: Progress | None = None,
) -> ShapeLatent:
    """The shape latent again, sampled from itself with noise: SDEdit (Meng et al. 2022, arXiv 2108.01073).

    strength: time from which the flow runs, 0 to 1: 0 keeps the latent, 1 samples a new one on its voxels.
    All steps of the sampler lie between that time and 0. The latent's voxels stay; the decoder predicts the surface's.
    Raises ValueError for another strength, and as `sample_shape`.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength: expected 0 to 1, got {strength}")
    image_size, coords = image_size_of(shape.resolutions), shape.slat.coords
    check_frame(shape, networks.config)
    check_condition(condition, shape.batch_size, image_size)
    stats = networks.config.shape_slat_normalization
    check_space(shape, stats)
    if strength == 0:
        return replace(shape, surface=None)
    guide, progress = latent_guide(networks, condition, "shape", coords, shape.resolutions, progress)
    with networks.shape_flow(image_size, len(coords), condition.num_tokens(image_size)) as flow:
        check_channels(condition, flow.config)
        known = normalize(shape.slat.to(networks.device), stats)
        shapes = [(length, flow.config.in_channels) for length in coords.lengths]
        noises, history = next_noise(seed, shapes, shape.noise_history)
        noise = torch.cat(noises).to(networks.device)
        start = known.replace(noised(known.feats, noise, strength, sampler.args.sigma_min))
        latent = sample_sparse_latent(
            flow, start, guide, sampler, image_size=image_size, progress=progress, start=strength
        )
    latent = denormalize(latent, stats)
    return ShapeLatent(latent, shape.resolutions, history, stats.fingerprint, y_up=shape.y_up)


def normalize(latent: SparseTensor, stats: Normalization) -> SparseTensor:
    """[T, C] into the model's space, by channel: (x - mean) / std."""
    mean, std = (latent.feats.new_tensor(values) for values in (stats.mean, stats.std))
    return latent.replace((latent.feats - mean) / std)


def denormalize(latent: SparseTensor, stats: Normalization) -> SparseTensor:
    """[T, C] out of the model's space, by channel: x * std + mean, the inverse of `normalize`."""
    mean, std = (latent.feats.new_tensor(values) for values in (stats.mean, stats.std))
    return latent.replace(latent.feats * std + mean)


def cascade_voxels(
    fine: Tensor, source_resolution: int, target_resolution: int, max_tokens: int, *, on_faces: bool = False
) -> tuple[Tensor, int]:
    """One object's latent voxels for the next cascade stage: ([N, 3] int32 sorted, resolution of their surface).

    fine: [M, 3] int32, predicted surface voxels on a grid of source_resolution a side. The target is lowered in steps
    of 128, to 1024 at the least, until fewer than max_tokens voxels remain. (Scattered voxels may need more tokens at
    a lower resolution; the search is the reference's all the same.)
    on_faces: round to the nearest voxel of a grid whose outermost voxels lie on the cube's faces, as Pixal3D; False:
    take the voxel that holds the fine one's centre.
    """
    resolution = target_resolution
    while True:
        side = resolution // LATENT_STRIDE
        places = (fine + 0.5) / source_resolution * (side - int(on_faces))
        voxels = torch.unique((places.round() if on_faces else places).to(torch.int32), dim=0)
        if len(voxels) < max_tokens or resolution <= CASCADE_FLOOR:
            return voxels, resolution
        resolution = max(CASCADE_FLOOR, resolution - CASCADE_STEP)


def noise_on(items: Sequence[Tensor], noises: Sequence[Tensor], device: torch.device) -> SparseTensor:
    """Noise [N_i, C] fp32 of each object on its voxels [N_i, 3] int32, as one batch on `device`."""
    return SparseTensor(torch.cat(list(noises)).to(device), CoordSet.from_items([v.to(device) for v in items]))


def _sample_shape_on(
    networks: Networks,
    condition: ImageCondition,
    targets: Sequence[tuple[Tensor, int]],  # each object's latent voxels [N_i, 3] int32 and its surface's resolution
    histories: Sequence[NoiseHistory],
    sampler: SamplerConfig,
    seed: int,
    progress: Progress | None,
) -> ShapeLatent:
    """The shape latent on given latent voxels."""
    voxels, resolutions = zip(*targets, strict=True)
    image_size = image_size_of(resolutions)
    check_condition(condition, len(targets), image_size)
    coords = CoordSet.from_items(voxels)
    guide, progress = latent_guide(networks, condition, "shape", coords, resolutions, progress)
    with networks.shape_flow(image_size, len(coords), condition.num_tokens(image_size)) as flow:
        check_channels(condition, flow.config)
        noises, history = next_noise(seed, [(len(item), flow.config.in_channels) for item in voxels], histories)
        noise = noise_on(voxels, noises, networks.device)
        latent = sample_sparse_latent(flow, noise, guide, sampler, image_size=image_size, progress=progress)
    stats, y_up = networks.config.shape_slat_normalization, Capabilities.of(networks.config).projects
    return ShapeLatent(denormalize(latent, stats), resolutions, history, stats.fingerprint, y_up=y_up)


def _encoded_surface(shape: ShapeLatent, device: torch.device) -> list[Subdivision] | None:
    """The subdivisions that lead to the voxels of an encoded surface, coarse to fine; None for a sampled shape."""
    if shape.surface is None:
        return None
    found, coords = [], shape.surface.to(device)
    for _ in range(LATENT_STRIDE.bit_length() - 1):
        found.append(coords.coarsen())
        coords = found[-1].coarse
    return found[::-1]


def _surface(grid: DualGrid) -> Mesh:
    """The mesh of a dual grid; in slabs where memory is short, with the same result."""
    whole = len(grid.coords) * MESH_VOXEL_BYTES < device_memory(grid.coords.device).free
    slab, device = None if whole else MESH_SLAB, grid.coords.device
    return with_less(lambda slab: dual_grid_to_mesh(grid, slab), slab, lambda: MESH_SLAB, device)
