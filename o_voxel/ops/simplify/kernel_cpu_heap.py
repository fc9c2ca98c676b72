"""What collapses one at a time work on: lists of each vertex's faces, quadrics, and a heap of edges; in numba."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from ...core.kernel_cpu import cached_njit

# As in `reference`: the pull to the middle of an edge, how far from it a vertex may be put, what length counts. Less
# pull than there, which float64 bears: on what is almost flat it would take the vertex off the surface. More, where the
# vertex is too far.
PULL, MORE_PULL, MOST_PULL = 1e-7, 1e2, 2e-3
REACH = 2.0
LENGTH_WEIGHT = 1e-6
# Neighbours of an edge's ends.
MOST_AROUND = 4096
# Places in `State.size`: entries of the heap, of those put aside, faces left, faces at the last retry, whether faces
# may turn and thin as they must (0 or 1), the last number in `seen`, how many moves were made, whether this is a block
# of a larger surface (0 or 1): edges with a locked end, whose other faces it does not see, are left alone.
HEAP, ASIDE, LEFT, RETRIED, FORCED, EPOCH, MOVES, BLOCK = range(8)
# The stamp of a vertex that is no more.
GONE = np.iinfo(np.int32).max


class State(NamedTuple):
    """V vertices, F faces, and a heap with room for H edges.

    place: [V, 3] float64.  quadric: [V, 10] float64, the matrix's six entries, the vector, the constant.
    faces: [F, 3] int32, -1 in the first corner once gone.  facing: [F, 3] float32, unit normals at first.
    first, last: [V] int32, a vertex's list of corners (3 f + k), -1 for none.  after: [3 F] int32, the next of it.
    stamp: [V] int32, when it moved last, less than 0 before; GONE once gone.  locked: [V] bool.
    alone: [V] bool, whether only the cheapest of its edges is on the heap.
    price: [H] float64.  edge: [H, 4] int32: owner, other end, the stamp of each.  aside: [H, 4] int32, as edge.
    seen, slot: [V] int32.  around: [MOST_AROUND, 6] int32 (see `_survey`).  size: [8] int64.
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
    alone: ndarray
    price: ndarray
    edge: ndarray
    aside: ndarray
    seen: ndarray
    slot: ndarray
    around: ndarray
    size: ndarray


def prepare(place: ndarray, faces: ndarray, open_ends: ndarray, border_weight: float, locked: ndarray):
    """The State of a mesh before `run`, with its quadrics. open_ends: [B, 2] int32, edges with one face."""
    state = _empty(place, faces, locked)
    _link_faces(state)
    _add_planes(state, open_ends, border_weight)
    return state


def resume(place: ndarray, faces: ndarray, quadric: ndarray, facing: ndarray, locked: ndarray):
    """The State of a mesh in the midst of its collapses. quadric: [V, 10] float64.  facing: [F, 3] float32."""
    state = _empty(place, faces, locked)
    _link_faces(state)
    state.quadric[:] = quadric
    state.facing[:] = facing
    return state


def _empty(place, faces, locked):
    """A State without quadrics and lists."""
    vertices, rows = len(place), len(faces)
    # At most three edges a face, each twice.
    room = 6 * rows + vertices + 64
    state = State(
        place.copy(),
        np.zeros((vertices, 10)),
        faces.copy(),
        np.zeros((rows, 3), np.float32),
        np.full(vertices, -1, np.int32),
        np.full(vertices, -1, np.int32),
        np.full(3 * rows, -1, np.int32),
        np.arange(-vertices, 0, dtype=np.int32),
        locked.copy(),
        np.ones(vertices, np.bool_),
        np.empty(room),
        np.empty((room, 4), np.int32),
        np.empty((room, 4), np.int32),
        np.zeros(vertices, np.int32),
        np.zeros(vertices, np.int32),
        np.zeros((MOST_AROUND, 6), np.int32),
        np.zeros(8, np.int64),
    )
    state.size[LEFT] = state.size[RETRIED] = rows
    return state


def _link_faces(s):
    """Puts the faces into the lists of their corners."""
    for f in range(len(s.faces)):
        for k in range(3):
            v, corner = s.faces[f, k], 3 * f + k
            if s.first[v] < 0:
                s.first[v] = corner
            else:
                s.after[s.last[v]] = corner
            s.last[v] = corner


