"""Pictures with their mattes, and the surface that a camera sees behind each of their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from math import radians, tan

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.checks import check_tensor
from ...core.color import to_bytes
from ...ops.nearest_texel import nearest_texel
from ...ops.raster import rasterize
from ...render.camera import Bounds, Camera, View
from ...values import Mesh

SOLID = 0.5  # matte from which a pixel belongs to the object
MARGIN = 0.06  # of the object's longer side, around it in a crop
# A step in depth between neighbouring pixels, in pixels' widths, that no surface in reach of the projection has.
STEP = 8.0
OUTLINE_SIDE = 192  # pixels a side where outlines are compared
LINE = (255, 120, 0)
FAR = 1e6  # pixels, where there is no border at all


@dataclass(frozen=True, eq=False)
class Picture:
    """A square picture of one object, row 0 on top.

    color: [N, N, 3] float32, sRGB in [0, 1], straight (not premultiplied).  matte: [N, N] float32, 1 on the object.
    """

    color: Tensor
    matte: Tensor

    def __post_init__(self) -> None:
        side = check_tensor(self.color, "Picture.color", (None, None, 3), torch.float32).shape[0]
        check_tensor(self.color, "Picture.color", (side, side, 3), torch.float32)
        check_tensor(self.matte, "Picture.matte", (side, side), torch.float32)
        if side < 8 or not bool((self.matte >= SOLID).any()):
            raise ValueError(f"Picture: expected an object on 8 pixels a side or more, got {side} and no object in it")

    @property
    def side(self) -> int:
        """Pixels along each side."""
        return self.color.shape[0]

    @classmethod
    def cropped(cls, color: Tensor, matte: Tensor | None = None, max_side: int = 2048) -> Picture:
        """Crops a square around the object, with a margin; larger crops are reduced to `max_side` pixels.

        color: [H, W, 3 or 4] uint8, or float in [0, 1]; a fourth channel is the matte.  matte: [H, W] of either kind, 1
        (255) on the object; it replaces the fourth channel.
        Raises ValueError without a matte, or where it is empty or everything.
        """
        color = color.float() / 255 if color.dtype == torch.uint8 else color.float()
        if color.ndim != 3 or color.shape[2] not in (3, 4):
            raise ValueError(f"picture: expected [H, W, 3 or 4], got {list(color.shape)}")
        if matte is None and color.shape[2] == 3:
            raise ValueError("picture: expected an alpha channel or a mask of the object, got neither")
        matte = color[..., 3] if matte is None else matte.float() / 255 if matte.dtype == torch.uint8 else matte.float()
        if matte.shape != color.shape[:2]:
            raise ValueError(f"mask: expected the picture's size {list(color.shape[:2])}, got {list(matte.shape)}")
        inside = matte >= SOLID
        if bool(inside.all()) or not bool(inside.any()):
            found = "everything" if bool(inside.all()) else "nothing"
            raise ValueError(f"mask: expected an object in front of something, got {found} as the object")
        rows, columns = (inside.any(dim).nonzero().flatten() for dim in (1, 0))
        (top, bottom), (left, right) = ((int(n[0]), int(n[-1]) + 1) for n in (rows, columns))
        side = max(8, round(max(bottom - top, right - left) * (1 + 2 * MARGIN)))
        y, x = (top + bottom - side) // 2, (left + right - side) // 2
        # Premultiplied where pixels are averaged, so that the background does not bleed in.
        layers = torch.cat([color[..., :3] * matte[..., None], color[..., :3], matte[..., None]], -1).permute(2, 0, 1)
        pad = (-x, x + side - layers.shape[2], -y, y + side - layers.shape[1])
        layers = F.pad(layers, pad)
        if side > max_side:
            layers = F.interpolate(layers[None], (max_side, max_side), mode="bilinear", antialias=True)[0]
        matte = layers[6].clamp(0, 1)
        straight = layers[:3] / matte.clamp_min(1e-3)
        color = torch.where(matte > 0.1, straight, layers[3:6]).clamp(0, 1)
        return cls(color.permute(1, 2, 0).contiguous(), matte.contiguous())

    def resized(self, side: int) -> Picture:
        """The picture at [side, side] pixels, averaged."""
        layers = torch.cat([self.color * self.matte[..., None], self.matte[..., None]], -1).permute(2, 0, 1)[None]
        small = F.interpolate(layers, (side, side), mode="bilinear", antialias=True)[0]
        color = (small[:3] / small[3:].clamp_min(1e-4)).clamp(0, 1)
        return Picture(color.permute(1, 2, 0).contiguous(), small[3].clamp(0, 1).contiguous())

    def to(self, device: torch.device | str) -> Picture:
        """The picture on `device`."""
        return Picture(self.color.to(device), self.matte.to(device))


@dataclass(frozen=True, eq=False)
class Seen:
    """What a camera sees behind the [N, N] pixels of a picture.

    face: [N, N] int64, -1 where empty.  bary: [N, N, 3].  depth: [N, N] along the line of sight, inf where empty.
    border: [N, N] pixels to the next outline, step in depth or edge of the matte.  spread: a pixel's width at 1.
    """

    view: View
    face: Tensor
    bary: Tensor
    depth: Tensor
    border: Tensor
    spread: float

    @classmethod
    def of(cls, mesh: Mesh, picture: Picture, camera: Camera) -> Seen:
        """Draws the depth of `mesh`, vertices [V, 3], from `camera`, at the picture's size."""
        side = picture.side
        view = camera.view(Bounds.around(mesh.vertices), (side, side))
        raster = rasterize(view.to_clip(mesh.vertices), mesh.faces, (side, side))
        face = raster.face.long()
        distance = view.to_eye(mesh.vertices.T)[2]
        corners = distance[mesh.faces.long()[face.clamp_min(0)]]
        depth = torch.where(face >= 0, (corners * raster.bary).sum(-1), torch.inf)
        spread = 2 * tan(radians(camera.fov_deg) / 2) / side
        edge = _steps(depth, spread) | _steps((picture.matte >= SOLID).float(), 0.01)
        return cls(view, face, raster.bary, depth, border_distance(edge), spread)

    def pixels(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where world points [P, 3] fall: (column, row) [2, P] in pixels from the top left corner, and depth [P]."""
        x, y, distance = self.view.to_eye(points.T)
        side, near = self.face.shape[0], distance.clamp_min(1e-6)
        place = torch.stack([x * self.view.scale[0], -y * self.view.scale[1]]) / near
        return (place + 1) * (side / 2), distance


def border_distance(edge: Tensor) -> Tensor:
    """Distance [H, W] float32 in pixels from each pixel's centre to the nearest one in the mask `edge` [H, W]."""
    nearest = nearest_texel(edge).long()
    width = edge.shape[1]
    row, column = (torch.arange(n, device=edge.device) for n in edge.shape)
    away = torch.hypot((nearest // width - row[:, None]).float(), (nearest % width - column).float())
    return torch.where(nearest < 0, FAR, away)


def overlay(mesh: Mesh, picture: Picture, camera: Camera, side: int = 512) -> Tensor:
    """The picture [side, side, 3] uint8 with the outline of `mesh` as `camera` sees it, to judge a fit by eye."""
    small = picture.resized(side)
    line = border_distance(_steps(_covered(mesh, camera, side).float(), 0.01)) < max(1.0, side / 400)
    paper = small.color * small.matte[..., None] + 0.35 * (1 - small.matte[..., None])
    return torch.where(line[..., None], small.color.new_tensor(LINE).byte(), to_bytes(paper))


def outlines_apart(mesh: Mesh, picture: Picture, camera: Camera) -> float:
    """Mean distance between the outlines of the matte and of `mesh` as `camera` sees it, holes too, as a share of the
    picture's side: over the pixels of each, to the nearest of the other. 1 where the mesh is out of the picture."""
    matte, covered = picture.resized(OUTLINE_SIDE).matte >= SOLID, _covered(mesh, camera, OUTLINE_SIDE)
    first, second = _outline(matte), _outline(covered)
    if not bool(second.any()):
        return 1.0
    away = torch.cat([border_distance(second)[first], border_distance(first)[second]])
    return min(1.0, float(away.mean()) / OUTLINE_SIDE)


def _covered(mesh: Mesh, camera: Camera, side: int) -> Tensor:
    """Mask [side, side] of where `camera` sees the mesh."""
    view = camera.view(Bounds.around(mesh.vertices), (side, side))
    return rasterize(view.to_clip(mesh.vertices), mesh.faces, (side, side)).face >= 0


def _outline(mask: Tensor) -> Tensor:
    """The pixels [N, N] beside and before a change of the mask."""
    edge = torch.zeros_like(mask)
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    return edge


def _steps(values: Tensor, spread: float) -> Tensor:
    """Mask [H, W] of the pixels beside a step in `values` [H, W] of more than STEP times `spread` per unit of value."""
    edge = torch.zeros_like(values, dtype=torch.bool)
    for axis in (0, 1):
        a, b = values.narrow(axis, 0, values.shape[axis] - 1), values.narrow(axis, 1, values.shape[axis] - 1)
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        step = (high > low) & ((high - low > STEP * spread * low) | ~torch.isfinite(high)) & torch.isfinite(low)
        edge.narrow(axis, 0, values.shape[axis] - 1).logical_or_(step)
        edge.narrow(axis, 1, values.shape[axis] - 1).logical_or_(step)
    return edge
