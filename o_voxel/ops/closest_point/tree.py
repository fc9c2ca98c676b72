"""Bounding volume hierarchy for closest-point queries: a complete binary tree over the triangles in Morton order.

Nodes are numbered as in a heap: the root is 1, the children of i are 2 i and 2 i + 1, and the leaves are the last
power of two of them. This needs no child pointers, and the traversal no stack: one bit per level marks a pending
sibling. Box bounds are rounded outwards to 16 bits; both children's boxes share a row of 32 bytes, one sector of GPU
memory. Boxes only cull: triangles are compared in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEAF_SIZE = 4
BITS = 16
# Boxes exceed their content by at least one step on every side, which covers the rounding of the steps.
MARGIN_STEPS = 2
STEPS = 2**BITS - 1 - 2 * MARGIN_STEPS
# Relative error bound of a computed box distance.
SLACK = 1e-5
MORTON_BITS = 21


@dataclass(frozen=True, eq=False)
class Tree:
    """A hierarchy over F triangles with L leaves, a power of two; leaf j holds slots j F / L to (j + 1) F / L.

    boxes: [L, 4] int64; row i holds the boxes of the children of node i, one axis per column: from the low bits up the
    first child's low and high bound and the second's, in steps; the last column is padding.
    codes: [L] int64, the Morton code of each leaf's first triangle.
    corners: [F, 9] float32 by slot.  face: [F] int32 by slot.  slot: [F] int32 by face.
    frame: [4] float32, the origin and the size of a step.
    """

    boxes: Tensor
    codes: Tensor
    corners: Tensor
    face: Tensor
    slot: Tensor
    frame: Tensor

    @property
    def leaves(self) -> int:
        return len(self.boxes)

    def likely_leaves(self, points: Tensor) -> Tensor:
        """Returns the leaf [N] int32 in or just before which triangles near each of `points` [N, 3] are likely."""
        leaf = torch.searchsorted(self.codes, _morton_codes(points, self.frame), out_int32=True)
        return leaf.clamp_max_(self.leaves - 1)


def build_tree(vertices: Tensor, faces: Tensor) -> Tree:
    """Builds the tree over `faces` [F, 3] int, F >= 1, rows of `vertices` [V, 3] float32; all finite and in range."""
    faces = faces.long()
    corners = vertices[faces]
    low, high = corners.amin(1), corners.amax(1)
    del corners
    lowest, highest = low.amin(0), high.amax(0)
    # Far from the origin, a step must not be smaller than the rounding of positions.
    rounding = torch.maximum(lowest.abs(), highest.abs()).amax() * 2**-22
    step = torch.maximum((highest - lowest).amax() / STEPS, rounding)
    step = torch.where(step > 0, step, 1.0)
    frame = torch.cat([lowest - MARGIN_STEPS * step, step[None]])
    codes, order = torch.sort(_morton_codes((low + high) / 2, frame), stable=True)
    low = ((low[order] - frame[:3]) / step).floor_().sub_(1).to(torch.int32)
    high = ((high[order] - frame[:3]) / step).ceil_().add_(1).to(torch.int32)
    leaves = 1 << max((len(faces) - 1) // LEAF_SIZE, 0).bit_length()
    start = torch.arange(leaves + 1, device=faces.device) * len(faces) // leaves
    face = order.to(torch.int32)
    slot = torch.empty_like(face)
    slot[order] = torch.arange(len(face), dtype=torch.int32, device=face.device)
    boxes = _boxes(*_leaf_bounds(low, high, start))
    return Tree(boxes, codes[start[:-1]], vertices[faces[order]].reshape(-1, 9), face, slot, frame)


def _leaf_bounds(low: Tensor, high: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the bounds [L, 3] of the leaves from those of the slots [F, 3]. start: [L + 1] first slots."""
    slots = torch.minimum(start[:-1, None] + torch.arange(LEAF_SIZE, device=low.device), start[1:, None] - 1)
    return low[slots].amin(1), high[slots].amax(1)


def _boxes(low: Tensor, high: Tensor) -> Tensor:
    """Returns Tree.boxes [L, 4] int64 from the leaves' bounds [L, 3]."""
    levels = []
    while len(low) > 1:
        bounds = torch.stack([low[0::2], high[0::2], low[1::2], high[1::2]]).long()
        levels.append(bounds[0] | bounds[1] << BITS | bounds[2] << 2 * BITS | bounds[3] << 3 * BITS)
        low, high = torch.minimum(low[0::2], low[1::2]), torch.maximum(high[0::2], high[1::2])
    rows = torch.cat([torch.zeros(1, 3, dtype=torch.int64, device=low.device), *reversed(levels)])
    return torch.nn.functional.pad(rows, (0, 1))


def _morton_codes(points: Tensor, frame: Tensor) -> Tensor:
    """Returns Morton codes [N] int64, 21 bits per axis, of `points` [N, 3] float32, clamped to the tree's frame."""
    top = 2**MORTON_BITS - 1
    cell = ((points - frame[:3]) * (top / (STEPS + 2 * MARGIN_STEPS) / frame[3])).clamp(0, top).long()
    # Each step doubles the gaps between groups of bits, until two zeros follow every bit.
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        cell.bitwise_or_(cell << shift).bitwise_and_(mask)
    return cell[:, 0] << 2 | cell[:, 1] << 1 | cell[:, 2]
