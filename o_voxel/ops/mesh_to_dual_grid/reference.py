"""Mesh to dual grid of one slab in plain torch, on any device: the definition of the op, and the fallback.

Letters: T triangles, R rows (a triangle and a grid line over it), H crossings, P pairs of a voxel and a term of its
system, N voxels. Axes a and b follow `axis` cyclically: (axis, a, b) is a rotation of (x, y, z).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import formulas
from .dual_vertex import ENTRIES, solve_in_box
from .soup import MIN_REGULARIZATION, OpenEdges, Part, QefWeights, Slab, Soup, expand

SLAB_VOXELS = 1 << 27
TRIANGLES_A_STEP = 1 << 18
SLACK_VOXELS = 1e-6  # candidates are a superset of the voxels that pass the test
LONG_ROW = 8  # columns


@dataclass(frozen=True, eq=False)
class Rows:
    """Grid lines along a over triangles projected along `axis`: triangle [R] int64; place [R] int64, the line's index
    along b less 1; left, right: [R, 2] float64, entry and exit of the triangle: world position along a and `axis`.
    """

    triangle: Tensor
    place: Tensor
    left: Tensor
    right: Tensor
    axis: int


@dataclass(frozen=True, eq=False)
class Crossings:
    """Intersections of triangles with grid edges along `axis`: triangle [H] int64; cell [H, 3] int64, the lowest of the
    four voxels around the edge; height [H] float64, position along the edge in voxels from the cell's low side.
    """

    triangle: Tensor
    cell: Tensor
    height: Tensor
    axis: int


def voxelize_slab(soup: Soup, slab: Slab, weights: QefWeights) -> Part:
    """Returns the slab's coords [N, 3] int32, dual vertices [N, 3] float32 and flags [N, 3] bool."""
    steps = slab.triangles.split(TRIANGLES_A_STEP)
    crossings = [_crossings(_rows(soup, slab, step, axis), soup, slab) for step in steps for axis in range(3)]
    keys = torch.unique(torch.cat([_keys(cell, soup, slab) for c in crossings for cell, _ in _voxels_around(c)]))
    keys = keys[keys >= 0]
    system = torch.zeros((len(keys), 9), dtype=torch.int64, device=keys.device)
    intersected = torch.zeros((len(keys), 3), dtype=torch.bool, device=keys.device)
    for crossing in crossings:
        for cell, hit in _voxels_around(crossing):
            voxel, pair = _find(keys, cell, soup, slab)
            _add_planes(system, voxel, cell[pair], crossing.triangle[pair], soup, 1.0)
            _add_points(system, voxel, hit[pair], soup, max(weights.regularization, MIN_REGULARIZATION))
        intersected[_find(keys, crossing.cell, soup, slab)[0], crossing.axis] = True
    for step in steps if weights.face > 0 else ():
        triangle, cell = _overlaps(_cells_near(soup, slab, step), soup)
        voxel, pair = _find(keys, cell, soup, slab)
        _add_planes(system, voxel, cell[pair], triangle[pair], soup, weights.face)
    if weights.boundary > 0:
        edge, cell = _cells_along(soup, slab)
        voxel, pair = _find(keys, cell, soup, slab)
        _add_lines(system, voxel, cell[pair], soup.edges, edge[pair], weights.boundary)
    return Part(_coords(keys, soup), solve_in_box(system), intersected)


def _rows(soup: Soup, slab: Slab, triangles: Tensor, axis: int) -> Rows:
    a, b = (axis + 1) % 3, (axis + 2) % 3
    corners = soup.corners[triangles][:, :, [a, b, axis]].to(torch.float64)
    order = corners[:, :, 1].argsort(dim=1, stable=True)
    corners = corners.gather(1, order[:, :, None].expand(-1, -1, 3))
    start, middle, stop = _index(corners[:, :, 1], soup, b).unbind(dim=1)
    owner, place = _expand_range(*_clip(start, stop, b, slab))
    low, mid, high = corners[owner].unbind(dim=1)
    before = (place < middle[owner])[:, None]
    apex, base = torch.where(before, low, high), torch.where(before, high, low)
    line = _line(place, soup, b)
    ends = [
        torch.stack([formulas.interpolate(line, apex[:, 1], to[:, 1], apex[:, i], to[:, i]) for i in (0, 2)], dim=1)
        for to in (mid, base)
    ]
    swap = ends[0][:, :1] > ends[1][:, :1]
    left, right = torch.where(swap, ends[1], ends[0]), torch.where(swap, ends[0], ends[1])
    return Rows(triangles[owner], place, left, right, axis)


