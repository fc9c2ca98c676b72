"""Quad look-up in Triton: one edge per lane, three hash probes each; 28 bytes and three random slots per edge."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from ..hash_grid.kernel import find_rows, pack_key

BLOCK = 256


@triton.jit(do_not_specialize=["n"])
def _corner_kernel(coords_ptr, keys_ptr, rows_ptr, edges_ptr, out_ptr, n, capacity_mask, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    edge = tl.load(edges_ptr + at, mask=inside, other=0)
    voxel, axis = edge // 3, (edge % 3).to(tl.int32)
    x = tl.load(coords_ptr + voxel * 3, mask=inside, other=0)
    y = tl.load(coords_ptr + voxel * 3 + 1, mask=inside, other=0)
    z = tl.load(coords_ptr + voxel * 3 + 2, mask=inside, other=0)
    tl.store(out_ptr + at * 4, voxel.to(tl.int32), mask=inside)
    # The corners circle the edge: a step along one axis, along both, along the other. Order of the two axes: z, y
    # for an edge along x; x, z along y; y, x along z.
    for corner in tl.static_range(1, 4):
        first = 1 if corner <= 2 else 0
        second = 1 if corner >= 2 else 0
        dx = tl.where(axis == 1, first, tl.where(axis == 2, second, 0))
        dy = tl.where(axis == 2, first, tl.where(axis == 0, second, 0))
        dz = tl.where(axis == 0, first, tl.where(axis == 1, second, 0))
        row = find_rows(keys_ptr, rows_ptr, pack_key(x * 0, x + dx, y + dy, z + dz), inside, capacity_mask)
        tl.store(out_ptr + at * 4 + corner, row, mask=inside)


@device_guard
def find_corners(coords: Tensor, keys: Tensor, rows: Tensor, edges: Tensor) -> Tensor:
    """Returns the rows [E, 4] int32 of the voxels around each edge, -1 where absent, from the hash table over `coords`.

    coords: [N, 3] int32.  keys [N] int64, rows [capacity] int32: the table.  edges: [E] int64, voxel * 3 + axis.
    """
    out = torch.empty(len(edges), 4, dtype=torch.int32, device=coords.device)
    if len(edges):
        grid = (triton.cdiv(len(edges), BLOCK),)
        _corner_kernel[grid](coords.contiguous(), keys, rows, edges, out, len(edges), len(rows) - 1, BLOCK=BLOCK)
    return out
