"""The visual hull of mattes, pixel by pixel, and the crops of the pictures that make it explain the mattes best.

A point belongs to the hull if it falls inside every matte (Laurentini 1994). It is evaluated along the rays of a
matte's own pixels (Matusik et al. 2000), in signed distances to the outlines: so it has no voxels, and a derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, log, radians, sin, tan

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...o_voxel.bake.projection.picture import border_distance
from .views import ViewDirection

SIDE = 128  # pixels of a matte's longer side: at 64 slats and wings are lost in one view and stay in another
SOLID = 0.5  # of a matte's pixel that belongs to the object
REACH = 0.75  # of a ray on both sides of the object's middle, world units; the object's longest side is about 1
CLOSER = 5  # samples around the best one of a ray
TOLERANCE = 0.012  # world units: how far outside the hull a pixel still counts as explained
SATURATION = 0.1  # per tolerance: pixels that are far outside pull less
HALF = 0.5  # mean half side of the pictures, world units
FIRST_STEP, LAST_STEP = 0.02, 0.001


@dataclass(frozen=True, eq=False)
class Mattes:
    """Mattes of V views, then the same mirrored: K = 2 V of them, each SIDE pixels along its longer side.

    masks: [K, SIDE, SIDE] bool.  distances: [K, 2 SIDE, 2 SIDE] float32, signed, positive inside, of the mask with a
    margin of half a side around it, in half sides.  boxes: [K, 2] half width and half height, in half sides.
    """

    masks: Tensor
    distances: Tensor
    boxes: np.ndarray

    @classmethod
    def of(cls, mattes: Sequence[Tensor]) -> Mattes:
        """mattes: each [H, W], bool or 0 to 1, of any size, with an object. Raises ValueError for an empty one."""
        upright = torch.stack([_cropped(matte, number) for number, matte in enumerate(mattes)])
        masks = torch.cat([upright, upright.flip(2)])
        margin = (SIDE // 2,) * 4
        distances = [border_distance(~mask) - border_distance(mask) for mask in F.pad(masks, margin)]
        boxes = torch.stack([masks.any(1).sum(1), masks.any(2).sum(1)], 1) / SIDE
        return cls(masks, torch.stack(distances) * (2 / SIDE), boxes.double().numpy())

    def pixels(self, count: int) -> Tensor:
        """[K, count, 2] evenly chosen pixels of each mask, as places from -1 to 1, y up."""
        chosen = []
        for mask in self.masks:
            place = mask.nonzero()
            place = place[torch.linspace(0, len(place) - 1, count).round().long()]
            chosen.append(_places(place))
        return torch.stack(chosen)


@dataclass(frozen=True, eq=False)
class Rigs:
    """R arrangements of V views. rows: [R, V] int64, which of the mattes each view shows.  axes: [R, V, 3, 3] float32,
    of each camera: right, up, and towards it.  distance: of the cameras from the origin, world units."""

    rows: Tensor
    axes: Tensor
    distance: float

    @classmethod
    def of(cls, rigs: Sequence[tuple[Sequence[int], Sequence[ViewDirection]]], fov_deg: float) -> Rigs:
        """The (rows, directions) of each; cameras from which the unit cube's width fills fov_deg."""
        axes = [[_axes(direction) for direction in directions] for _, directions in rigs]
        rows = torch.tensor([list(rows) for rows, _ in rigs])
        return cls(rows, torch.tensor(axes, dtype=torch.float32), 0.5 / tan(radians(fov_deg) / 2))

    def chosen(self, index: Sequence[int]) -> Rigs:
        """Some of them."""
        return Rigs(self.rows[list(index)], self.axes[list(index)], self.distance)


