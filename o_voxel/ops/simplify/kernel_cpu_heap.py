"""What collapses one at a time work on: lists of each vertex's faces, quadrics, and a heap of edges; in numba."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from ...core.kernel_cpu import cached_njit

# As in `reference`: the pull to the middle of an edge, how far from it a vertex may be put, what length counts.
PULL = 1e-3
REACH = 2.0
LENGTH_WEIGHT = 1e-6
# Neighbours of an edge's ends.
MOST_AROUND = 4096
# Places in `State.size`: entries of the heap, of those put aside, faces left, faces at the last retry, whether faces
# may turn and thin as they must (0 or 1), the last number in `seen`.
HEAP, ASIDE, LEFT, RETRIED, FORCED, EPOCH = range(6)


class State(NamedTuple):
    """V vertices, F faces, and a heap with room for H edges.

    place: [V, 3] float64.  quadric: [V, 10] float64, the matrix's six entries, the vector, the constant.
    faces: [F, 3] int32, -1 in the first corner once gone.  facing: [F, 3] float32, unit normals at first.
    first, last: [V] int32, a vertex's list of corners (3 f + k), -1 for none.  after: [3 F] int32, the next of it.
    stamp: [V] int32, how often it moved; -1 once gone.  locked: [V] bool.
    price: [H] float64.  edge: [H, 3] int32: both ends, and the sum of their stamps.  aside: [H] int32, as edge [H, 3].
    seen, slot: [V] int32.  around: [MOST_AROUND, 6] int32 (see `_survey`).  size: [6] int64.
    """

    place: ndarray
    quadric: ndarray
    faces: ndarray
    facing: ndarray
    first: ndarray
    last: ndarray
    after: ndarray
    stamp: ndarray
    locked: ndarray
    price: ndarray
    edge: ndarray
    aside: ndarray
    seen: ndarray
    slot: ndarray
    around: ndarray
    size: ndarray


def prepare(place: ndarray, faces: ndarray, ends: ndarray, count: ndarray, border_weight: float, locked: ndarray):
    """The State of a mesh before `run`. ends: [E, 2] int32 edges; count: [E] int32 faces of each."""
    vertices, rows = len(place), len(faces)
    room = 2 * len(ends) + 64
    state = State(
        place.copy(),
        np.zeros((vertices, 10)),
        faces.copy(),
        np.zeros((rows, 3), np.float32),
        np.full(vertices, -1, np.int32),
        np.full(vertices, -1, np.int32),
        np.full(3 * rows, -1, np.int32),
        np.zeros(vertices, np.int32),
        locked.copy(),
        np.empty(room),
        np.empty((room, 3), np.int32),
        np.empty((room, 3), np.int32),
        np.zeros(vertices, np.int32),
        np.zeros(vertices, np.int32),
        np.zeros((MOST_AROUND, 6), np.int32),
        np.zeros(6, np.int64),
    )
    state.size[LEFT] = state.size[RETRIED] = rows
    _fill(state, ends, count, border_weight)
    return state


def _fill(s, ends, count, border_weight):
    """Faces into the lists, and all quadrics."""
    for f in range(len(s.faces)):
        a, b, c = s.faces[f, 0], s.faces[f, 1], s.faces[f, 2]
        for k in range(3):
            v, corner = s.faces[f, k], 3 * f + k
            if s.first[v] < 0:
                s.first[v] = corner
            else:
                s.after[s.last[v]] = corner
            s.last[v] = corner
        x, y, z = normal_of(s.place, a, b, c)
        twice = np.sqrt(x * x + y * y + z * z)
        if twice > 0:
            x, y, z = x / twice, y / twice, z / twice
            s.facing[f, 0], s.facing[f, 1], s.facing[f, 2] = x, y, z
            for k in range(3):
                _add_plane(s.quadric[s.faces[f, k]], s.place[a], x, y, z, twice / 2)
    for e in range(len(ends)):
        if count[e] == 1:
            _hold_border(s, ends[e, 0], ends[e, 1], border_weight)


def _hold_border(s, u, v, weight):
    """Adds the plane through an open edge, upright on its face, to both ends."""
    corner = s.first[u]
    while corner >= 0:
        f = corner // 3
        a, b, c = s.faces[f, 0], s.faces[f, 1], s.faces[f, 2]
        if a == v or b == v or c == v:
            nx, ny, nz = s.facing[f, 0], s.facing[f, 1], s.facing[f, 2]
            ex, ey, ez = s.place[v, 0] - s.place[u, 0], s.place[v, 1] - s.place[u, 1], s.place[v, 2] - s.place[u, 2]
            x, y, z = ey * nz - ez * ny, ez * nx - ex * nz, ex * ny - ey * nx
            length = np.sqrt(x * x + y * y + z * z)
            if length > 0:
                square = weight * (ex * ex + ey * ey + ez * ez)
                _add_plane(s.quadric[u], s.place[u], x / length, y / length, z / length, square)
                _add_plane(s.quadric[v], s.place[u], x / length, y / length, z / length, square)
            return
        corner = s.after[corner]


def _add_plane(q, at, x, y, z, weight):
    """Adds `weight` times the squared distance to the plane through `at` [3] with unit normal (x, y, z) to `q` [10]."""
    d = -(x * at[0] + y * at[1] + z * at[2])
    q[0] += weight * x * x
    q[1] += weight * x * y
    q[2] += weight * x * z
    q[3] += weight * y * y
    q[4] += weight * y * z
    q[5] += weight * z * z
    q[6] += weight * x * d
    q[7] += weight * y * d
    q[8] += weight * z * d
    q[9] += weight * d * d


def normal_of(place, a, b, c):
    """The normal of a triangle of rows of `place`, twice its area long."""
    ux, uy, uz = place[b, 0] - place[a, 0], place[b, 1] - place[a, 1], place[b, 2] - place[a, 2]
    vx, vy, vz = place[c, 0] - place[a, 0], place[c, 1] - place[a, 1], place[c, 2] - place[a, 2]
    return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


def meet(s, u, v):
    """Where u and v meet at the least error: (x, y, z, that error, the edge's squared length, the planes' weight)."""
    p, q, a, b = s.place[u], s.place[v], s.quadric[u], s.quadric[v]
    wx, wy, wz = q[0] - p[0], q[1] - p[1], q[2] - p[2]
    square = wx * wx + wy * wy + wz * wz
    xx, xy, xz, yy, yz, zz = a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5]
    fx, fy, fz, rest = a[6] + b[6], a[7] + b[7], a[8] + b[8], a[9] + b[9]
    weight = xx + yy + zz
    if s.locked[u] or s.locked[v]:
        mx, my, mz = (p[0], p[1], p[2]) if s.locked[u] else (q[0], q[1], q[2])
    else:
        mx, my, mz = p[0] + wx / 2, p[1] + wy / 2, p[2] + wz / 2
    # The gradient at the middle, halved, and the step from there: L D L^T.
    gx, gy, gz = xx * mx + xy * my + xz * mz + fx, xy * mx + yy * my + yz * mz + fy, xz * mx + yz * my + zz * mz + fz
    error = mx * (gx + fx) + my * (gy + fy) + mz * (gz + fz) + rest
    if not (s.locked[u] or s.locked[v]):
        pull = PULL * weight + 1e-12
        d0, l1, l2 = xx + pull, xy / (xx + pull), xz / (xx + pull)
        d1, e = yy + pull - l1 * xy, yz - l1 * xz
        l3 = e / d1
        d2 = zz + pull - l2 * xz - l3 * e
        y1 = -gy + l1 * gx
        z = (-gz + l2 * gx - l3 * y1) / d2
        y = y1 / d1 - l3 * z
        x = -gx / d0 - l1 * y - l2 * z
        if x * x + y * y + z * z <= REACH * REACH * square:
            error += (
                x * (xx * x + 2 * (xy * y + xz * z + gx)) + y * (yy * y + 2 * (yz * z + gy)) + z * (zz * z + 2 * gz)
            )
            mx, my, mz = mx + x, my + y, mz + z
    return mx, my, mz, max(error, 0.0), square, weight


def push(s, price, u, v, stamps):
    """Puts an edge on the heap, whose children of n are 4 n + 1 to 4 n + 4."""
    if s.size[HEAP] == len(s.price):
        _tidy(s)
    n = s.size[HEAP]
    s.size[HEAP] = n + 1
    while n > 0:
        up = (n - 1) >> 2
        if s.price[up] <= price:
            break
        s.price[n] = s.price[up]
        s.edge[n, 0], s.edge[n, 1], s.edge[n, 2] = s.edge[up, 0], s.edge[up, 1], s.edge[up, 2]
        n = up
    s.price[n] = price
    s.edge[n, 0], s.edge[n, 1], s.edge[n, 2] = u, v, stamps


def pop(s):
    """The cheapest entry: (price, u, v, stamps); the heap has one."""
    price, u, v, stamps = s.price[0], s.edge[0, 0], s.edge[0, 1], s.edge[0, 2]
    s.size[HEAP] -= 1
    last = s.size[HEAP]
    if last > 0:
        _sink(s, 0, s.price[last], s.edge[last, 0], s.edge[last, 1], s.edge[last, 2], last)
    return price, u, v, stamps


def _sink(s, n, price, u, v, stamps, end):
    """Puts an entry at or below place n of the first `end`."""
    while True:
        child = 4 * n + 1
        if child >= end:
            break
        best = child
        for k in range(child + 1, min(child + 4, end)):
            if s.price[k] < s.price[best]:
                best = k
        if s.price[best] >= price:
            break
        s.price[n] = s.price[best]
        s.edge[n, 0], s.edge[n, 1], s.edge[n, 2] = s.edge[best, 0], s.edge[best, 1], s.edge[best, 2]
        n = best
    s.price[n] = price
    s.edge[n, 0], s.edge[n, 1], s.edge[n, 2] = u, v, stamps


def is_current(s, u, v, stamps):
    """Whether neither end has moved or gone since the entry was made."""
    return s.stamp[u] >= 0 and s.stamp[v] >= 0 and s.stamp[u] + s.stamp[v] == stamps


def _tidy(s):
    """Drops the entries that are out of date, and orders the heap again."""
    kept = 0
    for n in range(s.size[HEAP]):
        u, v, stamps = s.edge[n, 0], s.edge[n, 1], s.edge[n, 2]
        if is_current(s, u, v, stamps):
            s.price[kept] = s.price[n]
            s.edge[kept, 0], s.edge[kept, 1], s.edge[kept, 2] = u, v, stamps
            kept += 1
    s.size[HEAP] = kept
    for n in range((kept - 2) >> 2, -1, -1):
        _sink(s, n, s.price[n], s.edge[n, 0], s.edge[n, 1], s.edge[n, 2], kept)


def offer(s, u, v, max_error):
    """Puts the edge on the heap at its price, where that is within `max_error`."""
    if s.locked[u] and s.locked[v]:
        return
    _, _, _, error, square, weight = meet(s, u, v)
    if error <= weight * max_error * max_error:
        push(s, error + LENGTH_WEIGHT * square, u, v, s.stamp[u] + s.stamp[v])


_add_plane = cached_njit(_add_plane)
normal_of = cached_njit(normal_of)
_hold_border = cached_njit(_hold_border)
_fill = cached_njit(_fill)
meet = cached_njit(meet)
_sink = cached_njit(_sink)
is_current = cached_njit(is_current)
_tidy = cached_njit(_tidy)
push = cached_njit(push)
pop = cached_njit(pop)
offer = cached_njit(offer)
