"""Edge collapses one at a time, cheapest first, in numba.

The surface may be any set of triangles (Garland and Heckbert 1997). An entry of the heap is out of date when one of its
ends has moved since; nothing is taken out before it comes up.
"""

from __future__ import annotations

import numpy as np

from ...core.kernel_cpu import cached_njit
from . import kernel_cpu_heap
from .kernel_cpu_heap import (
    ASIDE,
    BLOCK,
    EPOCH,
    FORCED,
    GONE,
    HEAP,
    LEFT,
    LENGTH_WEIGHT,
    MOST_AROUND,
    MOVES,
    RETRIED,
    meet,
    normal_of,
    offer,
    pop,
    push,
)

# As in `reference`: how far a face may turn, from which shape on it is thin, and what that costs.
LEAST_COSINE, LEAST_SHAPE, THIN = 0.2, 0.01, 1e-4
# Refused edges are tried again when this part of the faces has gone since.
AGAIN = 0.1
# What `run` may change: nothing of how the surface is connected; or holes and small parts. Sheets never come to touch:
# that saves a little distance where many are near each other, and folds them over.
STRICT, LOOSE = 0, 1
# What `_try` returns besides a cost.
DONE, REFUSED, NO_EDGE = -1.0, -2.0, -3.0


def run(s, target, max_error, may, steps, most):
    """Collapses at most `steps` edges, until at most `target` faces are left; returns whether that is the end.

    most: no edge that costs more is collapsed; they stay on the heap.
    """
    while steps > 0:
        if s.size[LEFT] <= target:
            return True
        if s.size[HEAP] == 0:
            if s.size[ASIDE] == 0 or not _retry(s, may, max_error):
                return True
            continue
        if s.price[0] > most:
            return True
        price, u, v, at_u, at_v = pop(s)
        if s.stamp[u] != at_u:
            continue
        if s.stamp[v] != at_v:
            if s.alone[u]:
                offer(s, u, max_error, -1)
            continue
        # What is locked keeps its row, and so its place to the bit.
        keep, drop = (v, u) if s.locked[v] else (u, v)
        cost = _try(s, keep, drop, price, may)
        if cost == DONE:
            steps -= 1
            offer(s, keep, max_error, -1)
            if s.size[ASIDE] > 0 and s.size[LEFT] < (1 - AGAIN) * s.size[RETRIED]:
                _retry(s, may, max_error)
            continue
        if s.alone[u]:
            offer(s, u, max_error, v)
        if cost == REFUSED:
            _put_aside(s, u, v)
        elif cost > 0:
            push(s, cost, u, v, at_u, at_v)
    return False


def start(s, max_error):
    """Puts the cheapest edge of each vertex on the heap."""
    for v in range(len(s.place)):
        offer(s, v, max_error, -1)


def _put_aside(s, u, v):
    if s.size[ASIDE] == len(s.aside):
        kept = 0
        for n in range(s.size[ASIDE]):
            if s.stamp[s.aside[n, 0]] == s.aside[n, 2] and s.stamp[s.aside[n, 1]] == s.aside[n, 3]:
                for k in range(4):
                    s.aside[kept, k] = s.aside[n, k]
                kept += 1
        s.size[ASIDE] = kept
    n = s.size[ASIDE]
    s.aside[n, 0], s.aside[n, 1], s.aside[n, 2], s.aside[n, 3] = u, v, s.stamp[u], s.stamp[v]
    s.size[ASIDE] = n + 1


def _retry(s, may, max_error):
    """Puts the edges that were put aside on the heap again; False where all has been tried."""
    if s.size[RETRIED] == s.size[LEFT]:
        if s.size[FORCED] == 1 or may == STRICT or max_error < np.inf or s.size[BLOCK] == 1:
            return False
        s.size[FORCED] = 1
    s.size[RETRIED] = s.size[LEFT]
    count = s.size[ASIDE]
    s.size[ASIDE] = 0
    for n in range(count):
        u, v, at_u, at_v = s.aside[n, 0], s.aside[n, 1], s.aside[n, 2], s.aside[n, 3]
        if s.stamp[u] == at_u and s.stamp[v] == at_v:
            _, _, _, error, square, _ = meet(s, u, v)
            push(s, error + LENGTH_WEIGHT * square, u, v, at_u, at_v)
    return True


