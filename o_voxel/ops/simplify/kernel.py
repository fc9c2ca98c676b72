"""The steps of a round in Triton: a lane an edge or a face. Twins of those in reference.py.

Floor of a round, bytes: an edge's costs 8 + 120 at its ends, its keys 24 and at its ends 64 a pass, a face's check 12
and 12 at its corners; of what is at ends and corners most is in a cache where the mesh's vertices are in any order of
place. Least keys are taken by integer atomics, so the order in which they come is no matter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from .graph import LOCK, Graph
from .reference import CLASS_BITS, CLASSES, LEAST_COSINE, LEAST_SHAPE, LENGTH_WEIGHT, NO_KEY, PASSES, PULL, REACH, THIN

BLOCK = 256
_LOCK = tl.constexpr(LOCK)
_CLASS_BITS, _CLASSES = tl.constexpr(CLASS_BITS), tl.constexpr(CLASSES)
_LEAST_COSINE, _LEAST_SHAPE, _THIN = tl.constexpr(LEAST_COSINE), tl.constexpr(LEAST_SHAPE), tl.constexpr(THIN)
_LENGTH_WEIGHT, _PULL, _REACH = tl.constexpr(LENGTH_WEIGHT), tl.constexpr(PULL), tl.constexpr(REACH)
_NO_KEY = tl.constexpr(NO_KEY)


@device_guard
def edge_costs(graph: Graph, turn: int, max_error: float) -> Tensor:
    """As reference.edge_costs, up to rounding."""
    count = len(graph.ends)
    cost = torch.empty(count, dtype=torch.float32, device=graph.ends.device)
    _cost_kernel[(triton.cdiv(count, BLOCK),)](
        graph.position, graph.quadric, graph.degree, graph.ends, graph.count, graph.ready, cost,
        count, turn, max_error * max_error, BLOCK=BLOCK, enable_fp_fusion=True,
    )  # fmt: skip
    return cost


@device_guard
def choose_edges(graph: Graph, cost: Tensor, limit: Tensor, turn: int) -> Tensor:
    """As reference.choose_edges, exactly."""
    count, vertices, device = len(graph.ends), len(graph.position), cost.device
    grid = (triton.cdiv(count, BLOCK),)
    keys = torch.empty(count, dtype=torch.int64, device=device)
    chosen = torch.zeros(count, dtype=torch.bool, device=device)
    near = torch.zeros(vertices, dtype=torch.bool, device=device)
    for step in range(PASSES):
        least = torch.full((vertices,), NO_KEY, dtype=torch.int64, device=device)
        _claim_kernel[grid](
            graph.ends, cost, limit, near, keys, least, count, turn, FIRST=step == 0, BLOCK=BLOCK, enable_fp_fusion=True
        )
        around = least.clone()
        _spread_kernel[grid](graph.ends, least, around, count, BLOCK=BLOCK, enable_fp_fusion=True)
        taken = torch.zeros_like(near)
        _take_kernel[grid](graph.ends, keys, around, chosen, taken, count, BLOCK=BLOCK, enable_fp_fusion=True)
        if step + 1 < PASSES:
            _near_kernel[grid](graph.ends, taken, near, count, BLOCK=BLOCK, enable_fp_fusion=True)
    return chosen.nonzero().flatten()


@device_guard
def merge_edges(graph: Graph, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """As reference.merge_edges, up to rounding."""
    target, quadric = graph.position.new_empty(len(chosen), 3), graph.quadric.new_empty(len(chosen), 10)
    if len(chosen):
        _merge_kernel[(triton.cdiv(len(chosen), BLOCK),)](
            graph.position, graph.quadric, graph.degree, graph.ends, chosen, target, quadric, len(chosen),
            BLOCK=BLOCK, enable_fp_fusion=True,
        )  # fmt: skip
    return target, quadric


@device_guard
def check_faces(graph: Graph, label: Tensor, target: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
    """As reference.check_faces, up to rounding."""
    spoils = torch.zeros(len(target), dtype=torch.bool, device=target.device)
    star = torch.zeros(len(target), dtype=torch.int32, device=target.device)
    _check_kernel[(triton.cdiv(len(graph.faces), BLOCK),)](
        graph.position, graph.faces, graph.facing, label, target.contiguous(), limit, spoils, star, len(graph.faces),
        BLOCK=BLOCK, enable_fp_fusion=True,
    )  # fmt: skip
    return spoils, star


@triton.jit
def _lanes(n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return at, at < n


@triton.jit
def _load_ends(ends, at, live):
    return tl.load(ends + 2 * at, live, 0).to(tl.int64), tl.load(ends + 2 * at + 1, live, 0).to(tl.int64)


@triton.jit
def _load3(rows, row, live):
    at = rows + 3 * row
    return tl.load(at, live, 0.0), tl.load(at + 1, live, 0.0), tl.load(at + 2, live, 0.0)


@triton.jit
def _load_quadric(rows, row, live):
    at = rows + 10 * row
    xx, xy, xz = tl.load(at, live, 0.0), tl.load(at + 1, live, 0.0), tl.load(at + 2, live, 0.0)
    yy, yz, zz = tl.load(at + 3, live, 0.0), tl.load(at + 4, live, 0.0), tl.load(at + 5, live, 0.0)
    x, y, z = tl.load(at + 6, live, 0.0), tl.load(at + 7, live, 0.0), tl.load(at + 8, live, 0.0)
    return xx, xy, xz, yy, yz, zz, x, y, z, tl.load(at + 9, live, 0.0)


@triton.jit
def _times(xx, xy, xz, yy, yz, zz, a, b, c):
    return xx * a + xy * b + xz * c, xy * a + yy * b + yz * c, xz * a + yz * b + zz * c


@triton.jit
def _least(xx, xy, xz, yy, yz, zz, vx, vy, vz, mx, my, mz):
    """The point with the least value, pulled to the middle m, as reference._least."""
    pull = (xx + yy + zz) * _PULL + 1e-12
    rx, ry, rz = pull * mx - vx, pull * my - vy, pull * mz - vz
    xx, yy, zz = xx + pull, yy + pull, zz + pull
    l10, l20 = xy / xx, xz / xx
    d1, rest = yy - l10 * xy, yz - l10 * xz
    l21 = rest / d1
    d2 = zz - l20 * xz - l21 * rest
    ry = ry - l10 * rx
    z = (rz - l20 * rx - l21 * ry) / d2
    y = ry / d1 - l21 * z
    return rx / xx - l10 * y - l20 * z, y, z


@triton.jit
def _rank(degree):
    return tl.where(degree >= _LOCK, 3, tl.where(degree == 2, 1, tl.where(degree > 0, 2, 0)))


@triton.jit
def _recenter(xx, xy, xz, yy, yz, zz, vx, vy, vz, constant, x, y, z):
    """The vector and the constant of a quadric about its origin + (x, y, z)."""
    mx, my, mz = _times(xx, xy, xz, yy, yz, zz, x, y, z)
    constant += (2 * vx + mx) * x + (2 * vy + my) * y + (2 * vz + mz) * z
    return vx + mx, vy + my, vz + mz, constant


@triton.jit
def _merge(positions, quadrics, start, end, first, second, live):
    """As reference.merge: the target, the squared length of the edge, and the joint quadric. first, second: ranks."""
    sx, sy, sz = _load3(positions, start, live)
    ex, ey, ez = _load3(positions, end, live)
    wx, wy, wz = ex - sx, ey - sy, ez - sz
    xx, xy, xz, yy, yz, zz, vx, vy, vz, constant = _load_quadric(quadrics, end, live)
    vx, vy, vz, constant = _recenter(xx, xy, xz, yy, yz, zz, vx, vy, vz, constant, -wx, -wy, -wz)
    axx, axy, axz, ayy, ayz, azz, ax, ay, az, a = _load_quadric(quadrics, start, live)
    xx, xy, xz, yy, yz, zz = xx + axx, xy + axy, xz + axz, yy + ayy, yz + ayz, zz + azz
    vx, vy, vz, constant = vx + ax, vy + ay, vz + az, constant + a

    hx, hy, hz = wx / 2, wy / 2, wz / 2
    x, y, z = _least(xx, xy, xz, yy, yz, zz, vx, vy, vz, hx, hy, hz)
    square = wx * wx + wy * wy + wz * wz
    off = (x - hx) * (x - hx) + (y - hy) * (y - hy) + (z - hz) * (z - hz) > square * (_REACH * _REACH)
    x, y, z = tl.where(off, hx, x), tl.where(off, hy, y), tl.where(off, hz, z)
    x = tl.where(first > second, 0.0, tl.where(second > first, wx, x))
    y = tl.where(first > second, 0.0, tl.where(second > first, wy, y))
    z = tl.where(first > second, 0.0, tl.where(second > first, wz, z))
    return x, y, z, square, xx, xy, xz, yy, yz, zz, vx, vy, vz, constant


@triton.jit(do_not_specialize=["n"])
def _merge_kernel(positions, quadrics, degrees, ends, chosen, targets, merged, n, BLOCK: tl.constexpr):
    at, live = _lanes(n, BLOCK)
    start, end = _load_ends(ends, tl.load(chosen + at, live, 0), live)
    first, second = _rank(tl.load(degrees + start, live, 0)), _rank(tl.load(degrees + end, live, 0))
    x, y, z, _, xx, xy, xz, yy, yz, zz, vx, vy, vz, constant = _merge(
        positions, quadrics, start, end, first, second, live
    )
    vx, vy, vz, constant = _recenter(xx, xy, xz, yy, yz, zz, vx, vy, vz, constant, x, y, z)
    row = merged + 10 * at
    tl.store(row, xx, live)
    tl.store(row + 1, xy, live)
    tl.store(row + 2, xz, live)
    tl.store(row + 3, yy, live)
    tl.store(row + 4, yz, live)
    tl.store(row + 5, zz, live)
    tl.store(row + 6, vx, live)
    tl.store(row + 7, vy, live)
    tl.store(row + 8, vz, live)
    tl.store(row + 9, constant, live)
    # To the bit where one end stays: there and back again would be rounded.
    px, py, pz = _load3(positions, tl.where(first < second, end, start), live)
    between = first == second
    tl.store(targets + 3 * at, tl.where(between, px + x, px), live)
    tl.store(targets + 3 * at + 1, tl.where(between, py + y, py), live)
    tl.store(targets + 3 * at + 2, tl.where(between, pz + z, pz), live)


@triton.jit(do_not_specialize=["n", "turn"])
def _cost_kernel(
    positions, quadrics, degrees, ends, counts, ready, costs, n, turn, square_error, BLOCK: tl.constexpr
):  # fmt: skip
    at, live = _lanes(n, BLOCK)
    start, end = _load_ends(ends, at, live)
    first_degree, second_degree = tl.load(degrees + start, live, 0), tl.load(degrees + end, live, 0)
    x, y, z, square, xx, xy, xz, yy, yz, zz, vx, vy, vz, constant = _merge(
        positions, quadrics, start, end, _rank(first_degree), _rank(second_degree), live
    )
    mx, my, mz = _times(xx, xy, xz, yy, yz, zz, x, y, z)
    error = tl.maximum((mx + 2 * vx) * x + (my + 2 * vy) * y + (mz + 2 * vz) * z + constant, 0.0)
    across = (tl.load(counts + at, live, 0) == 2) & (first_degree > 0) & (second_degree > 0)
    allowed = (tl.load(ready + at, live, 0) <= turn) & (across == 0) & ((first_degree <= 2) | (second_degree <= 2))
    allowed = allowed & (error <= (xx + yy + zz) * square_error)
    cost = error + square * _LENGTH_WEIGHT
    # NaN compares as false.
    tl.store(costs + at, tl.where(allowed & (cost < float("inf")), cost, float("inf")), live)


@triton.jit(do_not_specialize=["n", "turn"])
def _claim_kernel(ends, costs, limit, near, keys, least, n, turn, FIRST: tl.constexpr, BLOCK: tl.constexpr):
    """The edges' keys, as reference._keys in the first pass and of those away from `near` after it; least by vertex."""
    at, live = _lanes(n, BLOCK)
    start, end = _load_ends(ends, at, live)
    if FIRST:
        top = tl.load(limit)
        cost = tl.load(costs + at, live, float("inf"))
        wanted = (cost <= top) & (cost < float("inf"))
        lowest = (top.to(tl.int32, bitcast=True) >> _CLASS_BITS) - _CLASSES
        classes = tl.maximum(cost.to(tl.int32, bitcast=True) >> _CLASS_BITS, lowest).to(tl.int64)
        x = (at * 0x9E3779B1 + turn.to(tl.int64) * 0x85EBCA6B) & 0xFFFFFFFF
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
        x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
        key = tl.where(wanted, (classes << 32) | (x ^ (x >> 16)), _NO_KEY)
    else:
        key = tl.load(keys + at, live, _NO_KEY)
        close = tl.load(near + start, live, 0).to(tl.int32) | tl.load(near + end, live, 0).to(tl.int32)
        key = tl.where(close != 0, _NO_KEY, key)
    tl.store(keys + at, key, live)
    counts = live & (key != _NO_KEY)
    tl.atomic_min(least + start, key, mask=counts, sem="relaxed")
    tl.atomic_min(least + end, key, mask=counts, sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def _spread_kernel(ends, least, around, n, BLOCK: tl.constexpr):
    """Each vertex's least key goes to its neighbours."""
    at, live = _lanes(n, BLOCK)
    start, end = _load_ends(ends, at, live)
    first, second = tl.load(least + start, live, 0), tl.load(least + end, live, 0)
    tl.atomic_min(around + start, second, mask=live & (second < first), sem="relaxed")
    tl.atomic_min(around + end, first, mask=live & (first < second), sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def _take_kernel(ends, keys, around, chosen, taken, n, BLOCK: tl.constexpr):
    """Edges whose key is the least around both ends are chosen; their ends are taken."""
    at, live = _lanes(n, BLOCK)
    start, end = _load_ends(ends, at, live)
    key = tl.load(keys + at, live, _NO_KEY)
    live = live & (key != _NO_KEY)
    here = live & (tl.load(around + start, live, 0) == key) & (tl.load(around + end, live, 0) == key)
    tl.store(chosen + at, here, here)
    tl.store(taken + start, here, here)
    tl.store(taken + end, here, here)


@triton.jit(do_not_specialize=["n"])
def _near_kernel(ends, taken, near, n, BLOCK: tl.constexpr):
    """The vertices that are taken, and their neighbours."""
    at, live = _lanes(n, BLOCK)
    start, end = _load_ends(ends, at, live)
    close = tl.load(taken + start, live, 0).to(tl.int32) | tl.load(taken + end, live, 0).to(tl.int32)
    here = live & (close != 0)
    tl.store(near + start, here, here)
    tl.store(near + end, here, here)


@triton.jit
def _load_corner(positions, corners, targets, label, edge, at, mask):
    """Position of a corner before, and after the collapse: `edge`'s target where the corner is one of its ends."""
    x, y, z = _load3(positions, tl.load(corners + at, mask, 0).to(tl.int64), mask)
    moves = mask & (label >= 0)
    tx, ty, tz = _load3(targets, edge, moves)
    return x, y, z, tl.where(moves, tx, x), tl.where(moves, ty, y), tl.where(moves, tz, z)


@triton.jit
def _normal(ax, ay, az, bx, by, bz, cx, cy, cz):
    """The normal, twice the area long, that length, and the sum of the squared sides."""
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    wx, wy, wz = cx - bx, cy - by, cz - bz
    sides = ux * ux + uy * uy + uz * uz + vx * vx + vy * vy + vz * vz + wx * wx + wy * wy + wz * wz
    return x, y, z, tl.sqrt(x * x + y * y + z * z), tl.maximum(sides, 1e-30)


@triton.jit(do_not_specialize=["n"])
def _check_kernel(positions, faces, facings, labels, targets, limit, spoils, star, n, BLOCK: tl.constexpr):
    at, live = _lanes(n, BLOCK)
    la = tl.load(labels + tl.load(faces + 3 * at, live, 0).to(tl.int64), live, -1)
    lb = tl.load(labels + tl.load(faces + 3 * at + 1, live, 0).to(tl.int64), live, -1)
    lc = tl.load(labels + tl.load(faces + 3 * at + 2, live, 0).to(tl.int64), live, -1)
    edge = tl.maximum(la, tl.maximum(lb, lc)).to(tl.int64)
    touched = live & (edge >= 0)
    tl.atomic_add(star + edge, tl.full(edge.shape, 1, tl.int32), mask=touched, sem="relaxed")
    alone = touched & ((la >= 0).to(tl.int32) + (lb >= 0).to(tl.int32) + (lc >= 0).to(tl.int32) == 1)
    ax, ay, az, dx, dy, dz = _load_corner(positions, faces, targets, la, edge, 3 * at, alone)
    bx, by, bz, ex, ey, ez = _load_corner(positions, faces, targets, lb, edge, 3 * at + 1, alone)
    cx, cy, cz, fx, fy, fz = _load_corner(positions, faces, targets, lc, edge, 3 * at + 2, alone)
    _, _, _, old_area, old_sides = _normal(ax, ay, az, bx, by, bz, cx, cy, cz)
    nx, ny, nz, area, sides = _normal(dx, dy, dz, ex, ey, ez, fx, fy, fz)
    x, y, z = _load3(facings, at, alone)
    turned = nx * x + ny * y + nz * z < area * _LEAST_COSINE * (x * x + y * y + z * z)
    shape = area / sides
    thinned = (shape < _LEAST_SHAPE) & (shape < old_area / old_sides)
    thinned = thinned & (sides * sides * (_THIN * _LEAST_SHAPE) > tl.load(limit))
    spoiled = alone & (turned | thinned)
    tl.store(spoils + edge, spoiled, spoiled)