@dataclass(frozen=True, eq=False)
class Crops:
    """Where the pictures were cut. scales: [R, V] log of half a side, world units at the origin's depth.  offsets:
    [R, V, 2] middle, world units right and up."""

    scales: Tensor
    offsets: Tensor

    @classmethod
    def first(cls, rigs: Rigs, mattes: Mattes) -> Crops:
        """Crops by the mattes' widths and heights, as of a box seen without perspective."""
        scales = np.stack(
            [
                _box_scales(mattes.boxes[rows], axes)
                for rows, axes in zip(rigs.rows, rigs.axes.double().numpy(), strict=True)
            ]
        )
        return cls(torch.from_numpy(scales).float(), torch.zeros(*rigs.rows.shape, 2))

    def chosen(self, index: Sequence[int]) -> Crops:
        """Those of some rigs."""
        return Crops(self.scales[list(index)], self.offsets[list(index)])


def outside(rigs: Rigs, crops: Crops, mattes: Mattes, places: Sequence[Tensor], depths: int) -> list[Tensor]:
    """How far each pixel of each view lies outside the hull of the other views: V tensors [R, Q] float32, world units.

    places: for each view [R, Q, 2], from -1 to 1, y up.  depths: samples along a ray, then CLOSER around the best.
    """
    reach = min(REACH, rigs.distance - 0.2)  # a wide lens is near: not behind it
    found = []
    for view, place in enumerate(places):
        along, step = torch.linspace(-REACH, reach, depths).expand(*place.shape[:2], -1), 2 * REACH / (depths - 1)
        with torch.no_grad():
            best = along.gather(2, _inside(rigs, crops, mattes, (view, place, along)).argmax(2, keepdim=True))
        along = (best + step * torch.linspace(-1, 1, CLOSER)).clamp_max(reach)
        found.append((-_inside(rigs, crops, mattes, (view, place, along)).amax(-1)).clamp_min(0))
    return found


def _inside(rigs: Rigs, crops: Crops, mattes: Mattes, ray: tuple[int, Tensor, Tensor]) -> Tensor:
    """How far points are inside the mattes of all other views: [R, Q, D] float32, world units. ray: the view, the
    places [R, Q, 2] of its pixels, and how far towards the camera the points are, [R, Q, D]."""
    view, place, along = ray
    half = crops.scales.exp()[..., None, None]
    inside: Tensor | None = None
    plane = crops.offsets[:, view, None] + half[:, view] * place
    own = plane[:, :, None] * (1 - along / rigs.distance)[..., None]  # [R, Q, D, 2]
    for other in range(rigs.rows.shape[1]):
        if other == view:
            continue
        turn = (rigs.axes[:, other] @ rigs.axes[:, view].transpose(1, 2))[:, :, :, None, None]
        x, y, depth = (
            (turn[:, k, 0] * own[..., 0] + turn[:, k, 1] * own[..., 1] + turn[:, k, 2] * along) for k in range(3)
        )
        nearer = 1 / (1 - depth / rigs.distance).clamp_min(0.05)
        right, up = crops.offsets[:, other, :, None, None].unbind(1)
        # The margin around a matte doubles its picture.
        grid = torch.stack([x * nearer - right, up - y * nearer], -1) / (2 * half[:, other, None])
        layers = mattes.distances[rigs.rows[:, other], None]
        read = F.grid_sample(layers, grid, padding_mode="border", align_corners=False)[:, 0]
        beyond = (grid.detach().abs() - 1).clamp_min(0).sum(-1)
        read = (read - 2 * beyond) * half[:, other]
        inside = read if inside is None else torch.minimum(inside, read)
    assert inside is not None  # there are two views or more
    return inside


