"""What is run to compile kernels: each step from picture to file once, on something small.

A kernel is compiled for the types of its arguments, not for their sizes: small inputs compile what large ones need.
The steps are those of `make_asset`, each on an input of its own, so that several processes can take one each.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...o_voxel.bake.bake import bake
from ...o_voxel.bake.options import BakeOptions
from ...o_voxel.core.grid import Grid
from ...o_voxel.material import UVMap
from ...o_voxel.mesh.normals import smooth_by_angle
from ...o_voxel.mesh.remesh.outer_shell import outer_shell
from ...o_voxel.mesh.repair.choose import choose_surface
from ...o_voxel.mesh.repair.clean import clean
from ...o_voxel.mesh.repair.fill_holes import fill_holes
from ...o_voxel.mesh.repair.hidden import hidden_faces
from ...o_voxel.mesh.simplify import simplify
from ...o_voxel.mesh.uv.unwrap import unwrap
from ...o_voxel.values import Mesh, VoxelField

if TYPE_CHECKING:
    from PIL import Image

SIDE = 24  # quads around and along the ring
TEXELS = 128
FILE_TEXELS = 2048  # the first size whose files are written by compiled loops
VOXELS = 64  # a side of the grid of materials, and of the outer shell
STEPS = 1  # of a sampler


@dataclass(frozen=True)
class Part:
    """run(device): compiles what a step needs.  weight: its share of the work, about seconds of a fast core.
    cuda_only: nothing is compiled for it elsewhere."""

    run: Callable[[torch.device], None]
    weight: float
    cuda_only: bool = False


def ring(device: torch.device) -> Mesh:
    """A bumpy torus as a decoder gives surfaces: [V, 3] float32, [F, 3] int32, with a hole of some faces."""
    turn = torch.arange(SIDE) * (2 * math.pi / SIDE)
    along, around = torch.meshgrid(turn, turn, indexing="ij")
    width = 0.12 + 0.012 * torch.sin(5 * along) * torch.cos(4 * around)
    reach = 0.28 + width * torch.cos(around)
    points = torch.stack([reach * torch.cos(along), reach * torch.sin(along), width * torch.sin(around)], -1)
    first, second = _quads()
    faces = torch.cat([first, second])
    return Mesh(points.reshape(-1, 3).to(device), faces[4:].int().to(device))


def _quads() -> tuple[torch.Tensor, torch.Tensor]:
    """The two triangles of each quad of the closed grid, [SIDE^2, 3] each."""
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    here, there = row * SIDE + column, (row + 1) % SIDE * SIDE + column
    right = row * SIDE + (column + 1) % SIDE
    across = (row + 1) % SIDE * SIDE + (column + 1) % SIDE
    first = torch.stack([here, there, across], -1).reshape(-1, 3)
    return first, torch.stack([here, across, right], -1).reshape(-1, 3)


def materials(mesh: Mesh) -> VoxelField:
    """A material for every voxel around the vertices of `mesh`."""
    grid = Grid.cube(VOXELS)
    steps = torch.cartesian_prod(*[torch.arange(-1, 2, device=mesh.faces.device)] * 3)
    near = (grid.to_grid(mesh.vertices).floor().long()[:, None] + steps).reshape(-1, 3)
    coords = near.clamp(0, VOXELS - 1).unique(dim=0).int()
    attrs = 0.5 + 0.4 * torch.sin(coords.float() @ coords.new_tensor([[3, 1, 2, 5, 4, 0]] * 3).float())
    return VoxelField(coords, attrs, grid)


def _surface(device: torch.device) -> None:
    raw = ring(device)
    fill_holes(raw, 10.0)
    dense, _ = clean(raw)
    choose_surface(raw, dense)
    hidden_faces(dense)


def _shell(device: torch.device) -> None:
    outer_shell(ring(device), VOXELS, close_gaps=0.02 * VOXELS)


def _simplify(device: torch.device) -> None:
    mesh = ring(device)
    simplify(simplify(mesh, len(mesh.faces) // 2), len(mesh.faces) // 8)


def _unwrap(device: torch.device) -> None:
    unwrap(ring(device), resolution=TEXELS)


def _bake(device: torch.device) -> None:
    mesh = ring(device)
    shaded, normals, _ = smooth_by_angle(mesh, 60.0)
    options = BakeOptions(resolution=TEXELS, normal_map=True, occlusion=True, occlusion_rays=16, occluder=mesh)
    bake(shaded, _chart(shaded), mesh, materials(mesh), options, normals=normals)


def _chart(mesh: Mesh) -> UVMap:
    """A triangle of the atlas for each face."""
    count = len(mesh.faces)
    side = math.ceil(math.sqrt(count))
    row = torch.arange(count, device=mesh.faces.device)
    corner = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]], device=row.device)
    place = torch.stack([row % side, row // side], -1)[:, None]
    faces = (3 * row[:, None] + torch.arange(3, device=row.device)).to(mesh.faces.dtype)
    return UVMap(((place + corner) / side).reshape(-1, 2), faces, row.to(mesh.faces.dtype))


def _write(device: torch.device) -> None:
    from ...o_voxel.files.meshes.png import encode_png

    image = torch.zeros(FILE_TEXELS, FILE_TEXELS, 3, dtype=torch.uint8).numpy()
    encode_png(image, backend="auto")


def _picture(device: torch.device) -> None:
    """A picture to a surface by the built-in model on a GPU, whose kernels depend on widths; elsewhere, where only
    number formats count, by a tiny random one."""
    from ..checkpoint.builtin import NAME, find_built_in
    from ..checkpoint.tiny import FEW_FACES, make_tiny
    from ..pipeline import Pipeline
    from ..runtime.residency import KeepLoaded

    with tempfile.TemporaryDirectory() as folder:
        built_in = device.type != "cpu" and find_built_in() is not None
        source = NAME if built_in else str(make_tiny(Path(folder) / "tiny", size=FEW_FACES))
        pipeline = Pipeline.load(source, KeepLoaded(device))
        pipeline.run([[_disc()]], pipeline_type="512", steps=STEPS, seed=1)


def _published(device: torch.device) -> None:
    from ..checkpoint.layouts import Checkpoint
    from ..pipeline import Pipeline
    from ..runtime.residency import KeepLoaded
    from .published import OneBlock

    pipeline = Pipeline(Checkpoint(OneBlock(device)), KeepLoaded(device))
    pipeline.run([[_disc()]], pipeline_type="1024_cascade", steps=STEPS, seed=1)


def _disc() -> Image.Image:
    """A disc on black, as `prepare_image` makes pictures."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (256, 256))
    ImageDraw.Draw(picture).ellipse((32, 32, 224, 224), fill=(200, 90, 40))
    return picture


PARTS: dict[str, Part] = {
    "published": Part(_published, 12, cuda_only=True),
    "simplify": Part(_simplify, 12),
    "unwrap": Part(_unwrap, 10),
    "bake": Part(_bake, 6),
    "picture": Part(_picture, 6),
    "surface": Part(_surface, 5),
    "outer shell": Part(_shell, 4),
    "write": Part(_write, 4),
}


def parts_for(device: torch.device) -> list[str]:
    """Returns the names of the parts that compile something for `device`, the longest first."""
    return [name for name, part in PARTS.items() if device.type == "cuda" or not part.cuda_only]
