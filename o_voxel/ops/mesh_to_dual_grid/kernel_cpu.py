"""Mesh to dual grid of one slab in numba: a first pass marks voxels, a second accumulates their QEF systems.

A slab's voxels are bits in coordinate order, so a voxel's row is the number of set bits before it. The compiled
functions need no lock: one slab per thread. They take the same decisions as reference.py, and share its letters and
axis names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from ...core.kernel_cpu import cached_njit
from . import formulas
from . import kernel_cpu_shared as shared
from .kernel_cpu_dual_vertex import solve_in_box
from .kernel_cpu_shared import count_ranks, popcount, write_coords
from .soup import MIN_REGULARIZATION, Part, QefWeights, Slab, Soup

SLAB_VOXELS = 1 << 25
LONG_ROW = 8  # columns
SLACK_VOXELS = 1e-6  # candidates are a superset of the voxels that pass the test
FIXED_POINT = formulas.FIXED_POINT

_interpolate = njit(formulas.interpolate)
_plane_meets_box = njit(formulas.plane_meets_box)
_edge_clearance = njit(formulas.edge_clearance)


def _compiled(function: Callable, inner: bool | None = None) -> Callable:
    return cached_njit(function, formulas, shared, inner=inner)


_entry = partial(_compiled, inner=False)


class Frame(NamedTuple):
    """A slab: layers low to high - 1. size [3]: world units; stride [3]: bits to the next voxel along x, y and z."""

    low: int
    high: int
    size: NDArray[np.float32]
    shape: NDArray[np.int64]
    stride: NDArray[np.int64]


class Sums(NamedTuple):
    """Marked voxels and their sums. ranks [W]: set bits before each word of `bits` [W]; N voxels.

    system: [N, 9], see dual_vertex.py.  intersected: [N, 3].
    """

    bits: NDArray[np.uint64]
    ranks: NDArray[np.int32]
    system: NDArray[np.int64]
    intersected: NDArray[np.bool_]


def voxelize_slab(soup: Soup, slab: Slab, weights: QefWeights) -> Part:
    """Returns the slab's coords [N, 3] int32, dual vertices [N, 3] float32 and flags [N, 3] bool."""
    _, ny, nz = soup.shape
    row_words = -(-nz // 64)
    stride = np.array([ny * row_words * 64, row_words * 64, 1])
    frame = Frame(slab.low, slab.high, np.array(soup.voxel_size, np.float32), np.array(soup.shape), stride)
    corners, triangles = soup.corners.numpy(), slab.triangles.numpy()
    planes = soup.normals.numpy(), soup.offsets.numpy()
    stretch = np.array(soup.stretch)
    points = max(weights.regularization, MIN_REGULARIZATION) * stretch * stretch

    bits = np.zeros((slab.high - slab.low) * ny * row_words, np.uint64)
    empty = np.zeros((0, 9), np.int64), np.zeros((0, 3), np.bool_)
    _visit(triangles, corners, *planes, frame, Sums(bits, np.zeros(0, np.int32), *empty), points, 0.0)
    ranks = np.empty(len(bits), np.int32)
    total = count_ranks(bits, ranks)
    sums = Sums(bits, ranks, np.zeros((total, 9), np.int64), np.zeros((total, 3), np.bool_))
    _visit(triangles, corners, *planes, frame, sums, points, weights.face)
    if weights.boundary > 0:
        edges = soup.edges.start.numpy(), soup.edges.way.numpy(), soup.edges.matrix.numpy()
        _add_lines(slab.edges.numpy(), *edges, frame, sums, weights.boundary)
    coords = np.empty((total, 3), np.int32)
    write_coords(bits, slab.low, stride, coords)
    return Part(*(torch.from_numpy(array) for array in (coords, solve_in_box(sums.system), sums.intersected)))


@_entry
def _visit(triangles, corners, normals, offsets, frame, sums, points, face):
    """Marks the voxels of the triangles' crossings; once `ranks` is filled, adds crossings and overlaps instead."""
    adding = len(sums.ranks) > 0
    scaled, products = np.empty((3, 3)), np.zeros(6, np.int64)
    for t in triangles:
        plane = normals[t, 0], normals[t, 1], normals[t, 2], offsets[t]
        if adding:
            _square(plane, 1.0, products)
        for axis in range(3):
            _visit_rows(axis, corners[t], plane, frame, sums, points, adding, products)
        if adding and face > 0.0 and (plane[0] != 0.0 or plane[1] != 0.0 or plane[2] != 0.0):
            for i in range(3):
                for j in range(3):
                    scaled[i, j] = np.float64(corners[t, i, j]) / frame.size[j]
            if face != 1.0:
                _square(plane, face, products)
            _add_overlaps(scaled, plane, frame, sums, face, products)


@_compiled
def _visit_rows(axis, corners, plane, frame, sums, points, adding, products):
    """Visits the crossings of one triangle, `corners` [3, 3], with the grid edges along `axis`."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    low = np.float64(corners[0, a]), np.float64(corners[0, b]), np.float64(corners[0, axis])
    mid = np.float64(corners[1, a]), np.float64(corners[1, b]), np.float64(corners[1, axis])
    high = np.float64(corners[2, a]), np.float64(corners[2, b]), np.float64(corners[2, axis])
    if mid[1] < low[1]:
        low, mid = mid, low
    if high[1] < mid[1]:
        mid, high = high, mid
    if mid[1] < low[1]:
        low, mid = mid, low
    start, middle, stop = _index(low[1], b, frame), _index(mid[1], b, frame), _index(high[1], b, frame)
    if b == 0:
        start, stop = max(start, frame.low - 1), min(stop, frame.high)
    for place in range(start, stop):
        apex, base = low, high
        if place >= middle:
            apex, base = high, low
        line = _line(place, b, frame)
        left = (
            _interpolate(line, apex[1], mid[1], apex[0], mid[0]),
            _interpolate(line, apex[1], mid[1], apex[2], mid[2]),
        )
        right = (
            _interpolate(line, apex[1], base[1], apex[0], base[0]),
            _interpolate(line, apex[1], base[1], apex[2], base[2]),
        )
        if left[0] > right[0]:
            left, right = right, left
        first, last = _index(left[0], a, frame), _index(right[0], a, frame)
        if a == 0:
            first, last = max(first, frame.low - 1), min(last, frame.high)
        if axis == 0 and last - first > LONG_ROW:
            slope = (right[1] - left[1]) / (right[0] - left[0])
            at_zero = left[1] + slope * (frame.size[a] - left[0])
            size = frame.size[axis]
            first, last = _narrow(first, last, at_zero / size, slope * frame.size[a] / size, frame)
        for column in range(first, last):
            depth = _interpolate(_line(column, a, frame), left[0], right[0], left[1], right[1]) / frame.size[axis]
            layer = np.floor(depth)
            lowest, end = (frame.low, frame.high) if axis == 0 else (0, frame.shape[axis])
            if lowest <= layer < end:
                cell = column, place, int(layer)
                _visit_crossing(axis, cell, depth - layer, plane, frame, sums, points, adding, products)


@_compiled
def _visit_crossing(axis, cell, height, plane, frame, sums, points, adding, products):
    """Visits the up to four voxels of the slab around one crossing. cell: the lowest of them, along a, b and `axis`."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    column, place, layer = cell
    low_a, high_a, low_b, high_b = 0, 2, 0, 2
    if a == 0:
        low_a, high_a = int(column < frame.low), 1 + int(column + 1 < frame.high)
    if b == 0:
        low_b, high_b = int(place < frame.low), 1 + int(place + 1 < frame.high)
    origin = (
        column * frame.stride[a] + place * frame.stride[b] + layer * frame.stride[axis] - frame.low * frame.stride[0]
    )
    for da in range(low_a, high_a):
        for db in range(low_b, high_b):
            bit = origin + da * frame.stride[a] + db * frame.stride[b]
            if not adding:
                sums.bits[bit >> 6] |= np.uint64(1) << np.uint64(bit & 63)
                continue
            row = _rank_of(bit, sums)
            if da == 0 and db == 0:
                sums.intersected[row, axis] = True
            normal_a, normal_b, normal_c = plane[a], plane[b], plane[axis]
            distance = plane[3] - (normal_a * (column + da) + normal_b * (place + db) + normal_c * layer)
            _add_plane(sums.system, row, plane, distance, 1.0, products)
            sums.system[row, 0] += np.int64(points[0] * FIXED_POINT)
            sums.system[row, 3] += np.int64(points[1] * FIXED_POINT)
            sums.system[row, 5] += np.int64(points[2] * FIXED_POINT)
            sums.system[row, 6 + a] += np.int64(points[a] * (1.0 - da) * FIXED_POINT)
            sums.system[row, 6 + b] += np.int64(points[b] * (1.0 - db) * FIXED_POINT)
            sums.system[row, 6 + axis] += np.int64(points[axis] * height * FIXED_POINT)


@_compiled
def _add_overlaps(corners, plane, frame, sums, weight, products):
    """Adds a triangle's plane to the marked voxels that it meets. corners: [3, 3] in voxels.  products: see
    `_square`."""
    axis = 0
    for i in (1, 2):
        if abs(plane[i]) > abs(plane[axis]):
            axis = i
    a, b = (axis + 1) % 3, (axis + 2) % 3
    start_a, stop_a = _extent(corners, a, frame)
    start_b, stop_b = _extent(corners, b, frame)
    start_c, stop_c = _extent(corners, axis, frame)
    half = (abs(plane[a]) + abs(plane[b])) / abs(plane[axis]) / 2 + SLACK_VOXELS
    slope = -plane[a] / plane[axis]
    sign = -1.0 if plane[axis] < 0.0 else 1.0
    for row in range(start_b, stop_b):
        near, far = _span(corners, a, b, row)
        first, last = _whole(near - SLACK_VOXELS, far + SLACK_VOXELS, start_a, stop_a)
        at_zero = (plane[3] - 0.5 * plane[a] - plane[b] * (row + 0.5)) / plane[axis]
        if axis == 0:
            first, last = _narrow(first, last, at_zero, slope, frame)
        for column in range(first, last):
            if not _flat_overlap(corners, a, b, column, row, sign):
                continue
            middle = at_zero + slope * column
            for layer in range(*_whole(middle - half, middle + half, start_c, stop_c)):
                bit = column * frame.stride[a] + row * frame.stride[b] + layer * frame.stride[axis]
                bit -= frame.low * frame.stride[0]
                if not _is_marked(bit, sums):
                    continue
                x, y, z = column, row, layer
                if axis == 0:
                    x, y, z = layer, column, row
                elif axis == 1:
                    x, y, z = row, layer, column
                distance = plane[3] - (plane[0] * x + plane[1] * y + plane[2] * z)
                if (
                    _plane_meets_box(distance, plane[0], plane[1], plane[2])
                    and _flat_overlap(corners, b, axis, row, layer, -1.0 if plane[a] < 0.0 else 1.0)
                    and _flat_overlap(corners, axis, a, layer, column, -1.0 if plane[b] < 0.0 else 1.0)
                ):
                    _add_plane(sums.system, _rank_of(bit, sums), plane, distance, weight, products)


@_compiled
def _flat_overlap(corners, u, v, cell_u, cell_v, sign):
    """Returns whether the triangle, projected along the third axis, meets the unit square at (cell_u, cell_v)."""
    for i in range(3):
        j = (i + 1) % 3
        au, av, bu, bv = corners[i, u], corners[i, v], corners[j, u], corners[j, v]
        if _edge_clearance(cell_u, cell_v, au, av, bu, bv, sign) < 0.0:
            return False
    return True


@_compiled
def _span(corners, a, b, row):
    """Returns the triangle's extent along a within row <= b <= row + 1."""
    near, far = np.inf, -np.inf
    for i in range(3):
        j = (i + 1) % 3
        rise = corners[j, b] - corners[i, b]
        for d in range(2):
            part = 0.0
            if rise != 0.0:
                part = min(max((row + d - corners[i, b]) / rise, 0.0), 1.0)
            end = corners[i, a] + part * (corners[j, a] - corners[i, a])
            near, far = min(near, end), max(far, end)
    return near, far


@_compiled
def _extent(corners, axis, frame):
    """Returns the range of voxels along an axis shared by the triangle's box, the grid and the slab."""
    low = min(corners[0, axis], corners[1, axis], corners[2, axis])
    high = max(corners[0, axis], corners[1, axis], corners[2, axis])
    first, end = (frame.low, frame.high) if axis == 0 else (0, frame.shape[axis])
    return _whole(low, high, first, end)


@_compiled
def _whole(low, high, start, stop):
    """Returns the range of cells of [start, stop) from that of `low` to that of `high`."""
    first = math.floor(min(max(low, float(start)), float(stop)))
    return first, math.floor(max(min(high, stop - 1.0), start - 1.0)) + 1


@_entry
def _add_lines(rows, starts, ways, matrices, frame, sums, weight):
    """Adds the lines of open edges to the marked voxels on them: that of the start, and each that the edge enters."""
    cell = np.empty(3)
    for e in rows:
        start, way = starts[e], ways[e]
        for i in range(3):
            cell[i] = math.floor(start[i])
        _add_line(cell, start, matrices[e], frame, sums, weight)
        for axis in range(3):
            first, last = _planes_met(start[axis], way[axis], axis, frame)
            for plane in range(first, last + 1):
                part = (plane - start[axis]) / way[axis]
                for i in range(3):
                    cell[i] = math.floor(start[i] + part * way[i])
                cell[axis] = plane if way[axis] > 0.0 else plane - 1
                _add_line(cell, start, matrices[e], frame, sums, weight)


@_compiled
def _planes_met(start, way, axis, frame):
    """First and last grid plane across `axis` that an edge crosses; one at its start only if the edge goes back."""
    if way == 0.0:
        return 0, -1
    first = math.floor(start) + 1.0 if way > 0.0 else math.ceil(start + way)
    last = math.floor(start + way) if way > 0.0 else math.floor(start)
    lowest, highest = (frame.low, frame.high) if axis == 0 else (0, frame.shape[axis])
    return int(min(max(first, float(lowest)), highest + 1.0)), int(max(min(last, float(highest)), lowest - 1.0))


@_compiled
def _add_line(cell, start, matrix, frame, sums, weight):
    """Adds the squared distance to a line to the voxel `cell` [3] float, if it is in the slab."""
    for i in range(3):
        lowest, end = (frame.low, frame.high) if i == 0 else (0, frame.shape[i])
        if not lowest <= cell[i] < end:
            return
    bit = 0
    for i in range(3):
        bit += int(cell[i]) * frame.stride[i]
    bit -= frame.low * frame.stride[0]
    if not _is_marked(bit, sums):
        return
    row = _rank_of(bit, sums)
    entry = 0
    for i in range(3):
        for j in range(i, 3):
            sums.system[row, entry] += np.int64(weight * matrix[i, j] * FIXED_POINT)
            entry += 1
        value = matrix[i, 0] * (start[0] - cell[0]) + matrix[i, 1] * (start[1] - cell[1])
        value = value + matrix[i, 2] * (start[2] - cell[2])
        sums.system[row, 6 + i] += np.int64(weight * value * FIXED_POINT)


@_compiled
def _square(plane, weight, products):
    """Writes the entries of a plane's system that are the same in all voxels, products [6] int64."""
    entry = 0
    for i in range(3):
        for j in range(i, 3):
            products[entry] = np.int64(weight * (plane[i] * plane[j]) * FIXED_POINT)
            entry += 1


@_compiled
def _add_plane(system, row, plane, distance, weight, products):
    """Adds the squared distance to a plane, `distance` from the voxel's low corner, to one system."""
    for entry in range(6):
        system[row, entry] += products[entry]
    for i in range(3):
        system[row, 6 + i] += np.int64(weight * (plane[i] * distance) * FIXED_POINT)


@_compiled
def _index(position, axis, frame):
    """Returns the voxel index of a world position, clamped into the grid."""
    return int(min(max(position / frame.size[axis], 0.0), frame.shape[axis] - 1.0))


@_compiled
def _line(place, axis, frame):
    """Returns the world position of grid line place + 1, rounded to float32 as in the original."""
    return np.float64(np.float32(place + 1) * frame.size[axis])


@_compiled
def _narrow(first, last, at_zero, slope, frame):
    """Clips columns [first, last) to those where at_zero + slope * column is within 2 layers of the slab."""
    if abs(slope) < 1e-12:
        slope = 1e-12
    ends = (frame.low - 2 - at_zero) / slope, (frame.high + 2 - at_zero) / slope
    near = min(max(min(ends[0], ends[1]), float(first)), float(last))
    far = min(max(max(ends[0], ends[1]), float(first)), float(last))
    return math.floor(near), min(last, math.ceil(far) + 1)


@_compiled
def _is_marked(bit, sums):
    return (sums.bits[bit >> 6] >> np.uint64(bit & 63)) & np.uint64(1) != 0


@_compiled
def _rank_of(bit, sums):
    """Returns the row of a marked voxel."""
    below = (np.uint64(1) << np.uint64(bit & 63)) - np.uint64(1)
    return sums.ranks[bit >> 6] + popcount(sums.bits[bit >> 6] & below)
