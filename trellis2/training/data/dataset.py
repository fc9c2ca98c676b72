"""The dataset: objects as voxels and pictures, from the procedural world or a folder of meshes, and their cache."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from ....o_voxel.render.turntable import render_mesh, to_bytes
from ....o_voxel.values import DualGrid, OVoxel, VoxelField
from ....o_voxel.voxels.from_mesh import fitted, voxelize
from ....o_voxel.voxels.sample import vertex_materials
from ....o_voxel.voxels.to_mesh import dual_grid_to_mesh
from ...checkpoint.weights import read_tensors, save_weights
from ...image import prepare_image
from ...projection.framing import OrbitView

log = logging.getLogger(__name__)

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
# Files that a mesh file may refer to: buffers, materials, textures.
SIDECAR_SUFFIXES = (".bin", ".mtl", ".png", ".jpg", ".jpeg", ".webp", ".tga", ".bmp")
# Version of the voxelisation and rendering of mesh files, and of the cached files and latents. Raise it when a change
# alters them.
SAMPLE_VERSION = 3
INTERSECTED_BITS = (1, 2, 4)  # of x, y and z in a cached file
# Attempts for an object, and the distance between their seeds: beyond the seeds of any other object in a run.
ATTEMPTS, SEED_STRIDE = 4, 1 << 26


@dataclass(frozen=True, eq=False)
class Sample:
    """One object of the dataset.

    voxels: dual grid on a cube grid, and materials unless only the structure is wanted.  images: [V, S, S, 3] uint8
    RGB, prepared as a user's picture is (cropped to the object, on black) but for resizing and normalisation to the
    image encoder's input.
    cameras: [V, 3] fp32, yaw, pitch and field of view of each in degrees, see `projection.framing.OrbitView`.
    Raises ValueError for images or cameras of another shape or dtype and for no voxels.
    """

    voxels: OVoxel
    images: Tensor
    cameras: Tensor

    def __post_init__(self) -> None:
        views = check_tensor(self.images, "Sample.images", (None, None, None, 3), torch.uint8).shape[0]
        check_tensor(self.cameras, "Sample.cameras", (views, 3), torch.float32)
        if len(self.voxels.dual_grid.coords) == 0:
            raise ValueError("Sample: expected voxels, got none; is the object outside [-0.5, 0.5]^3?")

    @classmethod
    def of(cls, voxels: OVoxel, images: Sequence[Image.Image], cameras: Sequence[OrbitView], image_size: int) -> Sample:
        """A sample from an object, RGBA pictures of it, resized to `image_size` pixels a side, and their cameras.

        Raises ValueError for a picture in which `prepare_image` finds no object.
        """
        prepared = [prepare_image(image).resize((image_size,) * 2, Image.Resampling.LANCZOS) for image in images]
        views = [(camera.yaw_deg, camera.pitch_deg, camera.fov_deg) for camera in cameras]
        pictures = _stack([torch.from_numpy(np.array(image)) for image in prepared], image_size)
        return cls(voxels, pictures, torch.tensor(views, dtype=torch.float32).reshape(-1, 3))


@dataclass(frozen=True)
class Source:
    """A dataset by index. make(index, resolution=, image_size=, views=, materials=) returns a Sample, the same for
    equal arguments.

    fingerprint: changes whenever `make` would return other samples; the key of caches. It names a folder.
    """

    make: Callable[..., Sample]
    fingerprint: str

    def __call__(self, index: int, *, resolution: int, image_size: int, views: int, materials: bool = True) -> Sample:
        size = {"resolution": resolution, "image_size": image_size, "views": views}
        return self.make(index, **size, materials=materials)


def open_source(name: str, around: float = 0.0) -> Source:
    """The source of a recipe: "world", or a folder of mesh files. Raises ValueError for a folder without any.

    around: share of the world's pictures that are taken from any side; a folder's all are."""
    if name == "world":
        sides = f"-around-{around:g}" if around else ""
        return Source(partial(world_sample, around=around), world_fingerprint() + sides)
    folder = Path(name).expanduser()
    files = tuple(sorted(file for file in folder.rglob("*") if file.suffix.lower() in MESH_SUFFIXES))
    if not files:
        raise ValueError(f"data.source: expected 'world' or a folder with {', '.join(MESH_SUFFIXES)} files, got {name}")
    return Source(partial(mesh_sample, files), folder_fingerprint(folder))


def world_fingerprint() -> str:
    """Fingerprint of the procedural world: its version and the families in the order in which indices select them."""
    from ..world import TRAIN_FAMILIES, WORLD_VERSION

    return f"world-{WORLD_VERSION}-{_digest([str(SAMPLE_VERSION), *TRAIN_FAMILIES])}"


def folder_fingerprint(folder: Path) -> str:
    """Fingerprint of a folder of meshes: path, size and modification time of every mesh, buffer and texture file.

    Contents are not read, since a folder may hold many gigabytes: a copy with new modification times is a new source.
    """
    suffixes = MESH_SUFFIXES + SIDECAR_SUFFIXES
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    entries = (f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return f"meshes-{_digest([str(SAMPLE_VERSION), *entries])}"


def world_sample(
    index: int, *, resolution: int, image_size: int, views: int, materials: bool = True, around: float = 0.0
) -> Sample:
    """Object `index` of the procedural world: index % F selects the training family, index // F the seed.

    An object without a usable picture (all clear glass, or thinner than a pixel) is replaced by another seed of its
    family, so that it cannot end a run of many thousands.
    """
    from ..world import TRAIN_FAMILIES, TRAIN_SEEDS, framed_fov, make_rendered_object

    number, family = divmod(index, len(TRAIN_FAMILIES))
    size = {"resolution": resolution, "image_size": image_size, "views": views, "materials": materials}

    def made(seed: int) -> Sample:
        rendered = make_rendered_object(TRAIN_FAMILIES[family], seed, **size, around=around)
        cameras = [view.camera for view in rendered.views]
        taken = [OrbitView(camera.yaw_deg, camera.pitch_deg, framed_fov(camera.fov_deg)) for camera in cameras]
        return Sample.of(rendered.voxels, rendered.images, taken, image_size)

    *seeds, last = (TRAIN_SEEDS[number + k * SEED_STRIDE] for k in range(ATTEMPTS))
    for seed in seeds:
        with suppress(ValueError):
            return made(seed)
    return made(last)


def mesh_sample(
    files: tuple[Path, ...], index: int, *, resolution: int, image_size: int, views: int, materials: bool = True
) -> Sample:
    """Mesh file index % F, fitted to the unit cube, with `views` pictures from cameras drawn from a generator seeded by
    the index."""
    voxels = voxelize(fitted(load_textured_mesh(files[index % len(files)])), Grid.cube(resolution))
    mesh = dual_grid_to_mesh(voxels.dual_grid)
    material = vertex_materials(mesh, voxels.field)
    rng, images, cameras = np.random.default_rng(index), [], []
    for _ in range(views):
        camera = Camera(rng.uniform(0, 360), rng.uniform(-10, 50), fov_deg=rng.uniform(20, 50))
        style = Style(background=None, ground=False)
        drawn = render_mesh(mesh, camera, (image_size,) * 2, material=material, style=style)
        images.append(Image.fromarray(to_bytes(torch.cat([drawn.color, drawn.alpha[..., None]], -1)).numpy()))
        cameras.append(OrbitView(camera.yaw_deg, camera.pitch_deg, camera.fov_deg))
    return Sample.of(voxels if materials else OVoxel(voxels.dual_grid), images, cameras, image_size)


def cached(
    source: Source, folder: Path, index: int, *, resolution: int, image_size: int, views: int, materials: bool = True
) -> Sample:
    """source(index, ...) through a cache in `folder`, keyed by the source's fingerprint and the arguments.

    Files appear whole (written under another name, then renamed), so several processes may share the folder.
    """
    kind = f"{resolution}" if materials else f"{resolution}-structure"
    path = cache_folder(source, folder) / kind / f"{image_size}x{views}" / f"{index:08d}.safetensors"
    if path.exists():
        return _unpack(read_tensors(path), resolution)
    sample = source(index, resolution=resolution, image_size=image_size, views=views, materials=materials)
    save_weights(_pack(sample), path)
    return sample


def cache_folder(source: Source, folder: Path) -> Path:
    """The part of a cache that holds samples of this source."""
    return folder / source.fingerprint


def open_cache(source: Source, folder: Path) -> None:
    """Create this source's part of the cache; log samples there of other sources or versions, which are not used."""
    own = cache_folder(source, folder)
    if own.exists():
        return
    # A name of digits: a resolution, where caches had no fingerprint.
    entries = [path.name for path in folder.iterdir() if path.is_dir()] if folder.exists() else []
    others = sorted(name for name in entries if name.isdecimal() or name.startswith(("world-", "meshes-")))
    if others:
        log.warning(
            "%s: not used, made from another source or by another version: %s. Samples are made again in %s; "
            "delete the others unless another run needs them.",
            folder,
            ", ".join(others),
            own.name,
        )
    own.mkdir(parents=True, exist_ok=True)