def fit_crops(rigs: Rigs, crops: Crops, mattes: Mattes, work: tuple[int, int, int]) -> tuple[Crops, Tensor]:
    """Moves the crops so that the hull explains the mattes best; returns them with the loss [R] of each rig: the mean
    of the pixels' distances outside the hull in TOLERANCE, saturated.

    work: pixels a view, samples a ray, steps of Adam (Kingma and Ba 2015). Deterministic.
    """
    pixels, depths, steps = work
    chosen = mattes.pixels(pixels)
    places = [chosen[rows] for rows in rigs.rows.T]
    scales, offsets = (value.clone().requires_grad_(True) for value in (crops.scales, crops.offsets))
    optimizer = torch.optim.Adam([scales, offsets], betas=(0.8, 0.95))
    least, best = torch.full((len(rigs.rows),), torch.inf), crops
    for step in range(steps + 1):
        apart = torch.stack(outside(rigs, Crops(scales, offsets), mattes, places, depths), 1) / TOLERANCE
        loss = (apart / (1 + SATURATION * apart)).mean((1, 2))
        with torch.no_grad():
            better = loss < least
            least = torch.where(better, loss, least)
            best = Crops(
                torch.where(better[:, None], scales, best.scales),
                torch.where(better[:, None, None], offsets, best.offsets),
            )
        if step == steps:
            break
        optimizer.param_groups[0]["lr"] = LAST_STEP + (FIRST_STEP - LAST_STEP) * (1 - step / steps)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        with torch.no_grad():  # all sizes together are free
            scales += log(HALF) - scales.mean(1, keepdim=True)
    return best, least


def explained(rigs: Rigs, crops: Crops, mattes: Mattes, depths: int = 40) -> list[Tensor]:
    """For the only rig: of each view the pixels [SIDE, SIDE] bool of its matte that the hull explains."""
    shown = []
    masks = mattes.masks[rigs.rows[0]]
    every = torch.ones(SIDE, SIDE, dtype=torch.bool).nonzero()
    places = _places(every)[None]
    for mask, apart in zip(masks, outside(rigs, crops, mattes, [places] * len(masks), depths), strict=True):
        shown.append(mask & (apart[0] <= TOLERANCE).view(SIDE, SIDE))
    return shown


def _places(pixels: Tensor) -> Tensor:
    """Row and column [P, 2] int64 as x and y from -1 to 1, y up, of the pixels' middles."""
    row, column = ((pixels + 0.5) * (2 / SIDE)).unbind(1)
    return torch.stack([column - 1, 1 - row], 1)


def _cropped(matte: Tensor, number: int) -> Tensor:
    """[SIDE, SIDE] bool: the object's box, centred, its longer side over all pixels."""
    matte = matte.detach().to("cpu", torch.float32)
    inside = matte >= SOLID
    if matte.ndim != 2 or not bool(inside.any()):
        raise ValueError(f"matte {number + 1}: expected [H, W] with an object, got {list(matte.shape)} and none in it")
    rows, columns = (inside.any(dim).nonzero().flatten() for dim in (1, 0))
    matte = matte[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    high, wide = (max(matte.shape) - n for n in matte.shape)
    matte = F.pad(matte, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
    small = F.interpolate(matte[None, None], (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0]
    # Thin parts that averaging lost would leave a view without its outline.
    return small >= min(SOLID, 0.9 * float(small.max()))


def _axes(direction: ViewDirection) -> list[tuple[float, float, float]]:
    a, e = radians(direction.azimuth_deg), radians(direction.elevation_deg)
    return [(cos(a), sin(a), 0.0), (-sin(a) * sin(e), cos(a) * sin(e), cos(e)), direction.vector]


def _box_scales(boxes: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Log half sides [V] of pictures with boxes [V, 2] from cameras [V, 3, 3]: of the box in space that fits best."""
    from scipy.optimize import least_squares

    def sizes(extents: np.ndarray) -> np.ndarray:
        return np.log(np.abs(axes[:, :2]) @ np.exp(extents)) - np.log(2 * boxes)

    def rest(extents: np.ndarray) -> np.ndarray:
        size = sizes(extents)
        return np.append(size[:, 0] - size[:, 1], 0.1 * extents)

    scales = sizes(least_squares(rest, np.zeros(3)).x).mean(1)
    return scales - scales.mean() + log(HALF)
