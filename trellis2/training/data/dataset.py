"""What the networks learn from: objects as voxels and pictures, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ....o_voxel.core.checks import check_tensor
from ....o_voxel.core.grid import Grid
from ....o_voxel.files.meshes.read import load_textured_mesh
from ....o_voxel.render.camera import Camera
from ....o_voxel.render.draw import Style
from ....o_voxel.render.image import to_bytes
from ....o_voxel.render.turntable import render_mesh
from ....o_voxel.values import DualGrid, OVoxel, VoxelField
from ....o_voxel.voxels.from_mesh import fitted, voxelize
from ....o_voxel.voxels.sample import vertex_materials
from ....o_voxel.voxels.to_mesh import dual_grid_to_mesh
from ...checkpoint.weights import read_tensors, save_weights
from ...image import prepare_image

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
INTERSECTED_BITS = (1, 2, 4)  # of x, y and z in a cached file
SEEDS, FAR = 4, 1 << 26  # seeds that are tried for an object, and how far apart, out of the way of others


@dataclass(frozen=True, eq=False)
class Example:
    """One object.

    voxels: with materials; coordinates lie on a cube grid.  images: [V, S, S, 3] uint8, as the image encoder sees them
    but for its normalisation: cropped to the object, on black.
    """

    voxels: OVoxel
    images: Tensor

    def __post_init__(self) -> None:
        check_tensor(self.images, "Example.images", (None, None, None, 3), torch.uint8)
        if self.voxels.field is None or len(self.voxels.field.coords) == 0:
            raise ValueError("Example: expected voxels with materials, got none; is the object outside [-0.5, 0.5]^3?")

    @classmethod
    def of(cls, voxels: OVoxel, images: Sequence[Image.Image], image_size: int) -> Example:
        """From an object and RGBA pictures of it, which are prepared here as those of a user are."""
        prepared = [prepare_image(image).resize((image_size,) * 2, Image.Resampling.LANCZOS) for image in images]
        return cls(voxels, _stacked([torch.from_numpy(np.array(image)) for image in prepared], image_size))


# source(index, resolution=..., image_size=..., views=...) -> the object of that index: the same at every call
Source = Callable[..., Example]


def open_source(name: str) -> Source:
    """The source that a recipe names: "world", or a folder of mesh files. Raises ValueError for neither."""
    if name == "world":
        return world_example
    folder = Path(name).expanduser()
    files = tuple(sorted(file for file in folder.rglob("*") if file.suffix.lower() in MESH_SUFFIXES))
    if not files:
        raise ValueError(f"data.source: expected 'world' or a folder with {', '.join(MESH_SUFFIXES)} files, got {name}")
    return partial(mesh_example, files)


def world_example(index: int, *, resolution: int, image_size: int, views: int) -> Example:
    """Object `index` of the procedural world: the families in turn, a seed for each round.

    One that no picture can be prepared of, all clear glass or too thin for the pixels, gives way to another seed: a
    run of many thousands shall not end there.
    """
    from ..world import TRAIN_FAMILIES, TRAIN_SEEDS, make_sample

    round_, family = divmod(index, len(TRAIN_FAMILIES))

    def made(seed: int) -> Example:
        sample = make_sample(TRAIN_FAMILIES[family], seed, resolution=resolution, image_size=image_size, views=views)
        return Example.of(sample.voxels, sample.images, image_size)

    *seeds, last = (TRAIN_SEEDS[round_ + k * FAR] for k in range(SEEDS))
    for seed in seeds:
        with suppress(ValueError):
            return made(seed)
    return made(last)


def mesh_example(files: tuple[Path, ...], index: int, *, resolution: int, image_size: int, views: int) -> Example:
    """Mesh file index % F, fitted to the cube, with pictures from views that the index decides."""
    voxels = voxelize(fitted(load_textured_mesh(files[index % len(files)])), Grid.cube(resolution))
    mesh = dual_grid_to_mesh(voxels.dual_grid)
    material = vertex_materials(mesh, voxels.field)
    rng, images = np.random.default_rng(index), []
    for _ in range(views):
        camera = Camera(rng.uniform(0, 360), rng.uniform(-10, 50), fov_deg=rng.uniform(20, 50))
        style = Style(background=None, ground=False)
        drawn = render_mesh(mesh, camera, (image_size,) * 2, material=material, style=style)
        images.append(Image.fromarray(to_bytes(torch.cat([drawn.color, drawn.alpha[..., None]], -1)).numpy()))
    return Example.of(voxels, images, image_size)


def cached(source: Source, folder: Path, index: int, *, resolution: int, image_size: int, views: int) -> Example:
    """`source`, read from `folder` where it was made before. A file is whole or absent, whoever writes it when."""
    path = folder / f"{resolution}" / f"{image_size}x{views}" / f"{index:08d}.safetensors"
    if path.exists():
        return _unpack(read_tensors(path), resolution)
    example = source(index, resolution=resolution, image_size=image_size, views=views)
    save_weights(_pack(example), path)
    return example


def _pack(example: Example) -> dict[str, Tensor]:
    """15 bytes a voxel: positions in its voxel to 1/2048, materials to 1/255."""
    grid = example.voxels.dual_grid
    bits = grid.intersected.to(torch.uint8) * torch.tensor(INTERSECTED_BITS, dtype=torch.uint8)
    return {
        "coords": grid.coords.to(torch.int16),
        "dual": grid.dual.to(torch.float16),
        "intersected": bits.sum(1, dtype=torch.uint8),
        "materials": (example.voxels.field.attrs.float() * 255).round().to(torch.uint8),
        "images": example.images,
    }


def _unpack(tensors: Mapping[str, Tensor], resolution: int) -> Example:
    crossed = (tensors["intersected"][:, None] & torch.tensor(INTERSECTED_BITS, dtype=torch.uint8)) > 0
    coords, grid = tensors["coords"].to(torch.int32), Grid.cube(resolution)
    dual_grid = DualGrid(coords, tensors["dual"].to(torch.float32), crossed, grid)
    field = VoxelField(coords, tensors["materials"].to(torch.float32) / 255, grid)
    return Example(OVoxel(dual_grid, field), tensors["images"])


def _stacked(images: Sequence[Tensor], size: int) -> Tensor:
    return torch.stack(list(images)) if images else torch.zeros(0, size, size, 3, dtype=torch.uint8)