def _pack(sample: Sample) -> dict[str, Tensor]:
    """The tensors of a cached file, 19 bytes a voxel: dual vertices rounded to 1/2048 voxel, materials to 1/255."""
    grid, field = sample.voxels.dual_grid, sample.voxels.field
    bits = grid.intersected.to(torch.uint8) * torch.tensor(INTERSECTED_BITS, dtype=torch.uint8)
    materials = {} if field is None else {"materials": (field.attrs.float() * 255).round().to(torch.uint8)}
    return {
        "coords": grid.coords.to(torch.int16),
        "dual": grid.dual.to(torch.float16),
        "intersected": bits.sum(1, dtype=torch.uint8),
        **materials,
        "images": sample.images,
        "cameras": sample.cameras,
    }


def _unpack(tensors: Mapping[str, Tensor], resolution: int) -> Sample:
    """The sample of a file by `_pack`."""
    crossed = (tensors["intersected"][:, None] & torch.tensor(INTERSECTED_BITS, dtype=torch.uint8)) > 0
    coords, grid = tensors["coords"].to(torch.int32), Grid.cube(resolution)
    dual_grid = DualGrid(coords, tensors["dual"].to(torch.float32), crossed, grid)
    found = tensors.get("materials")
    field = None if found is None else VoxelField(coords, found.to(torch.float32) / 255, grid)
    return Sample(OVoxel(dual_grid, field), tensors["images"], tensors["cameras"])


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _stack(images: Sequence[Tensor], size: int) -> Tensor:
    return torch.stack(list(images)) if images else torch.zeros(0, size, size, 3, dtype=torch.uint8)