def _try(s, u, v, price, may):
    """Makes u and v one: DONE, or REFUSED, or NO_EDGE where they are no edge any more, or what it costs where more."""
    n, shared, only_u, only_v = _survey(s, u, v)
    if n < 0:
        return REFUSED
    if shared == 0:
        return NO_EDGE
    meeting = shared == 2 and _has_odd(s, n, 1) and _has_odd(s, n, 2)
    doubles, extra = _doubles(s, u, v)
    if may == STRICT and (doubles > 0 or only_u + only_v == 0):
        return REFUSED
    if (meeting and not _may_meet(s, may)) or not _fits(s, n, may):
        return REFUSED
    if only_u + only_v == 0:
        extra += _worth(s, u, v)
    x, y, z, error, square, _ = meet(s, u, v)
    # Where all faces go, none is left that could turn.
    if doubles < only_u + only_v:
        for here, there in ((u, v), (v, u)):
            thin = _spoils(s, here, there, x, y, z)
            if thin < 0:
                return REFUSED
            extra += thin
    cost = error + LENGTH_WEIGHT * square + extra
    if extra > 0 and price < cost * (1 - 1e-9):
        return cost
    if s.size[LEFT] <= shared + doubles:
        return REFUSED
    _collapse(s, u, v, x, y, z, doubles)
    return DONE


def _survey(s, u, v):
    """Counts the neighbours of both in `s.around`, from 0: vertex, faces at u, at v, with both, winding at u, at v.

    A winding is how many faces run from the end to the neighbour less how many run back. Returns (neighbours, or -1
    where there are too many; faces with both ends; other faces of u; of v).
    """
    s.size[EPOCH] += 1
    epoch, n, shared, only_u, only_v = s.size[EPOCH], 0, 0, 0, 0
    for side in range(2):
        here, there = (u, v) if side == 0 else (v, u)
        corner = s.first[here]
        while corner >= 0:
            f, k = corner // 3, corner % 3
            corner = s.after[corner]
            following, before = s.faces[f, (k + 1) % 3], s.faces[f, (k + 2) % 3]
            both = following == there or before == there
            if both:
                shared += 1 - side
            elif side == 0:
                only_u += 1
            else:
                only_v += 1
            for j in range(2):
                x = following if j == 0 else before
                if x == there:
                    continue
                if s.seen[x] != epoch:
                    if n == MOST_AROUND:
                        return -1, 0, 0, 0
                    s.seen[x], s.slot[x] = epoch, n
                    for c in range(1, 6):
                        s.around[n, c] = 0
                    s.around[n, 0] = x
                    n += 1
                row = s.slot[x]
                s.around[row, 1 + side] += 1
                s.around[row, 4 + side] += 1 - 2 * j
                if both and side == 0:
                    s.around[row, 3] += 1
    return n, shared, only_u, only_v


def _doubles(s, u, v):
    """Faces that would lie on each other, after `_survey`: (how many would go, what their area costs).

    Two of opposite winding both go. The faces at u, at v of the survey are lessened by what goes.
    """
    gone, extra = 0, 0.0
    corner = s.first[u]
    while corner >= 0:
        f, k = corner // 3, corner % 3
        corner = s.after[corner]
        x, y = s.faces[f, (k + 1) % 3], s.faces[f, (k + 2) % 3]
        if x == v or y == v or s.around[s.slot[x], 2] == 0 or s.around[s.slot[y], 2] == 0:
            continue
        other = _face_with(s, v, x, y)
        if other < 0:
            continue
        opposite = _follows(s, other, y, x)
        gone += 1 + opposite
        extra += _area_cost(s, f) + (_area_cost(s, other) if opposite else 0.0)
        for end in (x, y):
            row = s.slot[end]
            s.around[row, 1] -= 1
            s.around[row, 4] -= 1 if end == x else -1
            if opposite:
                s.around[row, 2] -= 1
                s.around[row, 5] += 1 if end == x else -1
    return gone, extra


