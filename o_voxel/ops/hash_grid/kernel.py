"""The index as an open-addressing hash table in device memory.

Traffic: building reads the coordinates once and touches about 1.5 random slots a voxel; a look-up touches about 1.5.
Slots are filled in a racy order, but what a look-up finds does not depend on it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import AXIS_BITS, AXIS_LIMIT

EMPTY = tl.constexpr(-1)
BITS = tl.constexpr(AXIS_BITS)
LIMIT = tl.constexpr(AXIS_LIMIT)
BLOCK = 256
# Lanes that have nothing to insert aim their compare-and-swap at slots of their own past the table's end.
SPARE = 4096


@triton.jit
def pack_key(batch, x, y, z):
    """Key of a coordinate; EMPTY, which is in no table, where it lies outside the range."""
    key = (((batch.to(tl.int64) << BITS | x.to(tl.int64)) << BITS | y.to(tl.int64)) << BITS) | z.to(tl.int64)
    low = tl.minimum(tl.minimum(x, y), tl.minimum(z, batch))
    high = tl.maximum(tl.maximum(x, y), tl.maximum(z, batch))
    return tl.where((low >= 0) & (high < LIMIT), key, EMPTY)


@triton.jit
def first_slot(key, capacity_mask):
    """Where a key's search begins. Four voxels in a row along z share a cache line, for they are sought together."""
    return ((((key >> 2) * 0x9E3779B97F4A7C1) >> 20) * 4 + (key & 3)) & capacity_mask


@triton.jit
def find_rows(keys_ptr, rows_ptr, key, wanted, capacity_mask):
    """Row of each `key` that is `wanted`, -1 where the table lacks it."""
    slot = first_slot(key, capacity_mask)
    row = tl.full(key.shape, -1, tl.int32)
    active = wanted & (key != EMPTY)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        found = tl.load(keys_ptr + slot, mask=active, other=EMPTY)
        hit = active & (found == key)
        row = tl.where(hit, tl.load(rows_ptr + slot, mask=hit, other=-1), row)
        active = active & (found != key) & (found != EMPTY)
        slot = (slot + 1) & capacity_mask
    return row


@triton.jit
def _load_key(coords_ptr, at, mask, DIMS: tl.constexpr):
    base = at.to(tl.int64) * DIMS
    batch = tl.load(coords_ptr + base, mask=mask, other=0) if DIMS == 4 else at * 0
    x = tl.load(coords_ptr + base + DIMS - 3, mask=mask, other=-1)
    y = tl.load(coords_ptr + base + DIMS - 2, mask=mask, other=-1)
    z = tl.load(coords_ptr + base + DIMS - 1, mask=mask, other=-1)
    return pack_key(batch, x, y, z)


@triton.jit
def _insert_kernel(
    coords_ptr, keys_ptr, rows_ptr, n, capacity_mask, SPARE: tl.constexpr, DIMS: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = _load_key(coords_ptr, at, at < n, DIMS)
    spare = capacity_mask + 1 + at % SPARE
    slot = first_slot(key, capacity_mask)
    active = (at < n) & (key != EMPTY)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        seen = tl.atomic_cas(keys_ptr + tl.where(active, slot, spare), tl.full(key.shape, EMPTY, tl.int64), key)
        mine = active & ((seen == EMPTY) | (seen == key))
        tl.atomic_min(rows_ptr + slot, at, mask=mine)
        active = active & (seen != EMPTY) & (seen != key)
        slot = (slot + 1) & capacity_mask


@triton.jit
def _find_kernel(query_ptr, keys_ptr, rows_ptr, out_ptr, n, capacity_mask, DIMS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = _load_key(query_ptr, at, at < n, DIMS)
    row = find_rows(keys_ptr, rows_ptr, key, at < n, capacity_mask)
    tl.store(out_ptr + at, row.to(tl.int64), mask=at < n)


def build_table(coords: Tensor) -> tuple[Tensor, Tensor]:
    """(keys, rows) of a table at most half full over `coords` [N, 3 or 4] int32; its capacity is a power of two."""
    n, dims = coords.shape
    capacity = triton.next_power_of_2(max(2 * n, 64))
    keys = torch.full((capacity + SPARE,), -1, dtype=torch.int64, device=coords.device)
    keys[capacity:] = 0  # never EMPTY, so no compare-and-swap takes a spare slot
    rows = torch.full((capacity,), 2**31 - 1, dtype=torch.int32, device=coords.device)
    if n:
        grid = (triton.cdiv(n, BLOCK),)
        _insert_kernel[grid](coords.contiguous(), keys, rows, n, capacity - 1, SPARE=SPARE, DIMS=dims, BLOCK=BLOCK)
    return keys, rows


def find(keys: Tensor, rows: Tensor, query: Tensor) -> Tensor:
    """Rows [...] int64 of the `query` coordinates [..., D] int32, -1 where absent."""
    flat = query.reshape(-1, query.shape[-1]).contiguous()
    out = torch.empty(len(flat), dtype=torch.int64, device=query.device)
    if len(flat):
        grid = (triton.cdiv(len(flat), BLOCK),)
        _find_kernel[grid](flat, keys, rows, out, len(flat), len(rows) - 1, DIMS=flat.shape[1], BLOCK=BLOCK)
    return out.reshape(query.shape[:-1])
