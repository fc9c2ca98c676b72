"""Closest-point search in numba: one query at a time through the tree, on all of torch's threads.

index: tuple of the tree's boxes [L, 4], corners [F, 9], face [F], slot [F] and frame [4].
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numba import uint64
from torch import Tensor

from ...core.kernel_cpu import cached_njit
from .reference import first_key
from .tree import SLACK, Tree

QUERIES_A_TASK = 1 << 13
NOTHING = np.int64(0xFFFFFFFF)

_compiled = partial(cached_njit, error_model="numpy")
_inner = partial(_compiled, inner=True)


def closest_cpu(
    tree: Tree, points: Tensor, leaf: Tensor, order: Tensor, furthest: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns distance [N] float32, face [N] int64 and barycentrics [N, 3] float32 of `points` [N, 3] float32.

    order: [N] int64, the order of the queries.  leaf: [N] int32, `Tree.likely_leaves` in that order.
    """
    count = len(points)
    distance, face = np.empty(count, np.float32), np.empty(count, np.int64)
    weights = np.empty((count, 3), np.float32)
    index = tuple(column.numpy() for column in (tree.boxes, tree.corners, tree.face, tree.slot, tree.frame))
    queries, visits, likely, first = points.numpy(), order.numpy(), leaf.numpy(), np.int64(first_key(furthest))

    def search(start: int) -> None:
        span = slice(start, start + QUERIES_A_TASK)
        find_range(index, queries, visits[span], likely[span], first, distance, face, weights)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(search, range(0, count, QUERIES_A_TASK)))
    return torch.from_numpy(distance), torch.from_numpy(face), torch.from_numpy(weights)


@_compiled
def find_range(index, points, visits, likely, first, distance, face, weights):
    """Answers the queries `visits` [n] int64 among points [N, 3]; writes distance [N], face [N], weights [N, 3].

    likely: [n] int32 leaves.  first: the initial key.
    """
    boxes, corners, faces, slots, frame = index
    bits = np.empty(1, np.float32)
    for i in range(len(visits)):
        query = visits[i]
        point = np.float64(points[query, 0]), np.float64(points[query, 1]), np.float64(points[query, 2])
        # searchsorted returns the first leaf whose code is past the point's; the one before holds its neighbours.
        leaf = max(likely[i] - 1, 0)
        key = search_leaf(corners, faces, len(boxes), point, leaf, first, bits)
        key = search(boxes, corners, faces, frame, point, leaf, key, bits)
        if key & NOTHING == NOTHING:
            distance[query], face[query] = np.inf, -1
            weights[query, 0], weights[query, 1], weights[query, 2] = 0.0, 0.0, 0.0
            continue
        face[query] = key & NOTHING
        slot = uint64(slots[face[query]])
        square, edge, part = closest_on_triangle(point, corners, slot)
        distance[query] = np.sqrt(square)
        inside_weights(point, corners, slot, (edge, part), weights, query)


