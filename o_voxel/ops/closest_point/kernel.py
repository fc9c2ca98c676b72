"""Closest-point search in Triton: one query per lane, one warp per program, stackless traversal.

A launch stops after a number of steps and passes unfinished queries to the next, so that no display driver's
watchdog ends it. Traffic: 12 bytes in and 24 out per query, and the visited part of the tree.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from .reference import first_key
from .tree import BITS, SLACK, Tree

BLOCK = 32
FINISH_BLOCK = 256
QUERIES_A_LAUNCH = 1 << 19
STEPS_A_LAUNCH = 1 << 11
_NO_FACE = tl.constexpr(0xFFFFFFFF)
_BITS = tl.constexpr(BITS)
_MASK = tl.constexpr(2**BITS - 1)
_SLACK = tl.constexpr(SLACK)


@device_guard
def closest_gpu(
    tree: Tree, points: Tensor, leaf: Tensor, order: Tensor, furthest: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns distance [N], face [N], barycentrics [N, 3] of `points` [N, 3]; arguments as `kernel_cpu.closest_cpu`."""
    count, device = len(points), points.device
    keys = torch.full((count,), first_key(furthest), device=device)
    # Traversal state of each query, in `order`: the node, 0 when finished, and the bits of unvisited siblings.
    nodes = torch.ones(count, dtype=torch.int32, device=device)
    pending = torch.zeros_like(nodes)
    lanes = torch.arange(count, dtype=torch.int32, device=device)
    fresh = True
    while len(lanes):
        for part in lanes.split(QUERIES_A_LAUNCH):
            _walk[(triton.cdiv(len(part), BLOCK),)](
                points, order, part, leaf, tree.boxes, tree.corners, tree.face, tree.frame, nodes, pending, keys,
                len(part), len(tree.face), tree.leaves.bit_length() - 1, STEPS_A_LAUNCH,
                FRESH=fresh, BLOCK=BLOCK, num_warps=1, enable_fp_fusion=True,
            )  # fmt: skip
        lanes, fresh = lanes[nodes[lanes] > 0], False
    distance, weights = torch.empty_like(points[:, 0]), torch.empty_like(points)
    face = torch.empty_like(keys)
    for start in range(0, count, QUERIES_A_LAUNCH):
        part = slice(start, start + QUERIES_A_LAUNCH)
        size = len(keys[part])
        _finish[(triton.cdiv(size, FINISH_BLOCK),)](
            points[part], keys[part], tree.slot, tree.corners, distance[part], face[part], weights[part], size,
            BLOCK=FINISH_BLOCK, enable_fp_fusion=True,
        )  # fmt: skip
    return distance, face, weights


@triton.jit
def _any(mask):
    return tl.max(mask.to(tl.int32), axis=0) > 0


@triton.jit
def _load_triangle(corners, slot, mask):
    """Loads the nine coordinates of the triangles in `slot` [N] int64, as float64."""
    row = corners + slot * 9
    ax, ay, az = tl.load(row, mask, 0.0), tl.load(row + 1, mask, 0.0), tl.load(row + 2, mask, 0.0)
    bx, by, bz = tl.load(row + 3, mask, 0.0), tl.load(row + 4, mask, 0.0), tl.load(row + 5, mask, 0.0)
    cx, cy, cz = tl.load(row + 6, mask, 0.0), tl.load(row + 7, mask, 0.0), tl.load(row + 8, mask, 0.0)
    return (
        ax.to(tl.float64), ay.to(tl.float64), az.to(tl.float64), bx.to(tl.float64), by.to(tl.float64),
        bz.to(tl.float64), cx.to(tl.float64), cy.to(tl.float64), cz.to(tl.float64),
    )  # fmt: skip


@triton.jit
def _on_edge(px, py, pz, ax, ay, az, bx, by, bz):
    """Returns (squared distance, parameter in [0, 1]) of the point of the edge a to b nearest to p."""
    px, py, pz, bx, by, bz = px - ax, py - ay, pz - az, bx - ax, by - ay, bz - az
    length = bx * bx + by * by + bz * bz
    part = (px * bx + py * by + pz * bz) / tl.where(length > 0, length, 1.0)
    part = tl.minimum(tl.maximum(part, 0.0), 1.0)
    px, py, pz = px - part * bx, py - part * by, pz - part * bz
    return px * px + py * py + pz * pz, part


