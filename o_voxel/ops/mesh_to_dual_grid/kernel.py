"""Mesh to dual grid of one slab in Triton: one pass marks voxels, later ones accumulate their QEF systems with atomics.

A slab's voxels are bits in coordinate order, so a voxel's row is the number of set bits before it: no hash table, no
sort. Sums are integers, so the order of the atomics does not matter. Multiply-adds are not fused: the kernels take
the same decisions as reference.py, and share its letters and axis names.

A lane processes one row (of grid edges or of cells) of one triangle. The host enumerates the rows in steps, so that a
mesh of few huge triangles also fills the GPU. Traffic is mostly atomics: nine of 8 bytes for each of the four voxels
of a crossing, and for each overlap of a triangle and a voxel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from . import formulas
from .kernel_dual_vertex import solve_in_box
from .kernel_shared import VARIABLE, count_bits, formula, launch, rotate, rotate_back, row_of, write_coords
from .rows import deal_rows
from .soup import MIN_REGULARIZATION, Part, QefWeights, Slab, Soup

SLAB_VOXELS = 1 << 30
LONG_ROW = tl.constexpr(8)  # columns
SLACK_VOXELS = tl.constexpr(1e-6)  # candidates are a superset of the voxels that pass the test
FIXED_POINT = tl.constexpr(formulas.FIXED_POINT)

_interpolate = formula(formulas.interpolate)
_plane_meets_box = formula(formulas.plane_meets_box)
_edge_clearance = formula(formulas.edge_clearance)


@triton.jit
def _load_rotated(pointer, row, axis: tl.constexpr, mask):
    """Loads row [3] of a matrix as (a, b, c), float64."""
    x = tl.load(pointer + row * 3, mask=mask, other=0.0).to(tl.float64)
    y = tl.load(pointer + row * 3 + 1, mask=mask, other=0.0).to(tl.float64)
    z = tl.load(pointer + row * 3 + 2, mask=mask, other=0.0).to(tl.float64)
    return rotate(axis, x, y, z)


@triton.jit
def _index(position, size, count):
    """Returns the voxel index of a world position, clamped into the grid."""
    return tl.minimum(tl.maximum(position / size, 0.0), count - 1.0).to(tl.int32)


@triton.jit
def _line(place, size):
    """Returns the world position of grid line place + 1, rounded to float32 as in the original."""
    return ((place + 1).to(tl.float32) * size.to(tl.float32)).to(tl.float64)


@triton.jit
def _narrow(first, last, at_zero, slope, low, high):
    """Clips columns [first, last) to those where at_zero + slope * column is within 2 layers of the slab."""
    slope = tl.where(tl.abs(slope) < 1e-12, 1e-12, slope)
    p, q = (low - 2 - at_zero) / slope, (high + 2 - at_zero) / slope
    near = tl.minimum(tl.maximum(tl.minimum(p, q), first.to(tl.float64)), last.to(tl.float64))
    far = tl.minimum(tl.maximum(tl.maximum(p, q), first.to(tl.float64)), last.to(tl.float64))
    return tl.floor(near).to(tl.int32), tl.minimum(last, tl.ceil(far).to(tl.int32) + 1)


@triton.jit
def _whole(low, high, start, stop):
    """Returns the range of cells of [start, stop) from that of `low` to that of `high`."""
    first = tl.floor(tl.minimum(tl.maximum(low, start), stop)).to(tl.int32)
    return first, tl.floor(tl.maximum(tl.minimum(high, stop - 1.0), start - 1.0)).to(tl.int32) + 1


@triton.jit
def _add_plane(system, row, nx, ny, nz, distance, weight, px, py, pz, x, y, z, mask):
    """Adds to systems the squared distance to a plane and, with weights p, to a point (x, y, z): one atomic per sum."""
    at = system + row * 9
    xx = (weight * (nx * nx) * FIXED_POINT).to(tl.int64) + (px * FIXED_POINT).to(tl.int64)
    yy = (weight * (ny * ny) * FIXED_POINT).to(tl.int64) + (py * FIXED_POINT).to(tl.int64)
    zz = (weight * (nz * nz) * FIXED_POINT).to(tl.int64) + (pz * FIXED_POINT).to(tl.int64)
    bx = (weight * (nx * distance) * FIXED_POINT).to(tl.int64) + (px * x * FIXED_POINT).to(tl.int64)
    by = (weight * (ny * distance) * FIXED_POINT).to(tl.int64) + (py * y * FIXED_POINT).to(tl.int64)
    bz = (weight * (nz * distance) * FIXED_POINT).to(tl.int64) + (pz * z * FIXED_POINT).to(tl.int64)
    tl.atomic_add(at, xx, mask=mask, sem="relaxed")
    tl.atomic_add(at + 1, (weight * (nx * ny) * FIXED_POINT).to(tl.int64), mask=mask, sem="relaxed")
    tl.atomic_add(at + 2, (weight * (nx * nz) * FIXED_POINT).to(tl.int64), mask=mask, sem="relaxed")
    tl.atomic_add(at + 3, yy, mask=mask, sem="relaxed")
    tl.atomic_add(at + 4, (weight * (ny * nz) * FIXED_POINT).to(tl.int64), mask=mask, sem="relaxed")
    tl.atomic_add(at + 5, zz, mask=mask, sem="relaxed")
    tl.atomic_add(at + 6, bx, mask=mask, sem="relaxed")
    tl.atomic_add(at + 7, by, mask=mask, sem="relaxed")
    tl.atomic_add(at + 8, bz, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=VARIABLE)
def _visit_rows(
    row_triangle, row_place, n_rows, corners, normals, offsets, settings, bits, last_ranks, system, intersected,
    low, high, nx, ny, nz, stride_x, stride_y, axis: tl.constexpr, adding: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Crossings of triangles with grid edges along `axis`: marks the voxels around each, or adds to their systems."""
    lane = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    live = lane < n_rows
    triangle = tl.load(row_triangle + lane, mask=live, other=0).to(tl.int64)
    place = tl.load(row_place + lane, mask=live, other=0)
    size_a, size_b, size_c = rotate(axis, tl.load(settings), tl.load(settings + 1), tl.load(settings + 2))
    count_a, count_b, count_c = rotate(axis, nx, ny, nz)
    low_a, low_b, low_c = _load_rotated(corners, triangle * 3, axis, live)
    mid_a, mid_b, mid_c = _load_rotated(corners, triangle * 3 + 1, axis, live)
    high_a, high_b, high_c = _load_rotated(corners, triangle * 3 + 2, axis, live)
    # Stable sort along b by swaps of neighbours.
    for turn in tl.static_range(3):
        if turn == 1:
            swap = high_b < mid_b
            mid_a, high_a = tl.where(swap, high_a, mid_a), tl.where(swap, mid_a, high_a)
            mid_b, high_b = tl.where(swap, high_b, mid_b), tl.where(swap, mid_b, high_b)
            mid_c, high_c = tl.where(swap, high_c, mid_c), tl.where(swap, mid_c, high_c)
        else:
            swap = mid_b < low_b
            low_a, mid_a = tl.where(swap, mid_a, low_a), tl.where(swap, low_a, mid_a)
            low_b, mid_b = tl.where(swap, mid_b, low_b), tl.where(swap, low_b, mid_b)
            low_c, mid_c = tl.where(swap, mid_c, low_c), tl.where(swap, low_c, mid_c)
    before = place < _index(mid_b, size_b, count_b)
    apex_a, base_a = tl.where(before, low_a, high_a), tl.where(before, high_a, low_a)
    apex_b, base_b = tl.where(before, low_b, high_b), tl.where(before, high_b, low_b)
    apex_c, base_c = tl.where(before, low_c, high_c), tl.where(before, high_c, low_c)
    line = _line(place, size_b)
    p_a, p_c = _interpolate(line, apex_b, mid_b, apex_a, mid_a), _interpolate(line, apex_b, mid_b, apex_c, mid_c)
    q_a, q_c = _interpolate(line, apex_b, base_b, apex_a, base_a), _interpolate(line, apex_b, base_b, apex_c, base_c)
    swap = p_a > q_a
    left_a, left_c = tl.where(swap, q_a, p_a), tl.where(swap, q_c, p_c)
    right_a, right_c = tl.where(swap, p_a, q_a), tl.where(swap, p_c, q_c)

    first, last = _index(left_a, size_a, count_a), _index(right_a, size_a, count_a)
    lowest, highest = 0, count_c
    if axis == 2:
        first, last = tl.maximum(first, low - 1), tl.minimum(last, high)
    if axis == 0:
        lowest, highest = low, high
        slope = (right_c - left_c) / (right_a - left_a)
        at_zero = (left_c + slope * (size_a - left_a)) / size_c
        near, far = _narrow(first, last, at_zero, slope * size_a / size_c, low, high)
        long = last - first > LONG_ROW
        first, last = tl.where(long, near, first), tl.where(long, far, last)
    last = tl.where(live, last, first)
    if adding:
        normal_x, normal_y, normal_z = _load_rotated(normals, triangle, 2, live)
        offset = tl.load(offsets + triangle, mask=live, other=0.0)
        point_x, point_y, point_z = tl.load(settings + 3), tl.load(settings + 4), tl.load(settings + 5)

    for step in range(tl.max(last - first, axis=0)):
        column = first + step
        depth = _interpolate(_line(column, size_a), left_a, right_a, left_c, right_c) / size_c
        floor = tl.floor(depth)
        inside = (column < last) & (floor >= lowest) & (floor < highest)
        layer = tl.where(inside, floor, 0.0).to(tl.int32)
        for around in tl.static_range(4):
            x, y, z = rotate_back(axis, column + around // 2, place + around % 2, layer)
            here = inside & (x >= low) & (x < high)
            bit = (x - low) * stride_x + y * stride_y + z
            if adding:
                word = tl.load(bits + (bit >> 5), mask=here, other=0)
                row = row_of(bit, word, tl.load(last_ranks + (bit >> 5), mask=here, other=0))
                if around == 0:
                    tl.store(intersected + row * 3 + axis, 1, mask=here)
                hit_x, hit_y, hit_z = rotate_back(axis, 1.0 - around // 2, 1.0 - around % 2, depth - floor)
                distance = offset - (normal_x * x + normal_y * y + normal_z * z)
                _add_plane(
                    system, row, normal_x, normal_y, normal_z, distance, 1.0,
                    point_x, point_y, point_z, hit_x, hit_y, hit_z, here,
                )  # fmt: skip
            else:
                tl.atomic_or(bits + (bit >> 5), 1 << (bit & 31), mask=here, sem="relaxed")


@triton.jit
def _flat_overlap(u, v, au, av, bu, bv, cu, cv, sign):
    """Returns whether the triangle abc, projected along the third axis, meets the unit square at (u, v)."""
    ab = _edge_clearance(u, v, au, av, bu, bv, sign) >= 0.0
    bc = _edge_clearance(u, v, bu, bv, cu, cv, sign) >= 0.0
    ca = _edge_clearance(u, v, cu, cv, au, av, sign) >= 0.0
    return ab & bc & ca


@triton.jit
def _widen(near, far, row, au, av, bu, bv):
    """Widens near and far by the edge ab's extent along u within row <= v <= row + 1."""
    rise = tl.where(bv == av, 1.0, bv - av)
    for d in tl.static_range(2):
        part = tl.minimum(tl.maximum((row + d - av) / rise, 0.0), 1.0)
        end = au + part * (bu - au)
        near, far = tl.minimum(near, end), tl.maximum(far, end)
    return near, far


@triton.jit(do_not_specialize=VARIABLE)
def _add_overlaps(
    row_triangle, row_place, n_rows, corners, normals, offsets, settings, bits, last_ranks, system,
    low, high, nx, ny, nz, stride_x, stride_y, axis: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Adds the planes of triangles, steepest along `axis`, to the marked voxels that they meet in a row along a."""
    lane = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    live = lane < n_rows
    triangle = tl.load(row_triangle + lane, mask=live, other=0).to(tl.int64)
    place = tl.load(row_place + lane, mask=live, other=0)
    size_a, size_b, size_c = rotate(axis, tl.load(settings), tl.load(settings + 1), tl.load(settings + 2))
    p_a, p_b, p_c = _load_rotated(corners, triangle * 3, axis, live)
    q_a, q_b, q_c = _load_rotated(corners, triangle * 3 + 1, axis, live)
    r_a, r_b, r_c = _load_rotated(corners, triangle * 3 + 2, axis, live)
    p_a, q_a, r_a = p_a / size_a, q_a / size_a, r_a / size_a
    p_b, q_b, r_b = p_b / size_b, q_b / size_b, r_b / size_b
    p_c, q_c, r_c = p_c / size_c, q_c / size_c, r_c / size_c
    n_a, n_b, n_c = _load_rotated(normals, triangle, axis, live)
    n_c = tl.where(live, n_c, 1.0)
    normal_x, normal_y, normal_z = rotate_back(axis, n_a, n_b, n_c)
    offset = tl.load(offsets + triangle, mask=live, other=0.0)
    sign_a, sign_b = tl.where(n_a < 0.0, -1.0, 1.0), tl.where(n_b < 0.0, -1.0, 1.0)
    sign_c = tl.where(n_c < 0.0, -1.0, 1.0)
    weight = tl.load(settings + 6)

    start_a, _, start_c = rotate(axis, low, 0, 0)
    stop_a, _, stop_c = rotate(axis, high, ny, nz)
    low_a, high_a = tl.minimum(tl.minimum(p_a, q_a), r_a), tl.maximum(tl.maximum(p_a, q_a), r_a)
    low_c, high_c = tl.minimum(tl.minimum(p_c, q_c), r_c), tl.maximum(tl.maximum(p_c, q_c), r_c)
    near, far = _widen(high_a, low_a, place, p_a, p_b, q_a, q_b)
    near, far = _widen(near, far, place, q_a, q_b, r_a, r_b)
    near, far = _widen(near, far, place, r_a, r_b, p_a, p_b)
    start_a, stop_a = _whole(low_a, high_a, start_a, stop_a)
    start_c, stop_c = _whole(low_c, high_c, start_c, stop_c)
    first, last = _whole(near - SLACK_VOXELS, far + SLACK_VOXELS, start_a, stop_a)
    at_zero = (offset - 0.5 * n_a - n_b * (place + 0.5)) / n_c
    slope = -n_a / n_c
    if axis == 0:
        first, last = _narrow(first, last, at_zero, slope, low, high)
    last = tl.where(live, last, first)
    half = (tl.abs(n_a) + tl.abs(n_b)) / tl.abs(n_c) / 2 + SLACK_VOXELS

    for step in range(tl.max(last - first, axis=0)):
        column = first + step
        flat = (column < last) & _flat_overlap(column, place, p_a, p_b, q_a, q_b, r_a, r_b, sign_c)
        middle = at_zero + slope * column
        lowest, end = _whole(middle - half, middle + half, start_c, stop_c)
        # The plane rises by at most 2 over a cell, so it meets at most 4 cells, SLACK_VOXELS included.
        for above in tl.static_range(4):
            layer = lowest + above
            x, y, z = rotate_back(axis, column, place, layer)
            here = flat & (layer < end)
            bit = (x - low) * stride_x + y * stride_y + z
            word = tl.load(bits + (bit >> 5), mask=here, other=0)
            distance = offset - (normal_x * x + normal_y * y + normal_z * z)
            here = here & (((word >> (bit & 31)) & 1) != 0) & _plane_meets_box(distance, normal_x, normal_y, normal_z)
            here = here & _flat_overlap(place, layer, p_b, p_c, q_b, q_c, r_b, r_c, sign_a)
            here = here & _flat_overlap(layer, column, p_c, p_a, q_c, q_a, r_c, r_a, sign_b)
            row = row_of(bit, word, tl.load(last_ranks + (bit >> 5), mask=here, other=0))
            none = 0.0 * weight
            _add_plane(
                system, row, normal_x, normal_y, normal_z, distance, weight, none, none, none, none, none, none, here
            )


@triton.jit
def _add_line(cell_x, cell_y, cell_z, edge, starts, matrices, bits, last_ranks, system, weight,
              low, high, ny, nz, stride_x, stride_y, mask):  # fmt: skip
    """Adds the squared distance to the edges' lines to the marked voxels among the cells, given as float64."""
    here = mask & (cell_x >= low) & (cell_x < high) & (cell_y >= 0) & (cell_y < ny) & (cell_z >= 0) & (cell_z < nz)
    x = tl.where(here, cell_x, low).to(tl.int32)
    y = tl.where(here, cell_y, 0.0).to(tl.int32)
    z = tl.where(here, cell_z, 0.0).to(tl.int32)
    bit = (x - low) * stride_x + y * stride_y + z
    word = tl.load(bits + (bit >> 5), mask=here, other=0)
    here = here & (((word >> (bit & 31)) & 1) != 0)
    at = system + row_of(bit, word, tl.load(last_ranks + (bit >> 5), mask=here, other=0)) * 9
    u = tl.load(starts + edge * 3, mask=here, other=0.0) - cell_x
    v = tl.load(starts + edge * 3 + 1, mask=here, other=0.0) - cell_y
    w = tl.load(starts + edge * 3 + 2, mask=here, other=0.0) - cell_z
    for i in tl.static_range(3):
        m_x = tl.load(matrices + edge * 9 + 3 * i, mask=here, other=0.0)
        m_y = tl.load(matrices + edge * 9 + 3 * i + 1, mask=here, other=0.0)
        m_z = tl.load(matrices + edge * 9 + 3 * i + 2, mask=here, other=0.0)
        value = m_x * u + m_y * v + m_z * w
        tl.atomic_add(at + 6 + i, (weight * value * FIXED_POINT).to(tl.int64), mask=here, sem="relaxed")
        for j in tl.static_range(3):
            if j >= i:
                m = tl.load(matrices + edge * 9 + 3 * i + j, mask=here, other=0.0)
                first = i * 3 - i * (i + 1) // 2 + j
                tl.atomic_add(at + first, (weight * m * FIXED_POINT).to(tl.int64), mask=here, sem="relaxed")


@triton.jit(do_not_specialize=VARIABLE)
def _add_lines(
    edges, n_edges, starts, ways, matrices, settings, bits, last_ranks, system,
    low, high, nx, ny, nz, stride_x, stride_y, block: tl.constexpr,
):  # fmt: skip
    """Adds the lines of open edges to the marked voxels on them: that of the start, and each that the edge enters."""
    lane = tl.program_id(0) * block + tl.arange(0, block)
    live = lane < n_edges
    edge = tl.load(edges + lane, mask=live, other=0)
    s_x, s_y, s_z = _load_rotated(starts, edge, 2, live)
    w_x, w_y, w_z = _load_rotated(ways, edge, 2, live)
    weight = tl.load(settings + 7)
    _add_line(tl.floor(s_x), tl.floor(s_y), tl.floor(s_z), edge, starts, matrices, bits, last_ranks, system, weight,
              low, high, ny, nz, stride_x, stride_y, live)  # fmt: skip
    for axis in tl.static_range(3):
        start_a, start_b, start_c = rotate(axis, s_x, s_y, s_z)
        way_a, way_b, way_c = rotate(axis, w_x, w_y, w_z)
        _, _, lowest_c = rotate(axis, low, 0, 0)
        _, _, highest_c = rotate(axis, high, ny, nz)
        forward = way_c > 0.0
        stop = start_c + way_c
        first = tl.where(forward, tl.floor(start_c) + 1.0, tl.ceil(stop))
        last = tl.where(forward, tl.floor(stop), tl.floor(start_c))
        first = tl.minimum(tl.maximum(first, lowest_c), highest_c + 1.0).to(tl.int32)
        last = tl.maximum(tl.minimum(last, highest_c), lowest_c - 1.0).to(tl.int32)
        last = tl.where(live & (way_c != 0.0), last, first - 1)
        for step in range(tl.max(last - first, axis=0) + 1):
            plane = first + step
            part = (plane - start_c) / way_c
            cell_a, cell_b = tl.floor(start_a + part * way_a), tl.floor(start_b + part * way_b)
            cell_c = tl.where(forward, plane, plane - 1).to(tl.float64)
            x, y, z = rotate_back(axis, cell_a, cell_b, cell_c)
            _add_line(x, y, z, edge, starts, matrices, bits, last_ranks, system, weight,
                      low, high, ny, nz, stride_x, stride_y, plane <= last)  # fmt: skip


@device_guard
def voxelize_slab(soup: Soup, slab: Slab, weights: QefWeights) -> Part:
    """Returns the slab's coords [N, 3] int32, dual vertices [N, 3] float32 and flags [N, 3] bool."""
    nx, ny, nz = soup.shape
    row_words = -(-nz // 32)
    n_words = (slab.high - slab.low) * ny * row_words
    frame = (slab.low, slab.high, nx, ny, nz, ny * row_words * 32, row_words * 32)
    settings = _settings(soup, weights)
    mesh = (soup.corners, soup.normals, soup.offsets, settings)
    edge_rows, cell_rows = deal_rows(soup, slab)
    device = soup.corners.device

    bits = torch.zeros(n_words, dtype=torch.int32, device=device)
    for axis, rows in enumerate(edge_rows):
        for triangle, place in rows.steps():
            launch(_visit_rows, len(place), triangle, place, len(place), *mesh, *[bits] * 4, *frame, axis, False)
    counts = torch.empty_like(bits)
    launch(count_bits, n_words, bits, counts, n_words)
    last_ranks = counts.cumsum(0, dtype=torch.int32)
    del counts
    total = int(last_ranks[-1])
    system = torch.zeros((total, 9), dtype=torch.int64, device=device)
    intersected = torch.zeros((total, 3), dtype=torch.uint8, device=device)
    sums = (bits, last_ranks, system)
    for axis, rows in enumerate(edge_rows):
        for triangle, place in rows.steps():
            launch(_visit_rows, len(place), triangle, place, len(place), *mesh, *sums, intersected, *frame, axis, True)
    for axis, rows in enumerate(cell_rows if weights.face > 0 else ()):
        for triangle, place in rows.steps():
            launch(_add_overlaps, len(place), triangle, place, len(place), *mesh, *sums, *frame, axis)
    if weights.boundary > 0:
        lines = (soup.edges.start, soup.edges.way, soup.edges.matrix)
        launch(_add_lines, len(slab.edges), slab.edges, len(slab.edges), *lines, settings, *sums, *frame)
    coords = torch.empty((total, 3), dtype=torch.int32, device=device)
    launch(write_coords, n_words, bits, last_ranks, coords, n_words, slab.low, *frame[-2:])
    return Part(coords, solve_in_box(system), intersected.view(torch.bool))


def _settings(soup: Soup, weights: QefWeights) -> Tensor:
    """Returns [8] float64: voxel size, point weights by axis, face and edge weight. Scalar arguments lose precision."""
    points = [max(weights.regularization, MIN_REGULARIZATION) * s * s for s in soup.stretch]
    values = [*soup.voxel_size, *points, weights.face, weights.boundary]
    return torch.tensor(values, dtype=torch.float64, device=soup.corners.device)
