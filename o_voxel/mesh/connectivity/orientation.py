"""Which way out is: by the volume that a component encloses, or by the side of it that is seen from outside."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.exact_sums import Groups, precise
from ...core.vectors import dot, length
from ...ops.raster import rasterize
from .topology import area_vectors

# |volume| / area^1.5 is 0.094 for a sphere. A closed component's volume counts whatever it is; that of an open one,
# about its own middle, counts once the sheet is clearly bent.
CLOSED_FLATNESS, OPEN_FLATNESS = 1e-12, 1e-2

VIEW_PIXELS = 512
VIEWS = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if 0 < abs(x) + abs(y) + abs(z) != 2]


def by_volume(vertices: Tensor, faces: Tensor, label: Tensor, flip: Tensor, boundary: Tensor) -> Tensor:
    """Which faces [F] bool to turn so that each component encloses a positive volume.

    label [F] int64, flip [F] bool: components and the faces to turn for a consistent winding. boundary [F] bool: faces
    on a boundary. A flat open component keeps the winding that most of its faces have.
    """
    return enclosing(vertices, faces, label, flip, boundary)[0]


def enclosing(vertices: Tensor, faces: Tensor, label: Tensor, flip: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
    """`by_volume`, and whether it is the volume [F] bool, rather than how most faces lie, that tells a face's front."""
    groups = Groups.of_labels(label)
    vector = area_vectors(vertices, faces)
    a, b, c = (precise(vertices[faces[:, k]]) for k in range(3))
    center, size = (a + b + c) / 3, length(vector)[:, None]
    sums = groups.sums(torch.cat([center * size, size], 1))
    tiny = torch.finfo(sums.dtype).tiny
    middle = sums[:, :3] / sums[:, 3:].clamp_min(tiny)
    turned = torch.where(flip, -1, 1)
    share = dot(center - middle[groups.number], vector)[:, None] / 3 * turned[:, None]
    volume = groups.sums(share)[:, 0]
    open_end = torch.zeros(groups.count, dtype=torch.bool, device=label.device)
    open_end[groups.number[boundary]] = True
    flatness = volume.abs() / sums[:, 3].pow(1.5).clamp_min(tiny)
    sure = flatness > torch.where(open_end, OPEN_FLATNESS, CLOSED_FLATNESS)
    votes = groups.totals(turned[:, None])[:, 0]
    inward = torch.where(sure, volume < 0, votes < 0)
    return flip ^ inward[groups.number], sure[groups.number]


def by_views(vertices: Tensor, faces: Tensor, label: Tensor, flip: Tensor, boundary: Tensor) -> Tensor:
    """As `by_volume`, by the pixels of 14 pictures from outside that see one side or the other of each component.

    What no picture sees is turned by its volume.
    """
    turned = by_volume(vertices, faces, label, flip, boundary)
    if len(faces) == 0:
        return turned
    groups = Groups.of_labels(label)
    votes = torch.zeros(groups.count, 1, dtype=torch.int64, device=label.device)
    for view in VIEWS:
        front, pixels = _seen(vertices, faces, view)
        facing = torch.where(flip, -1, 1) * front * pixels
        votes += groups.totals(facing[:, None])
    votes = votes[:, 0]
    return torch.where((votes == 0)[groups.number], turned, flip ^ (votes < 0)[groups.number])


def _seen(vertices: Tensor, faces: Tensor, view: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """(1 or -1 as its front or back is seen, pixels that see it), each [F] int64, looking at the mesh from `view`."""
    towards = torch.tensor(view, dtype=torch.float64)
    towards = towards / towards.norm()
    across = torch.linalg.cross(torch.eye(3, dtype=torch.float64)[int(towards.abs().argmin())], towards)
    across = across / across.norm()
    frame = torch.stack([across, torch.linalg.cross(towards, across), -towards], 1)
    points = precise(vertices) @ frame.to(precise(vertices))
    low, high = points.amin(0), points.amax(0)
    points = (points - (low + high) / 2) / ((high - low).amax() / 2).clamp_min(torch.finfo(torch.float32).tiny) * 0.99
    clip = torch.cat([points, torch.ones_like(points[:, :1])], 1).to(torch.float32)
    face = rasterize(clip, faces, (VIEW_PIXELS, VIEW_PIXELS)).face.flatten()
    pixels = torch.bincount(face[face >= 0].to(torch.int64), minlength=len(faces))
    normal = area_vectors(vertices, faces) @ towards.to(precise(vertices))
    return torch.where(normal < 0, -1, 1), pixels