@triton.jit
def _corner_area(nx, ny, nz, wx, wy, wz, qx, qy, qz):
    """Returns n . (w x q): the area of the triangle of an edge w and a point q from its start, for a normal n."""
    return nx * (wy * qz - wz * qy) + ny * (wz * qx - wx * qz) + nz * (wx * qy - wy * qx)


@triton.jit
def _on_triangle(px, py, pz, ax, ay, az, bx, by, bz, cx, cy, cz):
    """Returns (squared distance, the corners' three weights) as reference.closest_on_triangles."""
    square, part = _on_edge(px, py, pz, ax, ay, az, bx, by, bz)
    wa, wb, wc = 1 - part, part, part * 0
    other, part = _on_edge(px, py, pz, bx, by, bz, cx, cy, cz)
    nearer = other < square
    square = tl.where(nearer, other, square)
    wa, wb, wc = tl.where(nearer, 0.0, wa), tl.where(nearer, 1 - part, wb), tl.where(nearer, part, wc)
    other, part = _on_edge(px, py, pz, cx, cy, cz, ax, ay, az)
    nearer = other < square
    square = tl.where(nearer, other, square)
    wa, wb, wc = tl.where(nearer, part, wa), tl.where(nearer, 0.0, wb), tl.where(nearer, 1 - part, wc)

    ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    area = nx * nx + ny * ny + nz * nz
    ia = _corner_area(nx, ny, nz, cx - bx, cy - by, cz - bz, px - bx, py - by, pz - bz)
    px, py, pz = px - ax, py - ay, pz - az
    ib = _corner_area(nx, ny, nz, -vx, -vy, -vz, px, py, pz)
    ic = _corner_area(nx, ny, nz, ux, uy, uz, px, py, pz)
    inside = (area > 0) & (tl.minimum(ia, tl.minimum(ib, ic)) >= 0)
    height = px * nx + py * ny + pz * nz
    inverse = 1 / tl.where(inside, area, 1.0)
    square = tl.where(inside, height * height * inverse, square)
    wa, wb = tl.where(inside, ia * inverse, wa), tl.where(inside, ib * inverse, wb)
    return square, wa, wb, tl.where(inside, ic * inverse, wc)


@triton.jit
def _search_leaf(corners, faces, px, py, pz, leaf, key, mask, count, depth):
    """Returns the smallest of `key` and the keys of a leaf's triangles, where `mask`."""
    start = (leaf.to(tl.int64) * count) >> depth
    end = ((leaf.to(tl.int64) + 1) * count) >> depth
    for k in range(tl.max(tl.where(mask, end - start, 0).to(tl.int32), axis=0)):
        inside = mask & (start + k < end)
        ax, ay, az, bx, by, bz, cx, cy, cz = _load_triangle(corners, start + k, inside)
        square, _, _, _ = _on_triangle(px, py, pz, ax, ay, az, bx, by, bz, cx, cy, cz)
        face = tl.load(faces + start + k, inside, 0).to(tl.int64)
        found = square.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64) << 32 | face
        key = tl.where(inside, tl.minimum(key, found), key)
    return key


@triton.jit
def _bound(key, to_steps):
    """Returns a key's squared distance in steps, float32."""
    return (key >> 32).to(tl.int32).to(tl.float32, bitcast=True) * to_steps


@triton.jit
def _to_float(word, shift: tl.constexpr):
    return ((word >> shift) & _MASK).to(tl.int32).to(tl.float32)


@triton.jit
def _gap(word, place, shift: tl.constexpr):
    """Returns the squared distance along one axis from a coordinate to a box's interval."""
    gap = tl.maximum(_to_float(word, shift) - place, place - _to_float(word, shift + _BITS))
    gap = tl.maximum(gap, 0.0)
    return gap * gap


@triton.jit
def _child_distances(boxes, row, x, y, z, mask):
    """Returns the squared distances, in steps, from (x, y, z) to both boxes of a row."""
    at = boxes + row.to(tl.int64) * 4
    wx, wy, wz = tl.load(at, mask, 0), tl.load(at + 1, mask, 0), tl.load(at + 2, mask, 0)
    first = _gap(wx, x, 0) + _gap(wy, y, 0) + _gap(wz, z, 0)
    second = _gap(wx, x, 2 * _BITS) + _gap(wy, y, 2 * _BITS) + _gap(wz, z, 2 * _BITS)
    return first, second


