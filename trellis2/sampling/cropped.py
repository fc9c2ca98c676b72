"""The condition of a checkpoint whose flows read a picture where their tokens are in it: of each view its tokens, and
the features at the voxels.

Only the camera's direction and field of view need to be known, and are guessed where they are not: the crop says the
rest, since the object fills it. While there is no structure, the one that the flow is heading for says how the crop was
taken, and at the first step a ball. Letters as in `values`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ...o_voxel.core.grid import Grid
from ..image import to_pixels
from ..image.views import ViewBlend, ViewDirection
from ..projection.blocks import block_features, block_places
from ..projection.camera import ViewRig
from ..projection.framing import CropConfig, CropViews, OrbitView, ball, colors, cropped, features, frames
from ..sparse import CoordSet, ProjectedSequences
from ..values import ImageCondition, whole_picture

PICTURE = 512  # pixels a side, of which colours are the means


@dataclass(frozen=True, eq=False)
class CropGuide:
    """The condition of one stage in place of an `ImageCondition`; its views guide the sampling in the same modes.
    sequences: of each view.  follow: of a clean sample that the flow is heading for, the sequences of later steps; None
    where they stay."""

    sequences: tuple[ProjectedSequences, ...]
    view_mode: str
    directions: Tensor | None
    temperature: float
    follow: Callable[[Tensor], tuple[ProjectedSequences, ...]] | None = None

    @property
    def batch_size(self) -> int:
        """B, the number of objects."""
        return len(self.sequences[0].lengths)

    def views(self, image_size: int) -> list[ProjectedSequences]:
        """Returns the sequences of each view, whatever the size."""
        return list(self.sequences)


def sided_mode(mode: str, directions: Sequence[ViewDirection] | None, fov_deg: float | None = None) -> str | ViewRig:
    """The view mode "average" or "cycle" of pictures from `directions`, where they are said, for a checkpoint that
    reads each from its side. Raises ValueError for cycle with directions, which it could not keep."""
    if mode == "average":
        return ViewRig(fov_deg, None if directions is None else tuple(directions))
    if directions is not None:
        raise ValueError(
            "view_mode cycle: expected average or blend for a model that reads each picture from its side, where "
            "sides are said; choose one of them"
        )
    return mode


def crop_views(
    config: CropConfig, objects: Sequence[Sequence[Image.Image]], taken: str | ViewBlend | ViewRig
) -> CropViews:
    """The crops of B objects with V views each, prepared pictures.

    taken: directions, and with a rig the field of view. Where they are not said, the field of view and the elevation
    are the configuration's, and the pictures go evenly around, counter-clockwise seen from above, from the front: of
    four front, left, back and right. Raises ValueError for another number of directions than of pictures.
    """
    count = len(objects[0])
    fov = (taken.fov_deg if isinstance(taken, ViewRig) else None) or config.fov_deg
    directions = taken.directions if isinstance(taken, ViewBlend | ViewRig) else None
    if directions is not None and len(directions) != count:
        raise ValueError(f"views: expected the side of each of {count} pictures, got {len(directions)}")
    if directions is None:
        directions = tuple(ViewDirection(360 * view / count, config.pitch_deg) for view in range(count))
    views = tuple(OrbitView(direction.azimuth_deg, direction.elevation_deg, fov) for direction in directions)
    found = [
        colors(torch.stack([to_pixels(image, PICTURE) for image in own]), config.cells, config.side) for own in objects
    ]
    return CropViews(torch.stack(found).cpu(), (views,) * len(objects))


def block_guide(
    condition: ImageCondition, side: int, occupied: Callable[[Tensor], Sequence[Tensor]], device: torch.device
) -> CropGuide:
    """The condition of a structure's latent on a grid of `side` a side, all of whose cells are tokens.

    occupied: of a clean latent [B, C, side, side, side] the world points [N, 3] of each object, none where there is
    nothing yet."""
    count = condition.batch_size
    unknown = [ball().to(device)] * count
    known = torch.zeros(count, device=device)

    def sequences(around: Sequence[Tensor], known: Tensor) -> tuple[ProjectedSequences, ...]:
        return tuple(_blocks(condition, view, side, around, known) for view in range(condition.tokens(512).shape[1]))

    def follow(latent: Tensor) -> tuple[ProjectedSequences, ...]:
        found = occupied(latent)
        there = torch.tensor([float(len(points) > 0) for points in found], device=device)
        around = [points if len(points) else guess for points, guess in zip(found, unknown, strict=True)]
        return sequences(around, there)

    return CropGuide(
        sequences(unknown, known), condition.view_mode, condition.directions, condition.temperature, follow
    )


def crop_guide(condition: ImageCondition, image_size: int, coords: CoordSet, grids: Sequence[int]) -> CropGuide:
    """The condition of structured latents, whose tokens are the objects' own voxels coords [T]. grids: cells a side of
    each object's grid."""
    device, tokens, crop = coords.device, condition.tokens(image_size), condition.crop
    item = torch.repeat_interleave(torch.arange(len(grids)), torch.tensor(coords.lengths)).to(device)
    points = [Grid.cube(side).centers(v) for v, side in zip(coords.voxels.split(coords.lengths), grids, strict=True)]
    sequences = []
    for view in range(tokens.shape[1]):
        own = tokens[:, view].to(device).float()
        places = torch.cat([cropped(at, at, crop.views[index][view]) for index, at in enumerate(points)])
        maps = (own[:, whole_picture(own) :], crop.colors[:, view].to(device))
        sequences.append(_sequences(own, features(places, item, maps)))
    return CropGuide(tuple(sequences), condition.view_mode, condition.directions, condition.temperature)


def _blocks(
    condition: ImageCondition, view: int, side: int, around: Sequence[Tensor], known: Tensor
) -> ProjectedSequences:
    """The sequences of one view, whose crops the points `around` of each object fill."""
    own, crop = condition.tokens(512)[:, view].to(known.device).float(), condition.crop
    lengths = torch.tensor([len(points) for points in around])
    owner = torch.arange(len(around)).repeat_interleave(lengths).to(known.device)
    angles = torch.tensor([views[view].angles for views in crop.views], dtype=torch.float64)
    places = block_places(frames(torch.cat(list(around)), owner, angles), side)
    patches, cells = own[:, whole_picture(own) :], crop.colors[:, view].to(known.device)
    return _sequences(own, block_features(places, patches, cells, known))


def _sequences(tokens: Tensor, projected: Tensor) -> ProjectedSequences:
    return ProjectedSequences(tokens.flatten(0, 1), (tokens.shape[1],) * len(tokens), projected)
