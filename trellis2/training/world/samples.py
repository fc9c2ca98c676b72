"""One object as the networks learn from it: voxels, occupancy, pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ....o_voxel.core.grid import Grid
from ....o_voxel.material import TexturedMesh
from ....o_voxel.values import OVoxel
from ....o_voxel.voxels.from_mesh import voxelize
from .dice import Dice
from .objects import facing, make_object
from .views import View, draw_views, random_view, to_image


@dataclass(frozen=True, eq=False)
class Sample:
    """mesh: the object, turned as the pictures see it.  voxels: its dual grid and materials.  images: RGBA pictures,
    one a view, transparent around it, for `image.prepare_image`.  views: how they were taken. All on the CPU."""

    mesh: TexturedMesh
    voxels: OVoxel
    images: tuple[Image.Image, ...]
    views: tuple[View, ...]

    def occupancy(self, side: int) -> Tensor:
        """[side, side, side] bool over (x, y, z): the cells that hold a voxel. side divides the voxels' resolution."""
        grid = self.voxels.dual_grid.grid
        if grid.shape[0] % side:
            raise ValueError(f"side: expected a divisor of {grid.shape[0]}, got {side}")
        cells = torch.zeros((side,) * 3, dtype=torch.bool)
        x, y, z = (self.voxels.dual_grid.coords // (grid.shape[0] // side)).long().unbind(1)
        cells[x, y, z] = True
        return cells


def make_sample(family: str, seed: int, *, resolution: int, image_size: int, views: int = 1) -> Sample:
    """The object (family, seed) on a grid of `resolution` voxels a side, and `views` square pictures of it.

    The pictures are of a random side of the object, and that side faces -y: where the object stands is what a picture
    tells, and which side its maker called the front is not. They differ in height, lens and light.
    The same at every call; view k is the same whatever the number of views, and whatever the resolution and size.
    Raises ValueError as `make_object` does.
    """
    mesh = facing(make_object(family, seed), Dice("heading", family, seed).between(0, 360))
    taken = tuple(random_view(Dice("view", family, seed, k)) for k in range(views))
    pictures = draw_views(mesh, list(taken), image_size)
    return Sample(mesh, voxelize(mesh, Grid.cube(resolution)), tuple(map(to_image, pictures)), taken)
