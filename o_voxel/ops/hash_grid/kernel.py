"""Voxel index in Triton: an open-addressing hash table of row numbers in device memory.

Slots hold rows; a probe compares the key of the row it finds. A row is inserted by an atomic minimum, and the row that
loses its slot moves on to the next, so the table's contents do not depend on the order of execution.
Traffic: a few random slots and keys per voxel, to build and to look up.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...core.device import device_guard
from .reference import AXIS_BITS, AXIS_LIMIT, pack_keys

OUTSIDE = tl.constexpr(-1)
EMPTY = tl.constexpr(2**31 - 1)
BITS = tl.constexpr(AXIS_BITS)
LIMIT = tl.constexpr(AXIS_LIMIT)
BLOCK = 256


@triton.jit
def pack_key(batch, x, y, z):
    """Returns the key of a coordinate; OUTSIDE, which is in no table, if it is out of range."""
    key = (((batch.to(tl.int64) << BITS | x.to(tl.int64)) << BITS | y.to(tl.int64)) << BITS) | z.to(tl.int64)
    low = tl.minimum(tl.minimum(x, y), tl.minimum(z, batch))
    high = tl.maximum(tl.maximum(x, y), tl.maximum(z, batch))
    return tl.where((low >= 0) & (high < LIMIT), key, OUTSIDE)


@triton.jit
def first_slot(key, capacity_mask):
    """Returns a key's first probe slot. Four voxels in a row along z, often read together, share a cache line."""
    return ((((key >> 2) * 0x9E3779B97F4A7C1) >> 20) * 4 + (key & 3)) & capacity_mask


@triton.jit
def find_rows(keys_ptr, rows_ptr, key, wanted, capacity_mask):
    """Returns the row of each `key` that is `wanted`, -1 if it is not in the table."""
    slot = first_slot(key, capacity_mask)
    found = tl.full(key.shape, -1, tl.int32)
    active = wanted & (key != OUTSIDE)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        row = tl.load(rows_ptr + slot, mask=active, other=EMPTY)
        active = active & (row != EMPTY)
        hit = active & (tl.load(keys_ptr + row, mask=active, other=OUTSIDE) == key)
        found = tl.where(hit, row, found)
        active = active & (found < 0)
        slot = (slot + 1) & capacity_mask
    return found


@triton.jit
def _load_key(coords_ptr, at, mask, DIMS: tl.constexpr):
    base = at.to(tl.int64) * DIMS
    batch = tl.load(coords_ptr + base, mask=mask, other=0) if DIMS == 4 else at * 0
    x = tl.load(coords_ptr + base + DIMS - 3, mask=mask, other=-1)
    y = tl.load(coords_ptr + base + DIMS - 2, mask=mask, other=-1)
    z = tl.load(coords_ptr + base + DIMS - 1, mask=mask, other=-1)
    return pack_key(batch, x, y, z)


@triton.jit(do_not_specialize=["n"])
def _insert_kernel(keys_ptr, rows_ptr, n, capacity_mask, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys_ptr + row, mask=row < n, other=OUTSIDE)
    slot = first_slot(key, capacity_mask)
    active = key != OUTSIDE
    while tl.max(active.to(tl.int32), axis=0) > 0:
        seen = tl.atomic_min(rows_ptr + slot, row, mask=active)
        active = active & (seen != EMPTY)
        row = tl.maximum(row, seen)  # the loser moves on
        slot = (slot + 1) & capacity_mask


@triton.jit(do_not_specialize=["n"])
def _find_kernel(query_ptr, keys_ptr, rows_ptr, out_ptr, n, capacity_mask, DIMS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = _load_key(query_ptr, at, at < n, DIMS)
    row = find_rows(keys_ptr, rows_ptr, key, at < n, capacity_mask)
    tl.store(out_ptr + at, row.to(tl.int64), mask=at < n)


@device_guard
def build_table(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (keys [N] int64, rows [capacity] int32) over `coords` [N, 3 or 4] int32.

    The capacity is a power of two, with at most half of the slots in use.
    """
    n = len(coords)
    capacity = triton.next_power_of_2(max(2 * n, 64))
    keys = pack_keys(coords)
    rows = torch.full((capacity,), EMPTY.value, dtype=torch.int32, device=coords.device)
    if n:
        _insert_kernel[(triton.cdiv(n, BLOCK),)](keys, rows, n, capacity - 1, BLOCK=BLOCK)
    return keys, rows


@device_guard
def find(keys: Tensor, rows: Tensor, query: Tensor) -> Tensor:
    """Returns rows [...] int64 of the `query` coordinates [..., D] int32, -1 if absent."""
    flat = query.reshape(-1, query.shape[-1]).contiguous()
    out = torch.empty(len(flat), dtype=torch.int64, device=query.device)
    if len(flat):
        grid = (triton.cdiv(len(flat), BLOCK),)
        _find_kernel[grid](flat, keys, rows, out, len(flat), len(rows) - 1, DIMS=flat.shape[1], BLOCK=BLOCK)
    return out.reshape(query.shape[:-1])
