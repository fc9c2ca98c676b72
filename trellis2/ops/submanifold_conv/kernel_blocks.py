"""Triton kernels of the neighbour map through blocks of 2 x 2 x 2 voxels: a voxel's 27 neighbours lie in 8 blocks, so a
voxel makes 8 look-ups in a small hash table, each of which yields a line of eight rows.

A block is identified by the row of one of its voxels, its leader. Floor: writing the map, 108 bytes a voxel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....o_voxel.core.device import device_guard
from ....o_voxel.ops.hash_grid.kernel import EMPTY, OUTSIDE, find_rows, first_slot, pack_key

TAPS = 27
BLOCK = 256
# Look-ups per program of one warp, which waits for its longest probe.
LOOKUPS = 64
ENTRIES = 512


@triton.jit
def _voxel(coords_ptr, at, inside):
    base = coords_ptr + at.to(tl.int64) * 4
    batch = tl.load(base, mask=inside, other=0)
    x = tl.load(base + 1, mask=inside, other=0)
    y = tl.load(base + 2, mask=inside, other=0)
    z = tl.load(base + 3, mask=inside, other=0)
    return batch, x, y, z


@triton.jit(do_not_specialize=["n"])
def _key_kernel(coords_ptr, keys_ptr, n, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    batch, x, y, z = _voxel(coords_ptr, row, row < n)
    tl.store(keys_ptr + row, pack_key(batch, x >> 1, y >> 1, z >> 1), mask=row < n)


@triton.jit(do_not_specialize=["n"])
def _insert_kernel(keys_ptr, rows_ptr, n, capacity_mask, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys_ptr + row, mask=row < n, other=OUTSIDE)
    slot = first_slot(key, capacity_mask)
    active = key != OUTSIDE
    while tl.max(active.to(tl.int32), axis=0) > 0:
        seen = tl.atomic_min(rows_ptr + slot, row, mask=active)
        active = active & (seen != EMPTY)
        other = tl.load(keys_ptr + seen, mask=active, other=OUTSIDE)
        # A block needs one slot. The row displaced by another block's row moves on.
        active = active & (other != key)
        key = tl.where(seen > row, other, key)
        row = tl.maximum(row, seen)
        slot = (slot + 1) & capacity_mask


@triton.jit(do_not_specialize=["n"])
def _child_kernel(coords_ptr, keys_ptr, rows_ptr, children_ptr, n, capacity_mask, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    _, x, y, z = _voxel(coords_ptr, row, row < n)
    key = tl.load(keys_ptr + row, mask=row < n, other=OUTSIDE)
    leader = find_rows(keys_ptr, rows_ptr, key, row < n, capacity_mask)
    child = (x & 1) + (y & 1) * 2 + (z & 1) * 4
    tl.store(children_ptr + leader.to(tl.int64) * 8 + child, row, mask=leader >= 0)


@triton.jit(do_not_specialize=["n"])
def _leader_kernel(coords_ptr, keys_ptr, rows_ptr, leaders_ptr, n, capacity_mask, BLOCK: tl.constexpr):
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    corner = (entry & 7).to(tl.int32)
    inside = entry >> 3 < n
    batch, x, y, z = _voxel(coords_ptr, entry >> 3, inside)
    # Along each axis the voxel's block and the nearer adjacent one.
    x = (x >> 1) + (x & 1) - 1 + (corner & 1)
    y = (y >> 1) + (y & 1) - 1 + (corner >> 1 & 1)
    z = (z >> 1) + (z & 1) - 1 + (corner >> 2)
    leader = find_rows(keys_ptr, rows_ptr, pack_key(batch, x, y, z), inside, capacity_mask)
    tl.store(leaders_ptr + entry, leader, mask=inside)


@triton.jit(do_not_specialize=["n"])
def _map_kernel(coords_ptr, leaders_ptr, children_ptr, out_ptr, n, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    local = (start % 27).to(tl.int32) + tl.arange(0, BLOCK)
    entry, voxel, tap = start + tl.arange(0, BLOCK), start // 27 + local // 27, local % 27
    inside = voxel < n
    _, x, y, z = _voxel(coords_ptr, voxel, inside)
    # -1 to 2: the neighbour's position relative to the voxel's block; its parity is the position in its own block.
    i = (x & 1) + tap // 9 - 1
    j = (y & 1) + tap // 3 % 3 - 1
    k = (z & 1) + tap % 3 - 1
    corner = ((i >> 1) - (x & 1) + 1) + ((j >> 1) - (y & 1) + 1) * 2 + ((k >> 1) - (z & 1) + 1) * 4
    leader = tl.load(leaders_ptr + voxel * 8 + corner, mask=inside, other=-1)
    child = (i & 1) + (j & 1) * 2 + (k & 1) * 4
    row = tl.load(children_ptr + leader.to(tl.int64) * 8 + child, mask=leader >= 0, other=-1)
    tl.store(out_ptr + entry, row, mask=inside)


@device_guard
def neighbors_by_blocks(coords: Tensor) -> Tensor:
    """Returns the neighbour map [N, 27] int32 of unique voxels `coords` [N, 4] int32."""
    n, device, coords = len(coords), coords.device, coords.contiguous()
    out = torch.empty(n, TAPS, dtype=torch.int32, device=device)
    if n == 0:
        return out
    capacity = triton.next_power_of_2(max(2 * n, 64))
    keys = torch.empty(n, dtype=torch.int64, device=device)
    rows = torch.full((capacity,), EMPTY.value, dtype=torch.int32, device=device)
    children = torch.full((n, 8), -1, dtype=torch.int32, device=device)
    leaders = torch.empty(n, 8, dtype=torch.int32, device=device)
    grid, mask = (triton.cdiv(n, BLOCK),), capacity - 1
    _key_kernel[grid](coords, keys, n, BLOCK=BLOCK)
    _insert_kernel[grid](keys, rows, n, mask, BLOCK=BLOCK)
    _child_kernel[grid](coords, keys, rows, children, n, mask, BLOCK=BLOCK)
    _leader_kernel[(triton.cdiv(8 * n, LOOKUPS),)](
        coords, keys, rows, leaders, n, mask, BLOCK=LOOKUPS, num_warps=max(1, LOOKUPS // 64)
    )
    _map_kernel[(triton.cdiv(TAPS * n, ENTRIES),)](coords, leaders, children, out, n, BLOCK=ENTRIES)
    return out