def _face_with(s, v, x, y):
    """The face of v, x and y, or -1."""
    corner = s.first[v]
    while corner >= 0:
        f, k = corner // 3, corner % 3
        a, b = s.faces[f, (k + 1) % 3], s.faces[f, (k + 2) % 3]
        if (a == x and b == y) or (a == y and b == x):
            return f
        corner = s.after[corner]
    return -1


def _follows(s, f, x, y):
    """Whether y follows x in face f."""
    for k in range(3):
        if s.faces[f, k] == x:
            return s.faces[f, (k + 1) % 3] == y
    return False


def _area_cost(s, f):
    """What the loss of a face costs: its area by its longest side squared."""
    a, b, c = s.faces[f, 0], s.faces[f, 1], s.faces[f, 2]
    x, y, z = normal_of(s.place, a, b, c)
    longest = max(_square(s.place, a, b), _square(s.place, b, c), _square(s.place, c, a))
    return np.sqrt(x * x + y * y + z * z) / 2 * longest


def _square(place, a, b):
    """The squared distance of two rows of `place`."""
    x, y, z = place[b, 0] - place[a, 0], place[b, 1] - place[a, 1], place[b, 2] - place[a, 2]
    return x * x + y * y + z * z


def _worth(s, u, v):
    """What the faces with both ends cost, where they are all there is."""
    cost = 0.0
    corner = s.first[u]
    while corner >= 0:
        cost += _area_cost(s, corner // 3)
        corner = s.after[corner]
    return cost


def _has_odd(s, n, side):
    """Whether an edge of an end has other than two faces, after `_survey`. side: 1 for u, 2 for v."""
    odd = False
    for row in range(n):
        odd |= s.around[row, side] != 0 and s.around[row, side] != 2
    return odd


def _may_meet(s, may):
    """Whether two borders, or curves of more than two faces, may meet across an edge."""
    return may == LOOSE and s.size[FORCED] == 1


def _fits(s, n, may):
    """Whether what is joined stays a surface as `may` says: the link condition (Dey et al. 1999), or looser."""
    for row in range(n):
        at_u, at_v, tips = s.around[row, 1], s.around[row, 2], s.around[row, 3]
        joined = at_u + at_v - 2 * tips
        # What must stay keeps its edges, to what lies on each other and goes too.
        if joined <= 0 and s.locked[s.around[row, 0]]:
            return False
        if at_u == 0 or at_v == 0:
            continue
        if tips == 0 and may == STRICT:
            return False
        if joined > 2 and at_u <= 2 and at_v <= 2:
            return False
        if joined == 2 and tips == 0 and s.around[row, 4] + s.around[row, 5] != 0:
            return False
    return True


def _spoils(s, u, v, x, y, z):
    """-1 where a face of u without v would turn with u at (x, y, z); else what it costs that faces become thin."""
    cost = 0.0
    corner = s.first[u]
    while corner >= 0:
        f, k = corner // 3, corner % 3
        corner = s.after[corner]
        b, c = s.faces[f, (k + 1) % 3], s.faces[f, (k + 2) % 3]
        if b == v or c == v:
            continue
        p, q = s.place[b], s.place[c]
        ax, ay, az, bx, by, bz = p[0] - x, p[1] - y, p[2] - z, q[0] - x, q[1] - y, q[2] - z
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        ox, oy, oz = normal_of(s.place, u, b, c)
        area, old = np.sqrt(nx * nx + ny * ny + nz * nz), np.sqrt(ox * ox + oy * oy + oz * oz)
        if s.size[FORCED]:
            if nx * ox + ny * oy + nz * oz < LEAST_COSINE * area * old:
                return -1.0
            continue
        fx, fy, fz = s.facing[f, 0], s.facing[f, 1], s.facing[f, 2]
        if nx * fx + ny * fy + nz * fz < LEAST_COSINE * area * (fx * fx + fy * fy + fz * fz):
            return -1.0
        side = _square(s.place, b, c)
        sides = ax * ax + ay * ay + az * az + bx * bx + by * by + bz * bz + side
        if area < LEAST_SHAPE * sides:
            old_sides = _square(s.place, u, b) + _square(s.place, u, c) + side
            if area * old_sides < old * sides:
                cost += THIN * LEAST_SHAPE * sides * sides
    return cost


def _collapse(s, u, v, x, y, z, doubles):
    """Moves v into u at (x, y, z): lists, faces, quadrics. doubles: whether `_doubles` found any."""
    corner = s.first[u]
    while corner >= 0:
        f, k = corner // 3, corner % 3
        corner = s.after[corner]
        b, c = s.faces[f, (k + 1) % 3], s.faces[f, (k + 2) % 3]
        if b == v or c == v:
            _drop(s, f)
            continue
        if doubles == 0:
            continue
        other = _face_with(s, v, b, c)
        if other >= 0:
            opposite = _follows(s, other, c, b)
            _drop(s, f)
            if opposite:
                _drop(s, other)
    corner = s.first[v]
    while corner >= 0:
        s.faces[corner // 3, corner % 3] = u
        corner = s.after[corner]
    if s.first[u] < 0:
        s.first[u], s.last[u] = s.first[v], s.last[v]
    elif s.first[v] >= 0:
        s.after[s.last[u]] = s.first[v]
        s.last[u] = s.last[v]
    s.first[v] = s.last[v] = -1
    s.place[u, 0], s.place[u, 1], s.place[u, 2] = x, y, z
    for k in range(10):
        s.quadric[u, k] += s.quadric[v, k]
    s.size[MOVES] += 1
    s.stamp[u], s.stamp[v] = s.size[MOVES], GONE
    s.locked[u] |= s.locked[v]


def _drop(s, f):
    """Takes a face out of the lists of its corners."""
    for k in range(3):
        v, corner = s.faces[f, k], 3 * f + k
        at, before = s.first[v], -1
        while at != corner:
            at, before = s.after[at], at
        if before < 0:
            s.first[v] = s.after[corner]
        else:
            s.after[before] = s.after[corner]
        if s.last[v] == corner:
            s.last[v] = before
    s.faces[f, 0] = -1
    s.size[LEFT] -= 1


_square = cached_njit(_square, kernel_cpu_heap)
_area_cost = cached_njit(_area_cost, kernel_cpu_heap)
_worth = cached_njit(_worth, kernel_cpu_heap)
_follows = cached_njit(_follows, kernel_cpu_heap)
_face_with = cached_njit(_face_with, kernel_cpu_heap)
_doubles = cached_njit(_doubles, kernel_cpu_heap)
_survey = cached_njit(_survey, kernel_cpu_heap)
_has_odd = cached_njit(_has_odd, kernel_cpu_heap)
_may_meet = cached_njit(_may_meet, kernel_cpu_heap)
_fits = cached_njit(_fits, kernel_cpu_heap)
_spoils = cached_njit(_spoils, kernel_cpu_heap)
_drop = cached_njit(_drop, kernel_cpu_heap)
_collapse = cached_njit(_collapse, kernel_cpu_heap)
_try = cached_njit(_try, kernel_cpu_heap)
_put_aside = cached_njit(_put_aside, kernel_cpu_heap)
_retry = cached_njit(_retry, kernel_cpu_heap)
start = cached_njit(start, kernel_cpu_heap)
run = cached_njit(run, kernel_cpu_heap)