def _crossings(rows: Rows, soup: Soup, slab: Slab) -> Crossings:
    """Returns the crossings whose cell, or its neighbour along x, is in the slab."""
    axis, a, b = rows.axis, (rows.axis + 1) % 3, (rows.axis + 2) % 3
    start, stop = _clip(_index(rows.left[:, 0], soup, a), _index(rows.right[:, 0], soup, a), a, slab)
    if axis == 0:
        # Not worth it for short rows, whose slope may be too steep to extrapolate.
        slope = (rows.right[:, 1] - rows.left[:, 1]) / (rows.right[:, 0] - rows.left[:, 0])
        first = rows.left[:, 1] + slope * (soup.voxel_size[a] - rows.left[:, 0])
        slope = slope * soup.voxel_size[a] / soup.voxel_size[axis]
        near = _narrow(start, stop, first / soup.voxel_size[axis], slope, slab)
        long = stop - start > LONG_ROW
        start, stop = torch.where(long, near[0], start), torch.where(long, near[1], stop)
    entry, column = _expand_range(start, stop)
    left, right = rows.left[entry], rows.right[entry]
    depth = formulas.interpolate(_line(column, soup, a), left[:, 0], right[:, 0], left[:, 1], right[:, 1])
    depth = depth / soup.voxel_size[axis]
    layer = depth.floor()
    low, high = (slab.low, slab.high) if axis == 0 else (0, soup.shape[axis])
    keep = ((layer >= low) & (layer < high)).nonzero()[:, 0]
    cell = torch.empty((len(keep), 3), dtype=torch.int64, device=keep.device)
    cell[:, a], cell[:, b], cell[:, axis] = column[keep], rows.place[entry[keep]], layer[keep].to(torch.int64)
    return Crossings(rows.triangle[entry[keep]], cell, (depth - layer)[keep], axis)


def _voxels_around(crossing: Crossings) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields, for the four voxels around the edge, cells [H, 3] and the crossing [H, 3] float64 from their corner."""
    a, b = (crossing.axis + 1) % 3, (crossing.axis + 2) % 3
    for da in (0, 1):
        for db in (0, 1):
            cell, hit = crossing.cell.clone(), crossing.height[:, None].repeat(1, 3)
            cell[:, a] += da
            cell[:, b] += db
            hit[:, a], hit[:, b] = 1.0 - da, 1.0 - db
            yield cell, hit


def _cells_near(soup: Soup, slab: Slab, triangles: Tensor) -> tuple[Tensor, Tensor]:
    """Returns pairs of a triangle [P] and a cell [P, 3] within the slab: all overlapping pairs and few others.

    Enumerates columns of cells along `axis`, the largest component of the normal; the plane meets at most 3 cells of
    each.
    """
    triangles = triangles[(soup.normals[triangles] != 0).any(dim=1)]
    axes = soup.normals[triangles].abs().argmax(dim=1)
    pairs = [_cells_near_along(soup, slab, triangles[axes == axis], axis) for axis in range(3)]
    triangle, cell = (torch.cat(column) for column in zip(*pairs, strict=True))
    return triangle, cell


def _cells_near_along(soup: Soup, slab: Slab, triangles: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    a, b = (axis + 1) % 3, (axis + 2) % 3
    corners = soup.corners[triangles].to(torch.float64) / soup.normals.new_tensor(soup.voxel_size)
    low, high = corners.amin(dim=1), corners.amax(dim=1)
    limits = low.new_tensor([(slab.low, 0, 0), (slab.high, *soup.shape[1:])])
    start, stop = _whole(low, high, limits[0], limits[1])
    owner, row = _expand_range(start[:, b], stop[:, b])
    near, far = _span(corners[owner][:, :, [a, b]], row)
    first, last = _whole(near - SLACK_VOXELS, far + SLACK_VOXELS, start[owner, a], stop[owner, a])
    normals = soup.normals[triangles[owner]]
    at_zero = soup.offsets[triangles[owner]] - 0.5 * normals[:, a] - normals[:, b] * (row + 0.5)
    at_zero, slope = at_zero / normals[:, axis], -normals[:, a] / normals[:, axis]
    if axis == 0:
        first, last = _narrow(first, last, at_zero, slope, slab)
    entry, column = _expand_range(first, last)

    middle = at_zero[entry] + slope[entry] * column
    half = (normals[:, a].abs() + normals[:, b].abs()) / normals[:, axis].abs() / 2 + SLACK_VOXELS
    owner, half = owner[entry], half[entry]
    pair, height = _expand_range(*_whole(middle - half, middle + half, start[owner, axis], stop[owner, axis]))
    cell = torch.empty((len(pair), 3), dtype=torch.int64, device=pair.device)
    cell[:, a], cell[:, b], cell[:, axis] = column[pair], row[entry[pair]], height
    return triangles[owner[pair]], cell


def _span(corners: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the extent [R] along the first axis of 2D triangles [R, 3, 2] within row <= second axis <= row + 1."""
    to = corners.roll(-1, dims=1)
    rise = to[:, :, 1] - corners[:, :, 1]
    rise = torch.where(rise == 0, 1.0, rise)
    ends = [
        corners[:, :, 0] + ((row[:, None] + d - corners[:, :, 1]) / rise).clamp(0, 1) * (to - corners)[:, :, 0]
        for d in (0, 1)
    ]
    both = torch.cat(ends, dim=1)
    return both.amin(dim=1), both.amax(dim=1)


