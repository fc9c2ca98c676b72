"""Edge matching, union-find and corner circulation as sequential numba loops."""

from __future__ import annotations

import numpy as np

from ...core.kernel_cpu import cached_njit

# Vertices with more edges than this are sorted by heaps instead of insertion.
SHORT = 32


@cached_njit
def match_edges(faces, vertex_count):
    """Bucket sort of faces [F, 3] by lower vertex, then each bucket by the higher one; see the op."""
    count = 3 * len(faces)
    ends = np.zeros(vertex_count + 1, np.int64)
    for f in range(len(faces)):
        for k in range(3):
            ends[min(faces[f, k], faces[f, (k + 1) % 3])] += 1
    total = 0
    for v in range(vertex_count + 1):
        size = ends[v]
        ends[v] = total
        total += size
    order, higher = np.empty(count, np.int64), np.empty(count, np.int32)
    for f in range(len(faces)):
        for k in range(3):
            a, b = faces[f, k], faces[f, (k + 1) % 3]
            slot = ends[min(a, b)]
            ends[min(a, b)] = slot + 1
            order[slot], higher[slot] = 3 * f + k, max(a, b)
    start = np.empty(count + 1, np.int64)
    edges, begin = 0, 0
    for v in range(vertex_count):
        end = ends[v]
        if end - begin <= SHORT:
            _sort_short(order, higher, begin, end)
        else:
            _sort_long(order, higher, begin, end, count)
        for i in range(begin, end):
            if i == begin or higher[i] != higher[i - 1]:
                start[edges] = i
                edges += 1
        begin = end
    start[edges] = count
    return order, start[: edges + 1].copy()


@cached_njit
def _sort_short(order, higher, begin, end):
    for i in range(begin + 1, end):
        h, v = order[i], higher[i]
        j = i - 1
        while j >= begin and higher[j] > v:
            order[j + 1], higher[j + 1] = order[j], higher[j]
            j -= 1
        order[j + 1], higher[j + 1] = h, v


@cached_njit
def _sort_long(order, higher, begin, end, count):
    keys = np.empty(end - begin, np.int64)
    for i in range(begin, end):
        keys[i - begin] = np.int64(higher[i]) * count + order[i]
    _sort_heap(keys)
    for i in range(begin, end):
        order[i], higher[i] = keys[i - begin] % count, keys[i - begin] // count


@cached_njit
def _sort_heap(keys):
    """Sorts keys [N] in place (Williams 1964; Floyd's heap). numba's own sort takes two seconds to compile."""
    size, root = len(keys), len(keys) // 2
    while size > 1:
        if root > 0:
            root -= 1
            key = keys[root]
        else:
            size -= 1
            key = keys[size]
            keys[size] = keys[0]
        at, child = root, 2 * root + 1
        while child < size:
            if child + 1 < size and keys[child + 1] > keys[child]:
                child += 1
            if keys[child] <= key:
                break
            keys[at] = keys[child]
            at, child = child, 2 * child + 1
        keys[at] = key


@cached_njit
def _find(parent, parity, node):
    """Returns (root, parity of `node` to it), with path halving."""
    odd = False
    while parent[node] != node:
        above = parent[node]
        if parent[above] != above:
            parity[node] ^= parity[above]
            parent[node] = parent[above]
        odd ^= parity[node]
        node = parent[node]
    return node, odd


@cached_njit
def components(count, first, second, odd):
    """Union-find with parity, rooted at the lowest node: label [count] int64, parity [count] bool, from edges [L]."""
    parent, parity = np.arange(count), np.zeros(count, np.bool_)
    for i in range(len(first)):
        a, odd_a = _find(parent, parity, first[i])
        b, odd_b = _find(parent, parity, second[i])
        if a != b:
            parent[max(a, b)] = min(a, b)
            parity[max(a, b)] = odd_a ^ odd_b ^ odd[i]
    for node in range(count):
        above = parent[node]
        parity[node] ^= parity[above]
        parent[node] = parent[above]
    return parent, parity


@cached_njit
def _step(twin, flip, corner, forward):
    """Returns the next corner around the vertex, or the previous one; -1 past the end of the fan."""
    face = corner // 3
    if flip[face] == forward:
        across = twin[3 * face + (corner - 3 * face + 2) % 3]
    else:
        across = twin[corner]
    if across < 0:
        return across
    face = across // 3
    if flip[face] == forward:
        return across
    return 3 * face + (across - 3 * face + 1) % 3


@cached_njit
def corner_groups(twin, flip):
    """Circulates each fan once, [3 F] int64: forward from its lowest corner, then backward if the fan is open."""
    label = np.full(len(twin), -1, np.int64)
    for lowest in range(len(twin)):
        if label[lowest] >= 0:
            continue
        corner = lowest
        while corner >= 0 and label[corner] < 0:
            label[corner] = lowest
            corner = _step(twin, flip, corner, True)
        if corner < 0:
            corner = _step(twin, flip, lowest, False)
            while corner >= 0 and label[corner] < 0:
                label[corner] = lowest
                corner = _step(twin, flip, corner, False)
    return label