@partial(_inner, forceinline=True)
def search_leaf(corners, faces, leaves, point, leaf, key, bits):
    """Returns the smallest of `key` and a leaf's keys: the bits of the squared distance above, the face below.

    leaves: how many there are.  bits: [1] float32 scratch; on return it holds the squared distance.
    """
    count = len(corners)
    as_bits = bits.view(np.int32)
    as_bits[0] = key >> 32
    limit = np.float64(bits[0]) * (1 + SLACK)
    for slot in range(uint64(leaf * count // leaves), uint64((leaf + 1) * count // leaves)):
        if box_distance(point, corners, slot) > limit:
            continue
        bits[0], _, _ = closest_on_triangle(point, corners, slot)
        here = np.int64(as_bits[0]) << 32 | np.int64(faces[slot])
        if here < key:
            key = here
            limit = np.float64(bits[0]) * (1 + SLACK)
    as_bits[0] = key >> 32
    return key


@partial(_inner, forceinline=True)
def box_distance(point, corners, slot):
    """Returns the squared distance from a point to a triangle's bounding box: far less work than to the triangle."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = triangle(corners, slot)
    x = max(min(ax, bx, cx) - point[0], point[0] - max(ax, bx, cx), 0.0)
    y = max(min(ay, by, cy) - point[1], point[1] - max(ay, by, cy), 0.0)
    z = max(min(az, bz, cz) - point[2], point[2] - max(az, bz, cz), 0.0)
    return x * x + y * y + z * z


@_inner
def search(boxes, corners, faces, frame, point, leaf, key, bits):
    """Returns the smallest key of all, from that of `leaf` or the initial one; `bits` holds its squared distance.

    Goes up from that leaf and descends into each sibling: near triangles are mostly in the first ones, so the top of
    the tree is rarely descended.
    """
    leaves = len(boxes)
    bounds = boxes.view(np.uint16)  # four numbers of 16 bits for each of a row's
    x = (np.float32(point[0]) - frame[0]) / frame[3]
    y = (np.float32(point[1]) - frame[1]) / frame[3]
    z = (np.float32(point[2]) - frame[2]) / frame[3]
    to_steps = np.float32(1 + SLACK) / (frame[3] * frame[3])
    bound = bits[0] * to_steps
    # Bit k of `pending` is set while the sibling k levels up from `node` is unvisited.
    node, pending = leaves + np.int64(leaf), leaves - 1
    while pending != 0:
        while pending & 1 == 0:
            node >>= 1
            pending >>= 1
        node ^= 1
        pending ^= 1
        if child_distance(bounds, uint64(node >> 1), uint64((node & 1) * 2), x, y, z) > bound:
            continue
        while node < leaves:
            row = uint64(node)
            near = child_distance(bounds, row, uint64(0), x, y, z)
            far = child_distance(bounds, row, uint64(2), x, y, z)
            first = 2 * node
            if far < near:
                near, far, first = far, near, first + 1
            if near > bound:
                break
            node = first
            pending = pending << 1 | int(far <= bound)
        if node >= leaves:
            key = search_leaf(corners, faces, leaves, point, node - leaves, key, bits)
            bound = bits[0] * to_steps
    return key


@partial(_inner, forceinline=True)
def child_distance(bounds, row, side, x, y, z):
    """Returns the squared distance, in steps, from (x, y, z) to the box of a row's first (side 0) or second child (2).

    bounds: [L, 16] uint16, the boxes as they lie in memory, the low bits first.
    """
    one = uint64(1)
    p, q, r = side, side + uint64(4), side + uint64(8)
    nothing = np.float32(0)
    x = max(np.float32(bounds[row, p]) - x, x - np.float32(bounds[row, p + one]), nothing)
    y = max(np.float32(bounds[row, q]) - y, y - np.float32(bounds[row, q + one]), nothing)
    z = max(np.float32(bounds[row, r]) - z, z - np.float32(bounds[row, r + one]), nothing)
    return x * x + y * y + z * z


@_inner
def closest_on_triangle(point, corners, slot):
    """Returns (squared distance, nearest edge, parameter) as reference.closest_on_triangles; edge -1: interior."""
    a, b, c = triangle(corners, slot)
    height, area, (first, second, third) = above_triangle(point, a, b, c)
    if area > 0.0 and min(first, second, third) >= 0.0:
        return height * height / area, -1, 0.0
    # The nearest edge has the point on its outer side; which of two that share a corner does not matter.
    square, edge, part = np.inf, 0, 0.0
    if not (area > 0.0 and third > 0.0):
        square, part = to_edge(point, a, b)
    if not (area > 0.0 and first > 0.0):
        here, along = to_edge(point, b, c)
        if here < square:
            square, edge, part = here, 1, along
    if not (area > 0.0 and second > 0.0):
        here, along = to_edge(point, c, a)
        if here < square:
            square, edge, part = here, 2, along
    return square, edge, part


@partial(_inner, forceinline=True)
def to_edge(point, a, b):
    """Returns (squared distance, parameter from 0 at a to 1 at b) of the closest point of an edge."""
    px, py, pz = point[0] - a[0], point[1] - a[1], point[2] - a[2]
    bx, by, bz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    length = bx * bx + by * by + bz * bz
    along = (px * bx + py * by + pz * bz) / (length if length > 0.0 else 1.0)
    along = min(max(along, 0.0), 1.0)
    dx, dy, dz = px - along * bx, py - along * by, pz - along * bz
    return dx * dx + dy * dy + dz * dz, along


@partial(_inner, forceinline=True)
def above_triangle(point, a, b, c):
    """Returns (height * sqrt(area), area, weights [3] times the area) of a point over the plane of the triangle abc;
    area: the squared normal."""
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    area = nx * nx + ny * ny + nz * nz
    px, py, pz = point[0] - a[0], point[1] - a[1], point[2] - a[2]
    qx, qy, qz = point[0] - b[0], point[1] - b[1], point[2] - b[2]
    wx, wy, wz = c[0] - b[0], c[1] - b[1], c[2] - b[2]
    first = nx * (wy * qz - wz * qy) + ny * (wz * qx - wx * qz) + nz * (wx * qy - wy * qx)
    second = nx * (py * vz - pz * vy) + ny * (pz * vx - px * vz) + nz * (px * vy - py * vx)
    third = nx * (uy * pz - uz * py) + ny * (uz * px - ux * pz) + nz * (ux * py - uy * px)
    return px * nx + py * ny + pz * nz, area, (first, second, third)


@_inner
def inside_weights(point, corners, slot, place, weights, query):
    """Writes the corners' weights [3] of the point found by `closest_on_triangle`. place: its edge and parameter."""
    edge, part = place
    if edge < 0:
        a, b, c = triangle(corners, slot)
        _, area, inner = above_triangle(point, a, b, c)
        weights[query, 0], weights[query, 1], weights[query, 2] = inner[0] / area, inner[1] / area, inner[2] / area
        return
    weights[query, 0], weights[query, 1], weights[query, 2] = 0.0, 0.0, 0.0
    weights[query, edge], weights[query, (edge + 1) % 3] = 1.0 - part, part


@partial(_inner, forceinline=True)
def triangle(corners, slot):
    """Returns the three corners of the triangle in a slot of corners [F, 9], three float64 each."""
    return (
        (np.float64(corners[slot, 0]), np.float64(corners[slot, 1]), np.float64(corners[slot, 2])),
        (np.float64(corners[slot, 3]), np.float64(corners[slot, 4]), np.float64(corners[slot, 5])),
        (np.float64(corners[slot, 6]), np.float64(corners[slot, 7]), np.float64(corners[slot, 8])),
    )
