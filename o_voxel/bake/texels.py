"""Texel sampling: rasterises an atlas in bands to points on the mesh, and averages sample values per texel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.exact_sums import precise
from ..material import TexturedMesh, UVMap
from ..ops.raster import rasterize

# Tolerance of UVs outside [0, 1], for rounding.
UV_SLACK = 1e-5
# A face that spans more tiles than this along u or v is taken on the first ones: a whole tile is among them.
MOST_TILES = 4
# Samples per band of rows: about 1 GiB of buffers on a GPU; fewer fit a CPU's caches better.
SAMPLES_A_BAND = {"cuda": 1 << 22}
SAMPLES_A_BAND_ELSEWHERE = 1 << 18


@dataclass(frozen=True, eq=False)
class Samples:
    """P points on a mesh, the samples of T texels.

    texels: indices row * resolution + column of the texels in the atlas: a slice of whole rows, or [T] int64.
    count: T.  side: samples along a texel's side.  resolution: texels per row.
    slot: [P] int64, unique index of the sample in the supersampled image of T side^2 samples, row by row.
    face: [P] int64.  weights: [P, 3] float32, barycentric.
    """

    texels: slice | Tensor
    count: int
    resolution: int
    side: int
    slot: Tensor
    face: Tensor
    weights: Tensor

    def at(self, corners: Tensor) -> Tensor:
        """Interpolates corner values `corners` [F, 3, K] at the samples: [P, K]."""
        return interpolate(corners[self.face], self.weights)

    def covered(self) -> Tensor:
        """Mask [T] bool of the texels with a sample."""
        return self.means(self.weights[:, :0], torch.ones_like(self.face, dtype=torch.bool))[1]

    def one_a_texel(self) -> Tensor:
        """Rows [R] int64 of the first sample of each texel that has one, in the order of the texels."""
        if self.side == 1:
            return torch.arange(len(self.slot), device=self.slot.device)
        row, column = self.slot // (self.resolution * self.side), self.slot % (self.resolution * self.side)
        texel = row // self.side * self.resolution + column // self.side
        first = torch.full((self.count,), len(texel), dtype=torch.int64, device=texel.device)
        first.scatter_reduce_(0, texel, torch.arange(len(texel), device=texel.device), "amin")
        return first[first < len(texel)]

    def means(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Per-texel means of `values` [P, K] where `valid` [P] bool: (mean [T, K], mask [T] bool, false if none)."""
        # The last column counts samples. Sums run in image order: deterministic.
        columns = torch.cat([values, values.new_ones(len(values), 1)], 1) * valid[:, None]
        sums = values.new_zeros(self.count * self.side**2, columns.shape[1]).index_copy_(0, self.slot, columns)
        if self.side > 1:
            sums = sums.view(-1, self.side, self.resolution, self.side, columns.shape[1]).sum(3).sum(1)
            sums = sums.reshape(self.count, -1)
        number = sums[:, -1]
        return sums[:, :-1] / number.clamp_min(1)[:, None], number > 0


def interpolate(corners: Tensor, weights: Tensor) -> Tensor:
    """Barycentric interpolation [P, K] of corner values [P, 3, K] with weights [P, 3]."""
    a, b, c = weights.unsqueeze(2).unbind(1)
    return corners[:, 0] * a + corners[:, 1] * b + corners[:, 2] * c


def band_starts(resolution: int, side: int, device: torch.device) -> range:
    """First rows of the bands of an atlas of `resolution` rows with `side`^2 samples per texel."""
    samples = SAMPLES_A_BAND.get(device.type, SAMPLES_A_BAND_ELSEWHERE)
    return range(0, resolution, max(1, min(resolution, samples // (resolution * side**2))))


def band_samples(uv_map: UVMap, resolution: int, side: int, start: int, *, backend: str) -> Samples:
    """Rasterises the band that starts at row `start`, one of `band_starts`; uv_map: uv [U, 2], faces [F, 3]."""
    rows = band_starts(resolution, side, uv_map.uv.device)
    end = min(start + rows.step, resolution)
    u, v = precise(uv_map.uv).unbind(1)
    # Rows count down from v = 1; the band fills the rasteriser's viewport.
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
    """One sample for each face without any whose centroid lies in an empty texel; None if there are none.

    seen: [F] bool, faces with a sample.  covered: [R * R] bool, texels with one. Without these samples, charts between
    texel centres would show their neighbours' colours. Faces without UV area are skipped.
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
    # Several faces in a texel: keep the lowest.
    texel, number = texel.unique(return_inverse=True)
    first = torch.full_like(texel, len(seen)).scatter_reduce_(0, number, face, "amin")
    weights = torch.full((len(texel), 3), 1 / 3, device=seen.device)
    return Samples(texel, len(texel), resolution, 1, torch.arange(len(texel), device=seen.device), first, weights)


def unit_square(mesh: TexturedMesh, rows: Tensor) -> tuple[UVMap, Tensor]:
    """The faces `rows` [R] int64 on the unit square, where coordinates outside it repeat: (uv map, face [T] int64).

    A face for each tile that a face of the mesh touches, MOST_TILES along each side at most, moved by whole numbers.
    face: its face in the mesh. If all lie in the unit square, T = R and nothing moves.
    """
    corners = mesh.uv.double()[mesh.uv_rows.long()[rows]]
    if not bool(((corners >= -UV_SLACK) & (corners <= 1 + UV_SLACK)).all()):
        # A face on the border of two tiles belongs to the one that its middle is in.
        low = (corners.amin(1) + UV_SLACK).floor()
        count = ((corners.amax(1) - UV_SLACK).ceil() - low).clamp(1, MOST_TILES).long()
        tiles = count[:, 0] * count[:, 1]
        of = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), tiles)
        number = torch.arange(len(of), device=of.device) - (tiles.cumsum(0) - tiles)[of]
        shift = torch.stack([number % count[of, 0], number // count[of, 0]], 1) + low[of]
        corners, rows = corners[of] - shift[:, None], rows[of]
    faces = torch.arange(3 * len(rows), device=rows.device).view(-1, 3)
    return UVMap(corners.reshape(-1, 2).float(), faces, faces.new_zeros(len(faces))), rows
