"""Where each texel of an atlas lies on the mesh: samples band by band, and their means texel by texel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.exact_sums import precise
from ..material import UVMap
from ..ops.raster import rasterize

# A band of rows is baked at once: all that is held for it on a GPU is about 1 GiB; less fits a CPU's caches better.
SAMPLES_A_BAND = {"cuda": 1 << 22}
SAMPLES_A_BAND_ELSEWHERE = 1 << 19


@dataclass(frozen=True, eq=False)
class Samples:
    """Places on a mesh that texels see.

    texels: the T texels by number, row * resolution + column of the atlas: a slice of whole rows, or [T] int64.
    count: T.  side: samples along a texel's side.  resolution: texels a row.
    slot: [P] int64, place of the sample in the picture of T side^2 of them, row by row; all different.
    face: [P] int64.  weights: [P, 3] float32 of the face's corners.
    """

    texels: slice | Tensor
    count: int
    resolution: int
    side: int
    slot: Tensor
    face: Tensor
    weights: Tensor

    def at(self, corners: Tensor) -> Tensor:
        """`corners` [F, 3, K], values at the faces' corners, between them at the samples [P, K]."""
        return interpolate(corners[self.face], self.weights)

    def covered(self) -> Tensor:
        """Whether each texel has a sample, [T] bool."""
        return self.means(self.weights[:, :0], torch.ones_like(self.face, dtype=torch.bool))[1]

    def means(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(mean [T, K], whether there is one [T] bool) of the `valid` [P] bool of `values` [P, K], by texel."""
        # How many there are is one more column. The order of the sums is that of the picture, the same each time.
        columns = torch.cat([values, values.new_ones(len(values), 1)], 1) * valid[:, None]
        sums = values.new_zeros(self.count * self.side**2, columns.shape[1]).index_copy_(0, self.slot, columns)
        if self.side > 1:
            sums = sums.view(-1, self.side, self.resolution, self.side, columns.shape[1]).sum(3).sum(1)
            sums = sums.reshape(self.count, -1)
        number = sums[:, -1]
        return sums[:, :-1] / number.clamp_min(1)[:, None], number > 0


def interpolate(corners: Tensor, weights: Tensor) -> Tensor:
    """[P, K] from values at three corners [P, 3, K] and their weights [P, 3]."""
    a, b, c = weights.unsqueeze(2).unbind(1)
    return corners[:, 0] * a + corners[:, 1] * b + corners[:, 2] * c


def band_starts(resolution: int, side: int, device: torch.device) -> range:
    """The first row of each band."""
    samples = SAMPLES_A_BAND.get(device.type, SAMPLES_A_BAND_ELSEWHERE)
    return range(0, resolution, max(1, min(resolution, samples // (resolution * side**2))))


def band_samples(uv_map: UVMap, resolution: int, side: int, start: int, *, backend: str) -> Samples:
    """The samples of the band that starts at row `start`, one of `band_starts`."""
    rows = band_starts(resolution, side, uv_map.uv.device)
    end = min(start + rows.step, resolution)
    u, v = precise(uv_map.uv).unbind(1)
    # Rows count down from v = 1; the band fills the rasteriser's picture.
    middle, span = 1 - (start + end) / (2 * resolution), (end - start) / resolution
    x, y = 2 * u - 1, 2 * (v - middle) / span
    clip = torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], 1).to(torch.float32)
    raster = rasterize(clip, uv_map.faces, ((end - start) * side, resolution * side), backend=backend)
    face = raster.face.flatten()
    slot = (face >= 0).nonzero().squeeze(1)
    texels = slice(start * resolution, end * resolution)
    weights = raster.bary.view(-1, 3)[slot]
    return Samples(texels, (end - start) * resolution, resolution, side, slot, face[slot].long(), weights)


def lone_samples(uv_map: UVMap, resolution: int, seen: Tensor, covered: Tensor) -> Samples | None:
    """One sample for each face that is too small to have any, where its middle's texel is empty; None without such.

    seen: [F] bool, faces with a sample.  covered: [R * R] bool, texels with one. Without it a chart between the texels'
    centres would show what is next to it. Faces without area in the texture are left out.
    """
    corners = precise(uv_map.uv)[uv_map.faces.long()]
    (ax, ay), (bx, by) = (corners[:, 1] - corners[:, 0]).unbind(1), (corners[:, 2] - corners[:, 0]).unbind(1)
    face = (~seen & (ax * by != ay * bx)).nonzero().squeeze(1)
    middle = corners[face].mean(1)
    column, row = (torch.stack([middle[:, 0], 1 - middle[:, 1]]) * resolution).long().clamp(0, resolution - 1)
    texel = row * resolution + column
    empty = ~covered[texel]
    face, texel = face[empty], texel[empty]
    if len(face) == 0:
        return None
    # Of several faces in a texel the lowest.
    texel, number = texel.unique(return_inverse=True)
    first = torch.full_like(texel, len(seen)).scatter_reduce_(0, number, face, "amin")
    weights = torch.full((len(texel), 3), 1 / 3, device=seen.device)
    return Samples(texel, len(texel), resolution, 1, torch.arange(len(texel), device=seen.device), first, weights)
