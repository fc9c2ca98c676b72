"""The same dynamic programming, one loop after another, compiled on first call."""

from __future__ import annotations

import numpy as np

from ..mesh_clean.kernel_cpu import compiled


@compiled
def _bend(squared, cosine, weight, fold):
    """What an edge costs: its length squared, the cosine between the normals on either side."""
    return weight * squared * (1 - cosine) + fold * np.sqrt(squared) * max(-cosine, 0.0)


@compiled
def triangulate_loops(points, rim, start, barred, bars, bend, fold, flat):
    """See the op. barred [B, 2]: lower point first, those of loop l at bars[l] to bars[l + 1].

    bend, fold, flat: the constants of `reference`, which numba's cache would not see change.
    """
    loops = len(start) - 1
    triangles = np.empty((max(0, len(points) - 2 * loops), 3), np.int64)
    whole = np.zeros(loops, np.bool_)
    most = 0
    for loop in range(loops):
        most = max(most, start[loop + 1] - start[loop])
    cost, split = np.empty((most, most)), np.empty((most, most), np.int64)
    normal, wide = np.empty((most, most, 3)), np.empty((most, most), np.bool_)
    face, best_face = np.empty(3), np.empty(3)
    written = 0
    for loop in range(loops):
        begin, n = start[loop], start[loop + 1] - start[loop]
        perimeter = 0.0
        for i in range(n):
            a, b = points[begin + i], points[begin + (i + 1) % n]
            perimeter += np.sqrt((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2 + (b[2] - a[2]) ** 2)
        folded = fold * perimeter
        wide[:n, :n] = True
        for bar in range(bars[loop], bars[loop + 1]):
            wide[barred[bar, 0] - begin, barred[bar, 1] - begin] = False
        wide[0, n - 1] = True
        for i in range(n - 1):
            cost[i, i + 1] = 0.0
            normal[i, i + 1] = rim[begin + i]
        for gap in range(2, n):
            for i in range(n - gap):
                j = i + gap
                least, best = np.inf, i + 1
                for k in range(i + 1, j if wide[i, j] else i + 1):
                    a, b, c = points[begin + i], points[begin + k], points[begin + j]
                    ab, bc, ac = 0.0, 0.0, 0.0
                    for x in range(3):
                        ab += (b[x] - a[x]) ** 2
                        bc += (c[x] - b[x]) ** 2
                        ac += (c[x] - a[x]) ** 2
                    doubled = 0.0
                    for x in range(3):
                        y, z = (x + 1) % 3, (x + 2) % 3
                        face[x] = (b[y] - a[y]) * (c[z] - a[z]) - (b[z] - a[z]) * (c[y] - a[y])
                        doubled += face[x] * face[x]
                    doubled = np.sqrt(doubled)
                    if doubled <= flat * max(ab, bc, ac):
                        continue
                    toward_a, toward_b, toward_end = 0.0, 0.0, 0.0
                    for x in range(3):
                        face[x] /= doubled
                        toward_a += face[x] * normal[i, k, x]
                        toward_b += face[x] * normal[k, j, x]
                        toward_end += face[x] * rim[begin + n - 1, x]
                    total = cost[i, k] + cost[k, j] + (ab + bc + ac)
                    total = total + _bend(ab, toward_a, bend, folded)
                    total = total + _bend(bc, toward_b, bend, folded)
                    if gap == n - 1:
                        total = total + _bend(ac, toward_end, bend, folded)
                    if total < least:
                        least, best = total, k
                        best_face[:] = face
                cost[i, j], split[i, j] = least, best
                normal[i, j] = best_face
        whole[loop] = cost[0, n - 1] < np.inf
        if whole[loop]:
            wide[:n, :n] = False
            wide[0, n - 1] = True
            for gap in range(n - 1, 1, -1):
                for i in range(n - gap):
                    if wide[i, i + gap]:
                        wide[i, split[i, i + gap]] = True
                        wide[split[i, i + gap], i + gap] = True
            for i in range(n):
                for j in range(i + 2, n):
                    if wide[i, j]:
                        triangles[written, 0] = begin + i
                        triangles[written, 1] = begin + split[i, j]
                        triangles[written, 2] = begin + j
                        written += 1
    return triangles[:written].copy(), whole