@triton.jit
def _pop(node, pending):
    """Returns the nearest unvisited sibling and the pending bits after it; node 0 if there is none."""
    lowest = pending & -pending
    shift = (lowest.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
    shift = tl.maximum(shift, 0)
    left = pending != 0
    return tl.where(left, (node >> shift) ^ 1, 0), tl.where(left, (pending >> shift) ^ 1, 0)


@triton.jit(do_not_specialize=["n", "count", "depth"])
def _walk(
    points, order, lanes, likely, boxes, corners, faces, frame, nodes, pendings, keys,
    n, count, depth, limit, FRESH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    lane = tl.load(lanes + at, live, 0).to(tl.int64)
    query = tl.load(order + lane, live, 0).to(tl.int64)
    px, py, pz = (
        tl.load(points + 3 * query, live, 0.0),
        tl.load(points + 3 * query + 1, live, 0.0),
        tl.load(points + 3 * query + 2, live, 0.0),
    )
    step = tl.load(frame + 3)
    x, y, z = (px - tl.load(frame)) / step, (py - tl.load(frame + 1)) / step, (pz - tl.load(frame + 2)) / step
    to_steps = tl.full([], 1 + _SLACK, tl.float32) / (step * step)
    px, py, pz = px.to(tl.float64), py.to(tl.float64), pz.to(tl.float64)
    node = tl.load(nodes + lane, live, 0)
    pending = tl.load(pendings + lane, live, 0)
    key = tl.load(keys + query, live, 0)
    if FRESH:
        leaf = tl.load(likely + lane, live, 0)
        key = _search_leaf(corners, faces, px, py, pz, leaf, key, live, count, depth)
        key = _search_leaf(corners, faces, px, py, pz, tl.maximum(leaf - 1, 0), key, live, count, depth)
    bound = _bound(key, to_steps)
    first_leaf = 1 << depth
    # A lane descends from its node, or backtracks to a sibling, whose box may no longer be within the bound.
    back = node > 1
    steps = 0
    while _any(node > 0) & (steps < limit):
        walking = (node > 0) & (back | (node < first_leaf))
        while _any(walking):
            first, second = _child_distances(boxes, tl.where(back, node >> 1, node), x, y, z, walking)
            stays = back & (tl.where((node & 1) == 1, second, first) <= bound)
            goes = (back == 0) & (tl.minimum(first, second) <= bound)
            down = 2 * node + (second < first).to(tl.int32)
            siblings = pending << 1 | (tl.maximum(first, second) <= bound).to(tl.int32)
            up, rest = _pop(node, pending)
            node = tl.where(walking & (stays == 0), tl.where(goes, down, up), node)
            pending = tl.where(walking & (stays == 0), tl.where(goes, siblings, rest), pending)
            back = tl.where(walking, (stays == 0) & (goes == 0), back)
            walking = (node > 0) & (back | (node < first_leaf))
            steps += 1
        key = _search_leaf(corners, faces, px, py, pz, node - first_leaf, key, node > 0, count, depth)
        bound = _bound(key, to_steps)
        node, pending = _pop(node, pending)
        back = node > 0
        steps += 1
    tl.store(nodes + lane, node, live)
    tl.store(pendings + lane, pending, live)
    tl.store(keys + query, key, live)


@triton.jit(do_not_specialize=["n"])
def _finish(points, keys, slots, corners, distance, face_out, weights, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < n
    face = tl.load(keys + at, live, _NO_FACE) & _NO_FACE
    found = live & (face != _NO_FACE)
    slot = tl.load(slots + face, found, 0).to(tl.int64)
    px = tl.load(points + 3 * at, live, 0.0).to(tl.float64)
    py = tl.load(points + 3 * at + 1, live, 0.0).to(tl.float64)
    pz = tl.load(points + 3 * at + 2, live, 0.0).to(tl.float64)
    ax, ay, az, bx, by, bz, cx, cy, cz = _load_triangle(corners, slot, found)
    square, wa, wb, wc = _on_triangle(px, py, pz, ax, ay, az, bx, by, bz, cx, cy, cz)
    tl.store(distance + at, tl.where(found, tl.sqrt(square), float("inf")).to(tl.float32), live)
    tl.store(face_out + at, tl.where(found, face, -1), live)
    tl.store(weights + 3 * at, tl.where(found, wa, 0.0).to(tl.float32), live)
    tl.store(weights + 3 * at + 1, tl.where(found, wb, 0.0).to(tl.float32), live)
    tl.store(weights + 3 * at + 2, tl.where(found, wc, 0.0).to(tl.float32), live)