def _overlaps(pairs: tuple[Tensor, Tensor], soup: Soup) -> tuple[Tensor, Tensor]:
    """Returns the pairs whose triangle meets the cell, touching included (separating axis test, without the boxes)."""
    triangle, cell = pairs
    normal = soup.normals[triangle]
    corners = soup.corners[triangle].to(torch.float64) / normal.new_tensor(soup.voxel_size)
    meets = formulas.plane_meets_box(soup.offsets[triangle] - _dot(normal, cell), *normal.unbind(dim=1))
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        sign = torch.where(normal[:, axis] < 0, -1.0, 1.0)
        for i in range(3):
            p, q = corners[:, i], corners[:, (i + 1) % 3]
            clearance = formulas.edge_clearance(cell[:, u], cell[:, v], p[:, u], p[:, v], q[:, u], q[:, v], sign)
            meets &= clearance >= 0
    return triangle[meets], cell[meets]


def _cells_along(soup: Soup, slab: Slab) -> tuple[Tensor, Tensor]:
    """Returns pairs of an open edge [P] and a cell [P, 3] on it: that of its start, and each that it enters."""
    start, way = soup.edges.start[slab.edges], soup.edges.way[slab.edges]
    stop = start + way
    found = [(slab.edges, start.floor())]
    for axis in range(3):
        forward = way[:, axis] > 0
        low, high = (slab.low, slab.high) if axis == 0 else (0, soup.shape[axis])
        # Grid planes crossed: excludes one at the start unless the edge goes back, includes one at the end.
        first = torch.where(forward, start[:, axis].floor() + 1, stop[:, axis].ceil()).clamp(low, high + 1)
        last = torch.where(forward, stop[:, axis].floor(), start[:, axis].floor()).clamp(low - 1, high)
        last = torch.where(way[:, axis] == 0, first - 1, last)
        owner, plane = _expand_range(first.to(torch.int64), last.to(torch.int64) + 1)
        part = (plane - start[owner, axis]) / way[owner, axis]
        cell = (start[owner] + part[:, None] * way[owner]).floor()
        cell[:, axis] = torch.where(forward[owner], plane, plane - 1)
        found.append((slab.edges[owner], cell))
    edge, cell = (torch.cat(column) for column in zip(*found, strict=True))
    return edge, cell.clamp(-1, 1 << 20).to(torch.int64)


def _add_planes(system: Tensor, voxel: Tensor, cell: Tensor, triangle: Tensor, soup: Soup, weight: float) -> None:
    """Adds the squared distance to each triangle's plane to the voxels' systems: n n^T u = n distance."""
    normal = soup.normals[triangle]
    distance = soup.offsets[triangle] - _dot(normal, cell)
    terms = [normal[:, i] * normal[:, j] for i, j in ENTRIES] + [normal[:, i] * distance for i in range(3)]
    _add(system, voxel, [weight * term for term in terms])


def _add_points(system: Tensor, voxel: Tensor, point: Tensor, soup: Soup, weight: float) -> None:
    """Adds the squared distance to points [P, 3], in voxels from the voxel's low corner."""
    weights = [weight * s * s for s in soup.stretch]
    none = torch.zeros_like(point[:, 0])
    terms = [none + weights[i] if i == j else none for i, j in ENTRIES] + [weights[i] * point[:, i] for i in range(3)]
    _add(system, voxel, terms)