def _add_planes(s, open_ends, border_weight):
    """Adds the planes of the faces, and those that hold open edges, to the quadrics."""
    for f in range(len(s.faces)):
        a = s.faces[f, 0]
        x, y, z = normal_of(s.place, a, s.faces[f, 1], s.faces[f, 2])
        twice = np.sqrt(x * x + y * y + z * z)
        if twice > 0:
            x, y, z = x / twice, y / twice, z / twice
            s.facing[f, 0], s.facing[f, 1], s.facing[f, 2] = x, y, z
            for k in range(3):
                _add_plane(s.quadric[s.faces[f, k]], s.place[a], x, y, z, twice / 2)
    for e in range(len(open_ends)):
        _hold_border(s, open_ends[e, 0], open_ends[e, 1], border_weight)


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
    part = PULL
    while part <= MOST_PULL and not (s.locked[u] or s.locked[v]):
        pull = part * weight + 1e-12
        d0, l1, l2 = xx + pull, xy / (xx + pull), xz / (xx + pull)
        d1, e = yy + pull - l1 * xy, yz - l1 * xz
        l3 = e / d1
        d2 = zz + pull - l2 * xz - l3 * e
        y1 = -gy + l1 * gx
        z = (-gz + l2 * gx - l3 * y1) / d2
        y = y1 / d1 - l3 * z
        x = -gx / d0 - l1 * y - l2 * z
        if x * x + y * y + z * z <= REACH * REACH * square:
            error += x * (xx * x + 2 * (xy * y + xz * z + gx)) + y * (yy * y + 2 * (yz * z + gy))
            error += z * (zz * z + 2 * gz)
            return mx + x, my + y, mz + z, max(error, 0.0), square, weight
        part *= MORE_PULL
    return mx, my, mz, max(error, 0.0), square, weight


def push(s, price, u, v, at_u, at_v):
    """Puts an edge with its stamps on the heap, whose children of n are 4 n + 1 to 4 n + 4."""
    if s.size[HEAP] == len(s.price):
        _tidy(s)
    n = s.size[HEAP]
    s.size[HEAP] = n + 1
    while n > 0:
        up = (n - 1) >> 2
        if s.price[up] <= price:
            break
        _move(s, up, n)
        n = up
    s.price[n] = price
    s.edge[n, 0], s.edge[n, 1], s.edge[n, 2], s.edge[n, 3] = u, v, at_u, at_v


def pop(s):
    """The cheapest entry: (price, owner, other end, the stamp of each); the heap has one."""
    price, u, v, at_u, at_v = s.price[0], s.edge[0, 0], s.edge[0, 1], s.edge[0, 2], s.edge[0, 3]
    s.size[HEAP] -= 1
    if s.size[HEAP] > 0:
        _move(s, s.size[HEAP], 0)
        _sink(s, 0, s.size[HEAP])
    return price, u, v, at_u, at_v


def _move(s, old, new):
    """Copies an entry from one place to another."""
    s.price[new] = s.price[old]
    for k in range(4):
        s.edge[new, k] = s.edge[old, k]


def _sink(s, n, end):
    """Moves the entry at place n down to where it belongs among the first `end`."""
    price, u, v, at_u, at_v = s.price[n], s.edge[n, 0], s.edge[n, 1], s.edge[n, 2], s.edge[n, 3]
    while True:
        child = 4 * n + 1
        if child >= end:
            break
        best, least = child, s.price[child]
        for k in range(child + 1, min(child + 4, end)):
            if s.price[k] < least:
                best, least = k, s.price[k]
        if least >= price:
            break
        _move(s, best, n)
        n = best
    s.price[n] = price
    s.edge[n, 0], s.edge[n, 1], s.edge[n, 2], s.edge[n, 3] = u, v, at_u, at_v


def _tidy(s):
    """Drops the entries that are out of date, and orders the heap again."""
    kept = 0
    for n in range(s.size[HEAP]):
        owner, other = s.edge[n, 0], s.edge[n, 1]
        if s.stamp[owner] == s.edge[n, 2] and (s.alone[owner] or s.stamp[other] == s.edge[n, 3]):
            _move(s, n, kept)
            kept += 1
    s.size[HEAP] = kept
    for n in range((kept - 2) >> 2, -1, -1):
        _sink(s, n, kept)


def offer(s, u, max_error, all_but):
    """Puts the cheapest of the edges that u owns, those to what moved before it, on the heap.

    all_but: a vertex; all edges that u owns but the one to that, or -1 for the cheapest alone.
    """
    s.size[EPOCH] += 1
    epoch, best, least = s.size[EPOCH], -1, np.inf
    corner = s.first[u]
    while corner >= 0:
        f, k = corner // 3, corner % 3
        corner = s.after[corner]
        for j in range(1, 3):
            x = s.faces[f, (k + j) % 3]
            if s.seen[x] == epoch or s.stamp[x] > s.stamp[u] or x == all_but or (s.locked[u] and s.locked[x]):
                continue
            if s.size[BLOCK] == 1 and (s.locked[u] or s.locked[x]):
                continue
            s.seen[x] = epoch
            _, _, _, error, square, weight = meet(s, u, x)
            price = error + LENGTH_WEIGHT * square
            if error > weight * max_error * max_error:
                continue
            if all_but >= 0:
                push(s, price, u, x, s.stamp[u], s.stamp[x])
            elif price < least:
                best, least = x, price
    s.alone[u] = all_but < 0
    if best >= 0:
        push(s, least, u, best, s.stamp[u], s.stamp[best])


_add_plane = cached_njit(_add_plane)
normal_of = cached_njit(normal_of, inner=True)
_hold_border = cached_njit(_hold_border)
_link_faces = cached_njit(_link_faces, inner=False)
_add_planes = cached_njit(_add_planes, inner=False)
meet = cached_njit(meet, inner=True)
_move = cached_njit(_move)
_sink = cached_njit(_sink)
_tidy = cached_njit(_tidy)
push = cached_njit(push, inner=True)
pop = cached_njit(pop, inner=True)
offer = cached_njit(offer, inner=True)
