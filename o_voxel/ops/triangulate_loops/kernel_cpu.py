"""Minimum-weight triangulation of loops in numba, one loop after another."""

from __future__ import annotations

import numpy as np

from ...core.kernel_cpu import cached_njit


@cached_njit
def _bend(squared, cosine, weight, fold):
    """Returns the dihedral cost of an edge from its squared length and the cosine between the adjacent normals."""
    return weight * squared * (1 - cosine) + fold * np.sqrt(squared) * max(-cosine, 0.0)


@cached_njit
def _write(triangles, written, split, chosen, begin, n):
    """Writes the triangulation of a loop of n points, the first of them `begin`, behind the `written` triangles.

    split [n, n]: the third point of the best triangle on each chord.  chosen [n, n]: becomes the chords of the result.
    Returns how many triangles there are then.
    """
    chosen[:n, :n] = False
    chosen[0, n - 1] = True
    for gap in range(n - 1, 1, -1):
        for i in range(n - gap):
            if chosen[i, i + gap]:
                chosen[i, split[i, i + gap]] = True
                chosen[split[i, i + gap], i + gap] = True
    for i in range(n):
        for j in range(i + 2, n):
            if chosen[i, j]:
                triangles[written, 0] = begin + i
                triangles[written, 1] = begin + split[i, j]
                triangles[written, 2] = begin + j
                written += 1
    return written


@cached_njit
def triangulate_loops(points, rim, start, barred, bars, span, bend, fold, flat):
    """See the op. barred [B, 2], bars [L + 1]: from `bars_by_loop`.

    span: the first loop and the one after the last.  bend, fold, flat: the constants of `reference`, passed because
    numba's cache would not notice their change.
    `wide` [n, n] marks the chords that may be used, then those of the result.
    """
    loops = span[1] - span[0]
    triangles = np.empty((start[span[1]] - start[span[0]] - 2 * loops, 3), np.int64)
    whole = np.zeros(loops, np.bool_)
    most = 0
    for loop in range(span[0], span[1]):
        most = max(most, start[loop + 1] - start[loop])
    cost, split = np.empty((most, most)), np.empty((most, most), np.int64)
    normal, wide = np.empty((most, most, 3)), np.empty((most, most), np.bool_)
    best_face = np.zeros(3)
    written = 0
    for loop in range(span[0], span[1]):
        begin, n = start[loop], start[loop + 1] - start[loop]
        perimeter = 0.0
        for i in range(n):
            a, b = points[begin + i], points[begin + (i + 1) % n]
            perimeter += np.sqrt((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2 + (b[2] - a[2]) ** 2)
        folded = fold * perimeter
        wide[:n, :n] = True
        for bar in range(bars[loop], bars[loop + 1]):
            a, b = barred[bar, 0] - begin, barred[bar, 1] - begin
            wide[min(a, b), max(a, b)] = False
        wide[0, n - 1] = True
        for i in range(n - 1):
            cost[i, i + 1] = 0.0
            for axis in range(3):  # assigning a row, numba compiles its error message, for seconds
                normal[i, i + 1, axis] = rim[begin + i, axis]
        for gap in range(2, n):
            for i in range(n - gap):
                j = i + gap
                least, best = np.inf, i + 1
                a0, a1, a2 = points[begin + i]
                c0, c1, c2 = points[begin + j, 0] - a0, points[begin + j, 1] - a1, points[begin + j, 2] - a2
                ac = c0 * c0 + c1 * c1 + c2 * c2
                for k in range(i + 1, j if wide[i, j] else i + 1):
                    b0, b1, b2 = points[begin + k, 0] - a0, points[begin + k, 1] - a1, points[begin + k, 2] - a2
                    ab = b0 * b0 + b1 * b1 + b2 * b2
                    bc = (c0 - b0) ** 2 + (c1 - b1) ** 2 + (c2 - b2) ** 2
                    total = cost[i, k] + cost[k, j] + (ab + bc + ac)
                    # Dihedral costs only increase it, up to rounding.
                    if total > least * (1 + 1e-9):
                        continue
                    n0, n1, n2 = b1 * c2 - b2 * c1, b2 * c0 - b0 * c2, b0 * c1 - b1 * c0
                    doubled = np.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
                    if doubled <= flat * max(ab, bc, ac):
                        continue
                    n0, n1, n2 = n0 / doubled, n1 / doubled, n2 / doubled
                    here, there = normal[i, k], normal[k, j]
                    total += _bend(ab, n0 * here[0] + n1 * here[1] + n2 * here[2], bend, folded)
                    total += _bend(bc, n0 * there[0] + n1 * there[1] + n2 * there[2], bend, folded)
                    if gap == n - 1:
                        there = rim[begin + j]
                        total += _bend(ac, n0 * there[0] + n1 * there[1] + n2 * there[2], bend, folded)
                    if total < least:
                        least, best = total, k
                        best_face[0], best_face[1], best_face[2] = n0, n1, n2
                cost[i, j], split[i, j] = least, best
                for axis in range(3):
                    normal[i, j, axis] = best_face[axis]
        whole[loop - span[0]] = cost[0, n - 1] < np.inf
        if cost[0, n - 1] < np.inf:
            written = _write(triangles, written, split, wide, begin, n)
    return triangles[:written].copy(), whole
