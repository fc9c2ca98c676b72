"""The condition of a checkpoint whose flows read a picture where their tokens are in it: of each view its tokens, and
the features at the voxels.

Only the camera's direction and field of view need to be known, and are guessed where they are not: the crop says the
rest, since the object fills it. Before there is a structure a ball stands for the object. Letters as in `values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ...o_voxel.core.grid import Grid
from ..image import to_pixels
from ..image.views import ViewBlend, ViewDirection
from ..projection.camera import ViewRig
from ..projection.framing import CropConfig, CropViews, OrbitView, ball, colors, cropped, features
from ..sparse import CoordSet, ProjectedSequences
from ..values import ImageCondition, whole_picture

PICTURE = 512  # pixels a side, of which colours are the means


@dataclass(frozen=True, eq=False)
class CropGuide:
    """The condition of one stage in place of an `ImageCondition`; its views guide the sampling in the same modes.
    sequences: of each view."""

    sequences: tuple[ProjectedSequences, ...]
    view_mode: str
    directions: Tensor | None
    temperature: float

    @property
    def batch_size(self) -> int:
        """B, the number of objects."""
        return len(self.sequences[0].lengths)

    def views(self, image_size: int) -> list[ProjectedSequences]:
        """Returns the sequences of each view, whatever the size."""
        return list(self.sequences)


def crop_views(
    config: CropConfig, objects: Sequence[Sequence[Image.Image]], taken: str | ViewBlend | ViewRig
) -> CropViews:
    """The crops of B objects with V views each, prepared pictures.

    taken: directions, and with a rig the field of view; those not said are the configuration's, and of a single
    picture the front's. Raises ValueError for another number of directions than of pictures.
    """
    count = len(objects[0])
    fov = (taken.fov_deg if isinstance(taken, ViewRig) else None) or config.fov_deg
    directions = taken.directions if isinstance(taken, ViewBlend | ViewRig) else None
    if directions is not None and len(directions) != count:
        raise ValueError(f"views: expected the side of each of {count} pictures, got {len(directions)}")
    if directions is None:
        directions = (ViewDirection(0.0, config.pitch_deg),) * count
    views = tuple(OrbitView(direction.azimuth_deg, direction.elevation_deg, fov) for direction in directions)
    found = [
        colors(torch.stack([to_pixels(image, PICTURE) for image in own]), config.cells, config.side) for own in objects
    ]
    return CropViews(torch.stack(found).cpu(), (views,) * len(objects))


def crop_guide(
    condition: ImageCondition, image_size: int, coords: CoordSet, grids: Sequence[int], *, known: bool
) -> CropGuide:
    """The condition of the tokens coords [T] of all objects. grids: cells a side of each object's grid.

    known: the tokens are the object's own voxels; False: all cells of the grid, and a ball stands for the object."""
    device, tokens, crop = coords.device, condition.tokens(image_size), condition.crop
    item = torch.repeat_interleave(torch.arange(len(grids)), torch.tensor(coords.lengths)).to(device)
    points = [Grid.cube(side).centers(v) for v, side in zip(coords.voxels.split(coords.lengths), grids, strict=True)]
    around, sequences = ball().to(device), []
    for view in range(tokens.shape[1]):
        own = tokens[:, view].to(device).float()
        places = torch.cat(
            [cropped(at, at if known else around, crop.views[index][view]) for index, at in enumerate(points)]
        )
        maps = (own[:, whole_picture(own) :], crop.colors[:, view].to(device))
        feats = features(places, item, maps)
        sequences.append(ProjectedSequences(own.flatten(0, 1), (own.shape[1],) * len(own), feats))
    return CropGuide(tuple(sequences), condition.view_mode, condition.directions, condition.temperature)
