"""What starts from a mesh: its shape latent, new textures on its own texture coordinates, and a refined shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..o_voxel.bake.options import BakeOptions
from ..o_voxel.bake.own_uvs import bake_own_uvs
from ..o_voxel.core.grid import Grid
from ..o_voxel.core.progress import Progress, StageProgress, in_background, scaled, staged
from ..o_voxel.material import TexturedMesh
from ..o_voxel.values import Mesh, OVoxel, to_device
from ..o_voxel.voxels.from_mesh import fitted, mesh_to_dual_grid
from .capabilities import LATENT_STRIDE
from .checkpoint.config import SamplerConfig
from .checkpoint.layouts import SHAPE_ENCODER
from .pipeline import Pipeline
from .values import Asset, ImageCondition, ShapeLatent

# Share of the run time of `encode_mesh` before the encoder runs.
VOXELS_SHARE = 0.7
ENCODE_SECONDS = 10.0  # of 512 voxels a side on two cores


@dataclass(frozen=True)
class FromMesh:
    """Settings of `texture_mesh` and `refine_mesh`.

    resolution: voxels a side, a multiple of 16; None: the finest of 512 and 1024 that the checkpoint has networks for.
    seed: of the noise.  steps: of each sampler; None: the checkpoint's.
    fit: centre the mesh and scale it to the unit cube for the networks; False: it lies there already, as a generated
    one does.
    unwrap_shared: see `bake_own_uvs`.
    """

    resolution: int | None = None
    seed: int = 42
    steps: int | None = None
    fit: bool = True
    unwrap_shared: bool = False


def encode_mesh(
    pipeline: Pipeline,
    mesh: Mesh | TexturedMesh,
    resolution: int,
    *,
    fit: bool = True,
    progress: Progress | None = None,
) -> ShapeLatent:
    """Encodes the surface of any mesh, vertices [V, 3], faces [F, 3], to a shape latent [T, C] fp32.

    resolution: voxels a side, a multiple of 16.  fit: see `FromMesh`.  progress: called with the fraction done, 0 to 1.
    Open, non-manifold and intersecting meshes are encoded as they are; what is smaller than a voxel is lost.
    Raises MissingFileError, before anything is computed, for a checkpoint without a shape encoder; ValueError for a
    resolution that does not fit, or a mesh of no extent.
    """
    if resolution < LATENT_STRIDE or resolution % LATENT_STRIDE:
        raise ValueError(f"resolution: expected a multiple of {LATENT_STRIDE}, got {resolution}")
    pipeline.networks.require(SHAPE_ENCODER)
    surface = _placed(mesh, fit)
    device = pipeline.networks.device
    if device.type == "cuda":  # other devices lack the float64 of voxelisation, or its kernel
        surface = to_device(surface, device)
    grid = mesh_to_dual_grid(surface, Grid.cube(resolution), progress=scaled(progress, 0, VOXELS_SHARE))
    if len(grid.coords) == 0:
        raise ValueError("mesh: expected a surface inside the unit cube, got no voxel; is it to be fitted?")
    report = scaled(progress, VOXELS_SHARE, 1 - VOXELS_SHARE)

    def encode(report: Progress) -> tuple[ShapeLatent, object]:
        return pipeline.encode(OVoxel(grid), progress=report)

    # On a CPU one block of the encoder takes seconds; a card is not left computing after a cancel.
    shape, _ = in_background(encode, report, ENCODE_SECONDS) if device.type == "cpu" else encode(report)
    if progress is not None:
        progress(1.0)
    return shape


def texture_mesh(
    pipeline: Pipeline,
    mesh: TexturedMesh,
    condition: ImageCondition,
    settings: FromMesh = FromMesh(),
    options: BakeOptions = BakeOptions(),
    *,
    on_warning: Callable[[str], None] | None = None,
    progress: StageProgress | None = None,
) -> TexturedMesh:
    """Paints a mesh as the picture says: base colour, metallic, roughness and alpha, on its own texture coordinates.

    Vertices, faces, normals, materials' rows and texture coordinates are those of `mesh`; see `bake_own_uvs`, which
    takes options and on_warning. condition: image tokens of one object.  progress(stage, fraction), of the stages
    "encode", "texture", "decode" and "bake".
    Raises MissingFileError or ValueError, before anything is computed, for a checkpoint that lacks a network.
    """
    report = partial(staged, progress)
    resolution = settings.resolution or pipeline.capabilities.own_resolution
    pipeline.capabilities.check_encoded(resolution)
    surface = _placed(mesh, settings.fit)
    shape = encode_mesh(pipeline, surface, resolution, fit=False, progress=report("encode"))
    sampler = _steps(pipeline.config.tex_slat_sampler, settings.steps)
    texture = pipeline.sample_texture(condition, shape, seed=settings.seed, sampler=sampler, progress=report("texture"))
    (field,) = pipeline.decode_materials(shape, texture, progress=report("decode"))
    device = torch.device("cpu") if field.coords.device.type == "mps" else field.coords.device
    field, surface, moved = to_device((field, surface, mesh), device)
    made = bake_own_uvs(
        moved,
        field,
        options,
        placed=surface,
        unwrap_shared=settings.unwrap_shared,
        on_warning=on_warning,
        progress=report("bake"),
    )
    return to_device(made, mesh.mesh.vertices.device)


def refine_mesh(
    pipeline: Pipeline,
    mesh: Mesh | TexturedMesh,
    condition: ImageCondition,
    settings: FromMesh = FromMesh(),
    *,
    strength: float = 0.5,
    texture: bool = True,
    progress: StageProgress | None = None,
) -> Asset:
    """Samples the shape of a mesh again, from itself with noise, and decodes it as a new surface in the unit cube.

    strength: see `stages.refine_shape`.  texture: also sample materials.  progress(stage, fraction), of the stages
    "encode", "shape", "texture" and "decode". Raises as `texture_mesh`.
    """
    report = partial(staged, progress)
    resolution = settings.resolution or pipeline.capabilities.own_resolution
    pipeline.capabilities.check_shape(resolution)
    if texture:
        pipeline.capabilities.check_texture(resolution)
    shape = encode_mesh(pipeline, mesh, resolution, fit=settings.fit, progress=report("encode"))
    sampler = _steps(pipeline.config.shape_slat_sampler, settings.steps)
    refined = pipeline.refine_shape(
        condition, shape, seed=settings.seed, strength=strength, sampler=sampler, progress=report("shape")
    )
    materials = None
    if texture:
        sampler = _steps(pipeline.config.tex_slat_sampler, settings.steps)
        materials = pipeline.sample_texture(
            condition, refined, seed=settings.seed, sampler=sampler, progress=report("texture")
        )
    return pipeline.decode(refined, materials, progress=report("decode"))[0]


def _placed(mesh: Mesh | TexturedMesh, fit: bool) -> Mesh:
    textured = mesh if isinstance(mesh, TexturedMesh) else TexturedMesh(mesh)
    return fitted(textured).mesh if fit else textured.mesh


def _steps(sampler: SamplerConfig, steps: int | None) -> SamplerConfig:
    return sampler if steps is None else replace(sampler, params=replace(sampler.params, steps=steps))
