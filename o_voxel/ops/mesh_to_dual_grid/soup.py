"""Input of every backend: the mesh as triangle soup and open edges, and its partition into slabs along x."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.grid import Grid, Vector3
from ...values import Mesh

TRIANGLES_A_STEP = 1 << 20
# Rounding can put a crossing just outside its triangle's extent; slabs select triangles with this margin.
MARGIN_VOXELS = 1e-6
MIN_REGULARIZATION = 1e-6


@dataclass(frozen=True)
class QefWeights:
    """Weights of the quadratic error function (QEF), a sum of squared distances, that a voxel's dual vertex minimises.

    Fixed weight 1: the plane of each triangle at each crossing of a grid edge of the voxel.
    face: planes of the triangles that overlap the voxel (the original has 0 and 1 only).
    boundary: lines through the open edges in the voxel.
    regularization: distance to the mean crossing, times the number of crossings; at least 1e-6 is used, since a flat
    voxel has no unique minimum without it. Each is from 0 to 1000; the defaults are the training data's.
    """

    face: float = 1.0
    boundary: float = 0.2
    regularization: float = 0.01

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0.0 <= value <= 1000.0:
                raise ValueError(f"QefWeights.{name}: expected 0 to 1000, got {value}")


@dataclass(frozen=True, eq=False)
class OpenEdges:
    """Lines through the edges of exactly one triangle, [E] of them, in voxels from the grid's origin, float64.

    start: [E, 3]. way: [E, 3], from the start to the end. matrix: [E, 3, 3]; the squared distance of u to the line,
    in units of the largest voxel size, is (u - start)^T matrix (u - start).
    """

    start: Tensor
    way: Tensor
    matrix: Tensor


@dataclass(frozen=True, eq=False)
class Soup:
    """A mesh in the coordinate frames of the backends.

    corners: [F, 3, 3] float32, world units from the grid's origin.
    normals: [F, 3] float64, unit normal times voxel size over the largest voxel size, 0 for a degenerate triangle;
    offsets: [F] float64; a point u in voxels is on the triangle's plane when normal . u = offset.
    shape: voxels along each axis. voxel_size: world units, float32 values.
    """

    corners: Tensor
    normals: Tensor
    offsets: Tensor
    edges: OpenEdges
    shape: tuple[int, int, int]
    voxel_size: Vector3

    @property
    def stretch(self) -> Vector3:
        """Voxel size over the largest voxel size, by axis."""
        return _stretch(self.voxel_size)


@dataclass(frozen=True, eq=False)
class Slab:
    """Layers low to high - 1 along x, and the rows [T], [E] int64 of triangles and open edges that may touch them."""

    low: int
    high: int
    triangles: Tensor
    edges: Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """A slab's voxels in coordinate order: coords [N, 3] int32, dual [N, 3] float32, intersected [N, 3] bool."""

    coords: Tensor
    dual: Tensor
    intersected: Tensor


def triangle_soup(mesh: Mesh, grid: Grid) -> Soup:
    """Converts `mesh` (vertices [V, 3] float32, faces [F, 3] int) for the backends.

    Raises ValueError for face indices out of range or positions not finite.
    """
    faces = mesh.faces.to(torch.int64)
    vertices = mesh.vertices - mesh.vertices.new_tensor(grid.origin)
    if len(faces):
        low, high = int(faces.min()), int(faces.max())
        if low < 0 or high >= len(vertices):
            raise ValueError(f"mesh.faces: expected indices in [0, {len(vertices)}), got {low} to {high}")
    corners = vertices[faces]
    if not bool(torch.isfinite(corners).all()):
        raise ValueError("mesh.vertices: expected finite positions at the faces' corners, got nan or infinity")
    size = tuple(torch.tensor(grid.voxel_size, dtype=torch.float32).tolist())
    planes = [_planes(step, size) for step in corners.split(TRIANGLES_A_STEP)]
    normals, offsets = (torch.cat(column) for column in zip(*planes, strict=True))
    edges = _lines(vertices[_open_edges(faces, len(vertices))], size)
    return Soup(corners, normals, offsets, edges, grid.shape, size)


def _stretch(voxel_size: Vector3) -> Vector3:
    x, y, z = (s / max(voxel_size) for s in voxel_size)
    return x, y, z


