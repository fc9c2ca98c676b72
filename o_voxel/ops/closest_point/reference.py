"""Closest-point search in plain torch: all queries descend the tree together, one level at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from .tree import BITS, LEAF_SIZE, SLACK, Tree

QUERIES_A_PASS = 1 << 16
PAIRS_A_PASS = 1 << 22
NO_FACE = 0xFFFFFFFF


def closest_torch(tree: Tree, points: Tensor, furthest: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns distance [N] float32, face [N] int64, barycentrics [N, 3] float32 of `points` [N, 3] float32.

    Arguments as `closest_point`, checked there.
    """
    face = torch.cat([_search(tree, part, furthest) for part in points.split(QUERIES_A_PASS)]) & NO_FACE
    found = face != NO_FACE
    slot = tree.slot[torch.where(found, face, 0)]
    square, weights = closest_on_triangles(points, tree.corners[slot.long()])
    distance = torch.where(found, square.sqrt().float(), torch.inf)
    return distance, torch.where(found, face, -1), torch.where(found[:, None], weights.float(), 0.0)


def first_key(furthest: float) -> int:
    """Returns the initial search key, above that of any face within `furthest`."""
    square = torch.tensor(furthest, dtype=torch.float64).square().float()
    return int(square.view(torch.int32)) << 32 | NO_FACE


def _search(tree: Tree, points: Tensor, furthest: float) -> Tensor:
    """Returns keys [N] int64 of the nearest faces: the bits of the squared distance above, the face below.

    The smallest key is the nearest face, and the lowest of equally near ones. The face is NO_FACE if none is within
    `furthest`.
    """
    query = torch.arange(len(points), device=points.device)
    keys = torch.full((len(points),), first_key(furthest), device=points.device)
    likely = tree.likely_leaves(points).long()
    for leaf in (likely, (likely - 1).clamp_min(0)):
        keys = _search_leaves(tree, points, keys, query, leaf)
    position = (points - tree.frame[:3]) / tree.frame[3]
    bound = (keys >> 32).to(torch.int32).view(torch.float32) * ((1 + SLACK) / tree.frame[3].square())
    node = torch.ones_like(query)
    for _ in range(tree.leaves.bit_length() - 1):
        kept = (_box_distances(tree.boxes[node], position[query]) <= bound[query, None]).nonzero()
        query, node = query[kept[:, 0]], 2 * node[kept[:, 0]] + kept[:, 1]
        if len(node) > PAIRS_A_PASS and len(points) > 1:
            return torch.cat([_search(tree, half, furthest) for half in points.tensor_split(2)])
    return _search_leaves(tree, points, keys, query, node - tree.leaves)


def _box_distances(rows: Tensor, position: Tensor) -> Tensor:
    """Returns squared distances [P, 2], in steps, from `position` [P, 3] to the two boxes of `rows` [P, 4]."""
    bounds = rows[:, :3, None] >> torch.arange(0, 4 * BITS, BITS, device=rows.device) & (2**BITS - 1)
    low, high = bounds.float().unflatten(2, (2, 2)).unbind(3)
    return torch.maximum(low - position[..., None], position[..., None] - high).clamp_min(0).square().sum(1)


def _search_leaves(tree: Tree, points: Tensor, keys: Tensor, query: Tensor, leaf: Tensor) -> Tensor:
    """Returns `keys` [N] lowered by the triangles of each pair of a `query` and a `leaf` [P]."""
    count = len(tree.face)
    start, end = leaf * count // tree.leaves, (leaf + 1) * count // tree.leaves
    for k in range(LEAF_SIZE):
        rows = (start + k < end).nonzero().flatten()
        for part in rows.split(PAIRS_A_PASS // LEAF_SIZE):
            slot = start[part] + k
            square, _ = closest_on_triangles(points[query[part]], tree.corners[slot])
            key = square.float().view(torch.int32).long() << 32 | tree.face[slot].long()
            keys = keys.scatter_reduce(0, query[part], key, "amin")
    return keys


def closest_on_triangles(points: Tensor, corners: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (squared distance [P], corner weights [P, 3]) of `points` [P, 3] to triangles [P, 9], in float64.

    float32 on MPS, which has no float64. Takes the foot of the perpendicular if it is inside the triangle, else the
    nearest of the three edges' points; degenerate triangles need no special case.
    """
    wide = torch.float32 if points.device.type == "mps" else torch.float64
    corners = corners.to(wide).unflatten(1, (3, 3))
    to_point, along = points.to(wide)[:, None] - corners, corners.roll(-1, 1) - corners
    length = along.square().sum(2)
    part = ((to_point * along).sum(2) / torch.where(length > 0, length, 1.0)).clamp(0, 1)
    square, edge = (to_point - part[..., None] * along).square().sum(2).min(1)
    part = part.gather(1, edge[:, None])
    weights = torch.zeros_like(length).scatter_(1, edge[:, None], 1 - part).scatter_(1, (edge[:, None] + 1) % 3, part)

    normal = torch.linalg.cross(along[:, 0], -along[:, 2])
    area = normal.square().sum(1)
    scale = torch.where(area > 0, area, 1.0)
    # A corner's weight is the area of the triangle between the opposite edge and the foot.
    inner = (torch.linalg.cross(along, to_point) * normal[:, None]).sum(2).roll(-1, 1) / scale[:, None]
    inside = (area > 0) & (inner >= 0).all(1)
    height = (to_point[:, 0] * normal).sum(1)
    return torch.where(inside, height * height / scale, square), torch.where(inside[:, None], inner, weights)