def _add_lines(system: Tensor, voxel: Tensor, cell: Tensor, edges: OpenEdges, edge: Tensor, weight: float) -> None:
    """Adds the squared distance to the line of each edge [P]: matrix (u - start) = 0."""
    start, matrix = edges.start[edge] - cell, edges.matrix[edge]
    terms = [matrix[:, i, j] for i, j in ENTRIES] + [_dot(matrix[:, i], start) for i in range(3)]
    _add(system, voxel, [weight * term for term in terms])


def _add(system: Tensor, voxel: Tensor, terms: list[Tensor]) -> None:
    fixed = torch.stack([(term * formulas.FIXED_POINT).to(torch.int64) for term in terms], dim=1)
    system.index_add_(0, voxel, fixed)


def _dot(p: Tensor, q: Tensor) -> Tensor:
    """Returns row-wise dot products [P], summed in the order of the kernels."""
    return p[:, 0] * q[:, 0] + p[:, 1] * q[:, 1] + p[:, 2] * q[:, 2]


def _line(place: Tensor, soup: Soup, axis: int) -> Tensor:
    """Returns the world position [R] float64 of grid line place + 1, rounded to float32 as in the original."""
    return ((place + 1).to(torch.float32) * soup.voxel_size[axis]).to(torch.float64)


def _index(position: Tensor, soup: Soup, axis: int) -> Tensor:
    """Returns voxel indices of world positions, clamped into the grid."""
    return (position / soup.voxel_size[axis]).clamp(0, soup.shape[axis] - 1).to(torch.int64)


def _whole(low: Tensor, high: Tensor, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the range of cells of [start, stop) from that of `low` to that of `high`."""
    start, stop = start.to(low.dtype), stop.to(low.dtype)
    first, last = low.maximum(start).minimum(stop).floor(), high.minimum(stop - 1).maximum(start - 1).floor()
    return first.to(torch.int64), last.to(torch.int64) + 1


def _clip(start: Tensor, stop: Tensor, axis: int, slab: Slab) -> tuple[Tensor, Tensor]:
    """Clips grid lines start + 1 to stop along `axis` to those with a voxel in the slab on either side."""
    return (start.clamp(min=slab.low - 1), stop.clamp(max=slab.high)) if axis == 0 else (start, stop)


def _narrow(start: Tensor, stop: Tensor, at_zero: Tensor, slope: Tensor, slab: Slab) -> tuple[Tensor, Tensor]:
    """Clips columns [start, stop) to those where at_zero + slope * column is within 2 layers of the slab."""
    slope = torch.where(slope.abs() < 1e-12, 1e-12, slope)
    ends = torch.stack(((slab.low - 2 - at_zero) / slope, (slab.high + 2 - at_zero) / slope))
    ends = ends.clamp(-1, 1 << 20)
    first, last = ends.amin(dim=0).floor().to(torch.int64), ends.amax(dim=0).ceil().to(torch.int64) + 1
    return torch.maximum(start, first), torch.minimum(stop, last)


def _expand_range(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """Enumerates the integers of each [start, stop): (row [M], integer [M])."""
    owner, step = expand((stop - start).clamp(min=0))
    return owner, start[owner] + step


def _keys(cell: Tensor, soup: Soup, slab: Slab) -> Tensor:
    """Returns keys [P] int64, ordered as the cells [P, 3] are; -1 outside slab or grid."""
    x, y, z = cell.unbind(dim=1)
    _, ny, nz = soup.shape
    inside = (x >= slab.low) & (x < slab.high) & (y >= 0) & (y < ny) & (z >= 0) & (z < nz)
    return torch.where(inside, (x * ny + y) * nz + z, -1)


def _coords(keys: Tensor, soup: Soup) -> Tensor:
    _, ny, nz = soup.shape
    return torch.stack((keys // (ny * nz), keys // nz % ny, keys % nz), dim=1).to(torch.int32)


def _find(keys: Tensor, cell: Tensor, soup: Soup, slab: Slab) -> tuple[Tensor, Tensor]:
    """Returns (voxel, pair): the index in the sorted `keys` [N] of each cell [P, 3] found there, and the cell's row."""
    wanted = _keys(cell, soup, slab)
    place = torch.searchsorted(keys, wanted)
    padded = torch.cat((keys, keys.new_full((1,), -2)))
    pair = (padded[place] == wanted).nonzero()[:, 0]
    return place[pair], pair