def _planes(corners: Tensor, voxel_size: Vector3) -> tuple[Tensor, Tensor]:
    """Returns (normals [F, 3], offsets [F]) of `corners` [F, 3, 3], as in Soup."""
    corners = corners.to(torch.float64)
    sides = corners[:, 1:] - corners[:, :2]
    normals = torch.linalg.cross(sides[:, 0], sides[:, 1])
    length = normals.square().sum(dim=1, keepdim=True).sqrt()
    normals = torch.where(length > 0, normals / length, 0.0) * normals.new_tensor(_stretch(voxel_size))
    return normals, (normals * (corners[:, 0] / normals.new_tensor(voxel_size))).sum(dim=1)


def _open_edges(faces: Tensor, n_vertices: int) -> Tensor:
    """Returns vertex pairs [E, 2] of the edges that occur once in `faces` [F, 3] int64."""
    ends = torch.stack((faces, faces.roll(-1, dims=1)), dim=-1).reshape(-1, 2)
    keys = (ends.amin(dim=1) * n_vertices + ends.amax(dim=1)).sort().values
    differs = torch.ones(len(keys) + 1, dtype=torch.bool, device=keys.device)
    differs[1:-1] = keys[1:] != keys[:-1]
    single = keys[differs[1:] & differs[:-1]]
    return torch.stack((single // max(n_vertices, 1), single % max(n_vertices, 1)), dim=1)


def _lines(ends: Tensor, voxel_size: Vector3) -> OpenEdges:
    """Returns the lines through `ends` [E, 2, 3] float32, without those of zero length.

    matrix = stretch (I - d d^T) stretch, with d the unit direction.
    """
    ends = ends[(ends[:, 0] != ends[:, 1]).any(dim=1)].to(torch.float64)
    stretch = ends.new_tensor(_stretch(voxel_size))
    direction = ends[:, 1] - ends[:, 0]
    direction = direction / direction.square().sum(dim=1, keepdim=True).sqrt()
    matrix = torch.eye(3, dtype=ends.dtype, device=ends.device) - direction[:, :, None] * direction[:, None, :]
    start, stop = (ends / ends.new_tensor(voxel_size)).unbind(dim=1)
    return OpenEdges(start.contiguous(), stop - start, matrix * (stretch[:, None] * stretch))


def cut_slabs(soup: Soup, layers: int) -> list[Slab]:
    """Returns the slabs of `layers` layers each that have triangles, in order of x."""
    size = soup.normals.new_tensor(soup.voxel_size)
    stop = soup.edges.start + soup.edges.way
    triangles = _members(soup.corners.amin(dim=1) / size, soup.corners.amax(dim=1) / size, soup.shape, layers)
    edges = _members(soup.edges.start.minimum(stop), soup.edges.start.maximum(stop), soup.shape, layers)
    starts = range(0, soup.shape[0], layers)
    slabs = zip(starts, triangles, edges, strict=True)
    return [Slab(low, min(low + layers, soup.shape[0]), t, e) for low, t, e in slabs if len(t)]


def _members(low: Tensor, high: Tensor, shape: tuple[int, int, int], layers: int) -> list[Tensor]:
    """Returns, for each slab, the rows of the boxes `low` to `high` [N, 3], in voxels, that touch it and the grid."""
    low, high = low - MARGIN_VOXELS, high + MARGIN_VOXELS
    rows = ((high >= 0) & (low < low.new_tensor(shape))).all(dim=1).nonzero()[:, 0]
    first = low[rows, 0].clamp(min=0).to(torch.int64) // layers
    last = high[rows, 0].clamp(max=shape[0] - 1).to(torch.int64) // layers
    owner, step = expand(last - first + 1)
    slab = first[owner] + step
    rows = rows[owner][slab.sort(stable=True).indices]
    return list(rows.split(torch.bincount(slab, minlength=-(-shape[0] // layers)).tolist()))


def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Repeats each row of `counts` [N] int64 by its count: (row [M], index within the row [M]), both int64."""
    owner = torch.repeat_interleave(counts)
    return owner, torch.arange(len(owner), device=counts.device) - (counts.cumsum(0) - counts)[owner]
