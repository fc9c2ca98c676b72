"""Closest-point search in numba: one query at a time through the tree, on all of torch's threads.

index: tuple of the tree's boxes [L, 4], corners [F, 9], face [F], slot [F] and frame [4].
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...core.kernel_cpu import cached_njit
from .reference import first_key
from .tree import BITS, SLACK, Tree

QUERIES_A_TASK = 1 << 13
NOTHING = np.int64(0xFFFFFFFF)
MASK = np.int64(2**BITS - 1)

_compiled = partial(cached_njit, error_model="numpy")


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
    bits = np.empty(1, np.float32)
    for i, query in enumerate(visits):
        point = points[query]
        # searchsorted returns the first leaf whose code is past the point's; the one before holds its neighbours.
        leaf = max(likely[i] - 1, 0)
        key = search_leaf(index, point, leaf, first, bits)
        key = search(index, point, leaf, key, bits)
        if key & NOTHING == NOTHING:
            distance[query], face[query], weights[query] = np.inf, -1, 0.0
            continue
        face[query] = key & NOTHING
        square, edge, part = closest_on_triangle(point, index[1][index[3][face[query]]])
        distance[query] = np.sqrt(square)
        inside_weights(point, index[1][index[3][face[query]]], edge, part, weights[query])


@_compiled
def search_leaf(index, point, leaf, key, bits):
    """Returns the smallest of `key` and a leaf's keys: the bits of the squared distance above, the face below.

    bits: [1] float32 scratch; on return it holds the squared distance.
    """
    boxes, corners, faces, _, _ = index
    leaves, count = len(boxes), len(corners)
    as_bits = bits.view(np.int32)
    as_bits[0] = key >> 32
    limit = np.float64(bits[0]) * (1 + SLACK)
    for slot in range(leaf * count // leaves, (leaf + 1) * count // leaves):
        if box_distance(point, corners, slot) > limit:
            continue
        bits[0], _, _ = closest_on_triangle(point, corners[slot])
        here = np.int64(as_bits[0]) << 32 | np.int64(faces[slot])
        if here < key:
            key = here
            limit = np.float64(bits[0]) * (1 + SLACK)
    as_bits[0] = key >> 32
    return key


@_compiled
def box_distance(point, corners, slot):
    """Returns the squared distance from a point to a triangle's bounding box: far less work than to the triangle."""
    square = 0.0
    for axis in range(3):
        a, b, c = corners[slot, axis], corners[slot, 3 + axis], corners[slot, 6 + axis]
        low, high = (a, b) if a < b else (b, a)
        low, high = c if c < low else low, c if c > high else high
        at = np.float64(point[axis])
        gap = low - at if at < low else (at - high if at > high else 0.0)
        square += gap * gap
    return square


@_compiled
def search(index, point, leaf, key, bits):
    """Returns the smallest key of all, from that of `leaf` or the initial one; `bits` holds its squared distance.

    Goes up from that leaf and descends into each sibling: near triangles are mostly in the first ones, so the top of
    the tree is rarely descended.
    """
    boxes, _, _, _, frame = index
    leaves = len(boxes)
    x, y, z = (point[0] - frame[0]) / frame[3], (point[1] - frame[1]) / frame[3], (point[2] - frame[2]) / frame[3]
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
        if child_distance(boxes[node >> 1], (node & 1) * 2 * BITS, x, y, z) > bound:
            continue
        while node < leaves:
            near, far = child_distance(boxes[node], 0, x, y, z), child_distance(boxes[node], 2 * BITS, x, y, z)
            first = 2 * node
            if far < near:
                near, far, first = far, near, first + 1
            if near > bound:
                break
            node = first
            pending = pending << 1 | int(far <= bound)
        if node >= leaves:
            key = search_leaf(index, point, node - leaves, key, bits)
            bound = bits[0] * to_steps
    return key


@_compiled
def child_distance(row, shift, x, y, z):
    """Returns the squared distance, in steps, from (x, y, z) to the box of a row's first (shift 0) or second child."""
    square = np.float32(0)
    for axis, place in enumerate((x, y, z)):
        below = np.float32(row[axis] >> shift & MASK) - place
        above = place - np.float32(row[axis] >> (shift + BITS) & MASK)
        gap = max(below, above, np.float32(0))
        square += gap * gap
    return square


@_compiled
def closest_on_triangle(point, corners):
    """Returns (squared distance, nearest edge, parameter) as reference.closest_on_triangles; edge -1: interior."""
    height, area, inner = above_triangle(point, corners)
    if area > 0.0 and min(inner) >= 0.0:
        return height * height / area, -1, 0.0
    square, edge, part = np.inf, 0, 0.0
    for k in range(3):
        i, j = 3 * k, 3 * ((k + 1) % 3)
        ax, ay, az = to_float64(corners, i)
        bx, by, bz = to_float64(corners, j)
        px, py, pz = point[0] - ax, point[1] - ay, point[2] - az
        bx, by, bz = bx - ax, by - ay, bz - az
        length = bx * bx + by * by + bz * bz
        along = (px * bx + py * by + pz * bz) / (length if length > 0.0 else 1.0)
        along = min(max(along, 0.0), 1.0)
        dx, dy, dz = px - along * bx, py - along * by, pz - along * bz
        here = dx * dx + dy * dy + dz * dz
        if here < square:
            square, edge, part = here, k, along
    return square, edge, part


@_compiled
def above_triangle(point, corners):
    """Returns (height * sqrt(area), area, weights [3]) of a point over a triangle's plane; area: the squared normal."""
    ax, ay, az = to_float64(corners, 0)
    bx, by, bz = to_float64(corners, 3)
    cx, cy, cz = to_float64(corners, 6)
    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    area = nx * nx + ny * ny + nz * nz
    scale = area if area > 0.0 else 1.0
    px, py, pz = point[0] - ax, point[1] - ay, point[2] - az
    qx, qy, qz = point[0] - bx, point[1] - by, point[2] - bz
    wx, wy, wz = cx - bx, cy - by, cz - bz
    first = nx * (wy * qz - wz * qy) + ny * (wz * qx - wx * qz) + nz * (wx * qy - wy * qx)
    second = nx * (py * vz - pz * vy) + ny * (pz * vx - px * vz) + nz * (px * vy - py * vx)
    third = nx * (uy * pz - uz * py) + ny * (uz * px - ux * pz) + nz * (ux * py - uy * px)
    return px * nx + py * ny + pz * nz, area, (first / scale, second / scale, third / scale)


@_compiled
def inside_weights(point, corners, edge, part, out):
    """Writes the corners' weights [3] of the point found by `closest_on_triangle`."""
    if edge < 0:
        out[0], out[1], out[2] = above_triangle(point, corners)[2]
        return
    out[:] = 0.0
    out[edge], out[(edge + 1) % 3] = 1.0 - part, part


@_compiled
def to_float64(corners, k):
    """Returns the three coordinates from the k-th number on as float64."""
    return np.float64(corners[k]), np.float64(corners[k + 1]), np.float64(corners[k + 2])
