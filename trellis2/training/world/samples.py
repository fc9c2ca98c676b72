"""Objects of the world with their voxels and rendered pictures, and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ....o_voxel.core.grid import Grid
from ....o_voxel.material import TexturedMesh
from ....o_voxel.render import Camera, StudioLight
from ....o_voxel.values import OVoxel
from ....o_voxel.voxels.from_mesh import voxelize
from .dice import Dice
from .objects import facing, make_object
from .views import View, draw_views, random_view, to_image

BACKGROUND = (236, 238, 240)
YAWS_DEG = (35.0, -35.0)  # alternating, to show both sides


@dataclass(frozen=True, eq=False)
class RenderedObject:
    """An object, voxelised and rendered, on the CPU.

    mesh: turned so that a camera at yaw 0 is at -y.  voxels: its dual grid and materials.  images: an RGBA picture for
    each view, transparent around the object, as `image.prepare_image` expects.  views: their cameras and lights.
    """

    mesh: TexturedMesh
    voxels: OVoxel
    images: tuple[Image.Image, ...]
    views: tuple[View, ...]

    def occupancy(self, side: int) -> Tensor:
        """Occupancy [side, side, side] bool over (x, y, z): the cells that hold a voxel.

        Raises ValueError unless side divides the voxels' resolution.
        """
        grid = self.voxels.dual_grid.grid
        if grid.shape[0] % side:
            raise ValueError(f"side: expected a divisor of {grid.shape[0]}, got {side}")
        cells = torch.zeros((side,) * 3, dtype=torch.bool)
        x, y, z = (self.voxels.dual_grid.coords // (grid.shape[0] // side)).long().unbind(1)
        cells[x, y, z] = True
        return cells


def make_rendered_object(
    family: str,
    seed: int,
    *,
    resolution: int,
    image_size: int,
    views: int = 1,
    materials: bool = True,
    around: float = 0.0,
) -> RenderedObject:
    """Make the object (family, seed), voxelised with `resolution` voxels a side, and `views` square pictures of it.

    The object is first rotated about z by a random angle; the cameras are at -y, but for the share `around`, which are
    at any yaw. A picture determines this orientation, but not the family's canonical front. Views differ in pitch,
    field of view and light.
    Deterministic; view k does not depend on the number of views, the resolution or the image size.
    materials: False leaves the voxels' materials out.  Raises ValueError as `make_object` does.
    """
    mesh = facing(make_object(family, seed), Dice("heading", family, seed).between(0, 360))
    taken = tuple(random_view(Dice("view", family, seed, k), around) for k in range(views))
    pictures = draw_views(mesh, list(taken), image_size)
    voxels = voxelize(mesh, Grid.cube(resolution), materials=materials)
    return RenderedObject(mesh, voxels, tuple(map(to_image, pictures)), taken)


def contact_sheet(families: Sequence[str], seeds: Sequence[int], tile: int, columns: int) -> Image.Image:
    """An RGB picture of all families' objects of these seeds, in rows of `columns` tiles of `tile` pixels a side."""
    keys = [(family, seed) for family in families for seed in seeds]
    sheet = Image.new("RGB", (columns * tile, -(-len(keys) // columns) * tile), BACKGROUND)
    for index, (family, seed) in enumerate(keys):
        view = View(Camera(YAWS_DEG[seed % len(YAWS_DEG)], 20.0, fov_deg=25.0), StudioLight())
        picture = to_image(draw_views(make_object(family, seed), [view], tile)[0])
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * tile, row * tile), picture)
    return sheet
