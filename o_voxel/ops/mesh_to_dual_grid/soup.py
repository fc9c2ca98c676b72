"""What every backend starts from: the mesh as loose triangles and open edges, and its cut into slabs along x."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...grid import Grid, Vector3
from ...values import Mesh

TRIANGLES_A_STEP = 1 << 20
# Rounding can put a crossing just outside its triangle's extent; a slab takes triangles this much beyond it.
MARGIN_VOXELS = 1e-6
MIN_REGULARIZATION = 1e-6


@dataclass(frozen=True)
class QefWeights:
    """What a voxel's vertex minimises: a sum of squared distances, each term with its weight.

    Always in the sum with weight 1: the plane of each triangle at each crossing of a grid edge of the voxel.
    face: planes of the triangles that overlap the voxel (the original knows 0 and 1 only).
    boundary: lines through the open edges in the voxel.
    regularization: distance to the mean crossing, times the number of crossings; below 1e-6 it acts as 1e-6, since a
    flat voxel has no single best point without it. Each is from 0 to 1000; the defaults are the training data's.
    """

    face: float = 1.0
    boundary: float = 0.2
    regularization: float = 0.01

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value <= 1000.0:
                raise ValueError(f"QefWeights.{name}: expected 0 to 1000, got {value}")


@dataclass(frozen=True, eq=False)
class Soup:
    """A mesh in the frames the backends work in. F triangles, E open edges.

    corners: [F, 3, 3] and segments: [E, 2, 3] float32, world units from the grid's origin.
    normals: [F, 3] float64, unit normal times voxel size over the largest voxel size, 0 for a triangle without area;
    offsets: [F] float64; a point u in voxels is on the triangle's plane when normal . u = offset.
    shape: voxels along each axis. voxel_size: float32 values.
    """

    corners: Tensor
    normals: Tensor
    offsets: Tensor
    segments: Tensor
    shape: tuple[int, int, int]
    voxel_size: Vector3

    @property
    def stretch(self) -> Vector3:
        """Voxel size over the largest."""
        return tuple(s / max(self.voxel_size) for s in self.voxel_size)


@dataclass(frozen=True, eq=False)
class Slab:
    """Layers low to high - 1 along x, and the rows of the soup's triangles and segments that may touch them."""

    low: int
    high: int
    triangles: Tensor
    segments: Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """A slab's voxels in the order of their coordinates: the fields of a DualGrid."""

    coords: Tensor
    dual: Tensor
    intersected: Tensor


def triangle_soup(mesh: Mesh, grid: Grid) -> Soup:
    """The mesh as the backends want it. Raises ValueError for face indices out of range or vertices not finite."""
    faces = mesh.faces.to(torch.int64)
    vertices = mesh.vertices - mesh.vertices.new_tensor(grid.origin)
    if len(faces) and not 0 <= int(faces.min()) <= int(faces.max()) < len(vertices):
        raise ValueError(f"mesh.faces: expected indices in [0, {len(vertices)}), got {int(faces.min())} to {int(faces.max())}")
    corners = vertices[faces]
    if not bool(torch.isfinite(corners).all()):
        raise ValueError("mesh.vertices: expected finite positions in the faces, got nan or inf")
    size = tuple(torch.tensor(grid.voxel_size, dtype=torch.float32).tolist())
    planes = [_planes(step, size) for step in corners.split(TRIANGLES_A_STEP)]
    normals, offsets = (torch.cat(column) for column in zip(*planes, strict=True))
    return Soup(corners, normals, offsets, vertices[_open_edges(faces, len(vertices))], grid.shape, size)


def _planes(corners: Tensor, voxel_size: Vector3) -> tuple[Tensor, Tensor]:
    """(normals [F, 3], offsets [F]) of `corners` [F, 3, 3], as Soup has them."""
    corners = corners.to(torch.float64)
    sides = corners[:, 1:] - corners[:, :2]
    normals = torch.linalg.cross(sides[:, 0], sides[:, 1])
    length = normals.square().sum(dim=1, keepdim=True).sqrt()
    size = normals.new_tensor(voxel_size)
    normals = torch.where(length > 0, normals / length, 0.0) * (size / size.max())
    return normals, (normals * (corners[:, 0] / size)).sum(dim=1)


def _open_edges(faces: Tensor, n_vertices: int) -> Tensor:
    """Vertex pairs [E, 2] of the edges that occur once in `faces` [F, 3] int64."""
    ends = torch.stack((faces, faces.roll(-1, dims=1)), dim=-1).reshape(-1, 2)
    keys = (ends.amin(dim=1) * n_vertices + ends.amax(dim=1)).sort().values
    differs = torch.ones(len(keys) + 1, dtype=torch.bool, device=keys.device)
    differs[1:-1] = keys[1:] != keys[:-1]
    single = keys[differs[1:] & differs[:-1]]
    return torch.stack((single // max(n_vertices, 1), single % max(n_vertices, 1)), dim=1)


def cut_slabs(soup: Soup, layers: int) -> list[Slab]:
    """The non-empty slabs of `layers` layers each, from low to high x."""
    n_slabs = -(-soup.shape[0] // layers)
    triangles = _members(soup.corners, soup, layers, n_slabs)
    segments = _members(soup.segments, soup, layers, n_slabs)
    return [
        Slab(s * layers, min((s + 1) * layers, soup.shape[0]), triangles[s], segments[s])
        for s in range(n_slabs)
        if len(triangles[s])
    ]


def _members(points: Tensor, soup: Soup, layers: int, n_slabs: int) -> list[Tensor]:
    """For each slab the rows of `points` [N, P, 3] float32 whose box touches it and the grid."""
    size = torch.tensor(soup.voxel_size, dtype=torch.float64, device=points.device)
    shape = torch.tensor(soup.shape, device=points.device)
    if len(points) == 0:
        return [torch.zeros(0, dtype=torch.int64, device=points.device)] * n_slabs
    low = points.amin(dim=1) / size - MARGIN_VOXELS
    high = points.amax(dim=1) / size + MARGIN_VOXELS
    rows = ((high >= 0) & (low < shape)).all(dim=1).nonzero()[:, 0]
    first = low[rows, 0].clamp(min=0).to(torch.int64) // layers
    last = high[rows, 0].clamp(max=soup.shape[0] - 1).to(torch.int64) // layers
    owner, step = expand(last - first + 1)
    slab = first[owner] + step
    rows = rows[owner][slab.sort(stable=True).indices]
    return list(rows.split(torch.bincount(slab, minlength=n_slabs).tolist()))


def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For `counts` [N] int64, one entry per unit: (its row [M], its place among the row's [M]), both int64."""
    owner = torch.repeat_interleave(counts)
    return owner, torch.arange(len(owner), device=counts.device) - (counts.cumsum(0) - counts)[owner]
