"""Chart growing on the CPU: the reference's rounds as loops, with the same arithmetic in the same order."""

from __future__ import annotations

import math

import numpy as np

from ..kernel_cpu import cached_njit
from . import reference
from .reference import COST_CAP, COST_STEPS, FORBIDDEN, ID_BITS, LENGTH_SCALE, SHAPE_WEIGHT, SMALLEST


def grow_cpu(normal, area, perimeter, low, high, first, second, length, cone, extent, compactness):
    """As `reference.grow`, on numpy arrays."""
    label = np.arange(len(area))
    charts = normal * area[:, None], area.copy(), perimeter.copy(), low.copy(), high.copy()
    links = first.astype(np.int32), second.astype(np.int32), length.copy()
    count, edges = len(area), len(first)
    while True:
        before = count
        count, edges = _round(label, normal, *charts, *links, count, edges, cone, extent, compactness)
        if count == before:
            return label


def _round(label, normal, total, area, perimeter, low, high, first, second, shared, charts, links, cone, extent, most):
    """One round in place; the charts and links that are left, at the front of their arrays."""
    mean = np.empty((charts, 3))
    for c in range(charts):
        x, y, z = total[c, 0], total[c, 1], total[c, 2]
        size = max(math.sqrt(x * x + y * y + z * z), SMALLEST)
        mean[c, 0], mean[c, 1], mean[c, 2] = x / size, y / size, z / size
    half = np.ones(charts)
    for f in range(len(label)):
        c = label[f]
        cosine = normal[f, 0] * mean[c, 0] + normal[f, 1] * mean[c, 1] + normal[f, 2] * mean[c, 2]
        half[c] = min(half[c], cosine)
    best = np.full(charts, FORBIDDEN << ID_BITS, np.int64)
    for m in range(links):
        i, j = first[m], second[m]
        cost = _cost(total, area, perimeter, low, high, mean, half, i, j, shared[m], cone, extent, most)
        best[i] = min(best[i], (cost << ID_BITS) | j)
        best[j] = min(best[j], (cost << ID_BITS) | i)
    root = np.arange(charts)
    partner = np.arange(charts)
    for c in range(charts):
        if best[c] >> ID_BITS < FORBIDDEN:
            partner[c] = best[c] & ((1 << ID_BITS) - 1)
    merged = 0
    for c in range(charts):
        if partner[c] != c and partner[partner[c]] == c:
            root[c] = min(c, partner[c])
            merged += 1
    if merged == 0:
        return charts, links
    for m in range(links):
        if root[first[m]] == root[second[m]]:
            perimeter[root[first[m]]] -= 2 * shared[m]
    number = np.empty(charts, np.int32)
    count = 0
    for c in range(charts):
        if root[c] != c:
            continue
        number[c] = count
        other = partner[c] if partner[c] != c and root[partner[c]] == c else c
        perimeter[count] = perimeter[c] + (perimeter[other] if other != c else 0)
        area[count] = area[c] + (area[other] if other != c else 0.0)
        for k in range(3):
            total[count, k] = total[c, k] + (total[other, k] if other != c else 0.0)
            low[count, k] = min(low[c, k], low[other, k])
            high[count, k] = max(high[c, k], high[other, k])
        count += 1
    for c in range(charts):
        number[c] = number[root[c]]
    for f in range(len(label)):
        label[f] = number[label[f]]
    return count, _merge_links(first, second, shared, links, number, count)


def _cost(total, area, perimeter, low, high, mean, half, i, j, shared, cone, extent, most):
    """What the union of charts i and j costs, as reference._costs."""
    size = max(area[i] + area[j], SMALLEST)
    outline = np.float64(perimeter[i] + perimeter[j] - 2 * shared)
    compactness = outline * outline * LENGTH_SCALE / size
    if not compactness < most:
        return FORBIDDEN
    dx = max(high[i, 0], high[j, 0]) - min(low[i, 0], low[j, 0])
    dy = max(high[i, 1], high[j, 1]) - min(low[i, 1], low[j, 1])
    dz = max(high[i, 2], high[j, 2]) - min(low[i, 2], low[j, 2])
    if not dx * dx + dy * dy + dz * dz < extent:
        return FORBIDDEN
    x, y, z = total[i, 0] + total[j, 0], total[i, 1] + total[j, 1], total[i, 2] + total[j, 2]
    norm = math.sqrt(x * x + y * y + z * z)
    divisor = max(norm, SMALLEST)
    dx, dy, dz = x / divisor, y / divisor, z / divisor
    for side in range(2):
        c = j if side else i
        turn = min(dx * mean[c, 0] + dy * mean[c, 1] + dz * mean[c, 2], 1.0)
        if not (turn > 0 and half[c] > 0):
            return FORBIDDEN
        reach = turn * half[c] - math.sqrt(1 - turn * turn) * math.sqrt(max(1 - half[c] * half[c], 0.0))
        if not reach > cone:
            return FORBIDDEN
    cost = (1 - norm / size) + SHAPE_WEIGHT * compactness
    return np.int64(min(max(cost, 0.0), COST_CAP) * COST_STEPS)


def _merge_links(first, second, shared, links, number, charts):
    """One link a pair of charts: bucketed by the lower chart, equal ones found by the chart that saw them last."""
    start = np.zeros(charts + 1, np.int64)
    for m in range(links):
        i, j = number[first[m]], number[second[m]]
        if i != j:
            start[min(i, j) + 1] += 1
    for c in range(charts):
        start[c + 1] += start[c]
    higher, length = np.empty(start[charts], np.int32), np.empty(start[charts], np.int64)
    cursor = start.copy()
    for m in range(links):
        i, j = number[first[m]], number[second[m]]
        if i != j:
            slot = cursor[min(i, j)]
            higher[slot], length[slot] = max(i, j), shared[m]
            cursor[min(i, j)] += 1
    seen = np.full(charts, -1, np.int64)
    count = 0
    for c in range(charts):
        begin = count
        for slot in range(start[c], start[c + 1]):
            other = higher[slot]
            if seen[other] >= begin:
                shared[seen[other]] += length[slot]
            else:
                seen[other] = count
                first[count], second[count], shared[count] = c, other, length[slot]
                count += 1
    return count


_cost = cached_njit(_cost, reference)
_merge_links = cached_njit(_merge_links, reference)
_round = cached_njit(_round, reference)
