"""Triton kernels that derive neighbour maps from the parents', and arrange maps into tiles of rows with like
neighbours.

Floor: reading or writing the map, 108 bytes a voxel; the arrangement sorts a key of 4 bytes a voxel in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....o_voxel.core.device import device_guard

TAPS = 27
TILE = 128
# Rows are sorted by pattern within blocks of this many, so that a tile's gathers stay close in memory.
SORT_ROWS = 131072
# Below this many rows the taps are split into three groups, each with tiles of its own, whose float32 results are
# added: few rows share 27 neighbours, many share 9. On an H200 1.35 times faster at 9,556 rows, 1.08 at 38,404,
# 0.8 at 153,292.
SPLIT_ROWS = 49152
# Keys of 26 bits of pattern and a number below this fit an int32.
KEY_BLOCKS = 31


@dataclass(frozen=True, eq=False)
class TiledMap:
    """A neighbour map arranged for the kernel: M tiles of 128 lanes, some of them empty.

    out_rows: [M, 128] int32, the row of the output that a lane computes, -1 for none; row R in group g of G is g * rows
    + R.  sections: [M] int32, group * children + child of the tile.  taps: [M, 27 / G] int32, the taps that the tile
    needs come first.  counts: [M] int32, their number.  sources: [M, 27 / G, 128] int32, the rows of the input gathered
    for these taps, -1 where absent.  rows: of the output.  groups: G.  children: 8 where each output row is a child of
    an input row, else 1.
    """

    out_rows: Tensor
    sections: Tensor
    taps: Tensor
    counts: Tensor
    sources: Tensor
    rows: int
    groups: int
    children: int


@triton.jit
def _entries(BLOCK: tl.constexpr):
    """Returns numbers, voxels and taps of the entries of a map [N, 27] that this program fills."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    local = (start % 27).to(tl.int32) + tl.arange(0, BLOCK)
    return start + tl.arange(0, BLOCK), start // 27 + local // 27, local % 27


# Row counts change with every image: without specialisation a kernel is compiled once, not again for a count of 1 or
# one divisible by 16.
@triton.jit(do_not_specialize=["n"])
def _child_neighbor_kernel(coarse_ptr, rows_ptr, parent_ptr, child_ptr, out_ptr, n, BLOCK: tl.constexpr):
    entry, voxel, tap = _entries(BLOCK)
    inside = voxel < n
    child = tl.load(child_ptr + voxel, mask=inside, other=0).to(tl.int32)
    parent = tl.load(parent_ptr + voxel, mask=inside, other=0)
    # 1 to 4: half of it is the parent's step plus one, its parity the neighbour's position among its siblings.
    x = (child & 1) + tap // 9 + 1
    y = (child >> 1 & 1) + tap // 3 % 3 + 1
    z = (child >> 2 & 1) + tap % 3 + 1
    near = tl.load(coarse_ptr + parent * 27 + (x // 2 * 9 + y // 2 * 3 + z // 2), mask=inside, other=-1)
    sibling = (x & 1) + (y & 1) * 2 + (z & 1) * 4
    row = tl.load(rows_ptr + near.to(tl.int64) * 8 + sibling, mask=near >= 0, other=-1)
    tl.store(out_ptr + entry, row, mask=inside)


@device_guard
def child_neighbors(coarse: Tensor, parent: Tensor, child: Tensor, rows: Tensor) -> Tensor:
    """See the package's `child_neighbors`: coarse [N, 27] int32, rows [N, 8] int32, to [M, 27] int32."""
    n = len(parent)
    out = torch.empty(n, TAPS, dtype=torch.int32, device=coarse.device)
    if n:
        grid, block = (triton.cdiv(n * TAPS, 512),), 512
        _child_neighbor_kernel[grid](
            coarse.contiguous(), rows.contiguous(), parent.contiguous(), child.contiguous(), out, n, BLOCK=block
        )
    return out


@triton.jit(do_not_specialize=["n", "block_rows", "blocks", "children", "slots"])
def _key_kernel(
    neighbors_ptr, parent_ptr, child_ptr, keys_ptr, n, block_rows, blocks, children, slots, BLOCK: tl.constexpr
):
    group = tl.program_id(1)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    section = group * children + tl.zeros((BLOCK,), tl.int32)
    source = row.to(tl.int64)
    if children > 1:
        source = tl.load(parent_ptr + row, mask=row < n, other=0)
        section += tl.load(child_ptr + row, mask=row < n, other=0).to(tl.int32)
    # Faces have the high bits, then edges, then corners: the rarer a neighbour, the lower its bit. The centre is always
    # present.
    tap = tl.arange(0, 32)
    x = tap // 9 - 1
    y = tap // 3 % 3 - 1
    z = tap % 3 - 1
    order = (x * x + y * y + z * z) * 32 + tap
    rank = tl.sum((order[None, :] < order[:, None]).to(tl.int32), axis=1)
    wanted = (tap // slots == group) & (rank > 0) & (rank < 27)
    bit = tl.where(wanted, 1 << ((26 - rank) & 31), 0)
    near = tl.load(
        neighbors_ptr + source[:, None] * 27 + tap[None, :], mask=(row < n)[:, None] & wanted[None, :], other=-1
    )
    key = tl.sum(tl.where(near >= 0, bit[None, :], 0), axis=1)
    # Position in a Gray code: consecutive keys differ by few neighbours.
    key ^= key >> 1
    key ^= key >> 2
    key ^= key >> 4
    key ^= key >> 8
    key ^= key >> 16
    key |= (section * blocks + row // block_rows) << 26
    tl.store(keys_ptr + group.to(tl.int64) * n + row, key, mask=row < n)


@triton.jit(do_not_specialize=["n", "children", "sections", "slots"])
def _tile_kernel(
    neighbors_ptr,
    parent_ptr,
    order_ptr,
    edges_ptr,
    out_rows_ptr,
    sections_ptr,
    taps_ptr,
    counts_ptr,
    sources_ptr,
    n,
    children,
    sections,
    slots,
    TILE: tl.constexpr,
):
    tile = tl.program_id(0)
    # Every section, edges[i] to edges[i + 1] of the order, starts a tile.
    number = tl.arange(0, 32)
    low = tl.load(edges_ptr + number, mask=number < sections, other=0).to(tl.int32)
    high = tl.load(edges_ptr + number + 1, mask=number < sections, other=0).to(tl.int32)
    tiles = (high - low + TILE - 1) // TILE
    section = tl.sum(((tl.cumsum(tiles, axis=0) <= tile) & (number < sections)).to(tl.int32), axis=0)
    first = tl.sum(tl.where(number < section, tiles, 0), axis=0)
    lane = tl.arange(0, TILE)
    at = tl.sum(tl.where(number == section, low, 0), axis=0) + (tile - first) * TILE + lane
    inside = at < tl.sum(tl.where(number == section, high, 0), axis=0)
    group = section // children
    out_row = tl.load(order_ptr + at, mask=inside, other=-1)
    source = out_row - group.to(tl.int64) * n
    if children > 1:
        source = tl.load(parent_ptr + source, mask=inside, other=0)
    slot = tl.arange(0, 32)
    tap = group * slots + slot
    near = tl.load(
        neighbors_ptr + source[:, None] * 27 + tap[None, :], mask=inside[:, None] & (slot < slots)[None, :], other=-1
    )
    needed = tl.max(near, axis=0) >= 0
    spot = tile.to(tl.int64) * slots + tl.cumsum(needed.to(tl.int32), axis=0) - 1
    tl.store(sources_ptr + spot[None, :] * TILE + lane[:, None], near, mask=(lane >= 0)[:, None] & needed[None, :])
    tl.store(taps_ptr + spot, tap, mask=needed)
    tl.store(counts_ptr + tile, tl.sum(needed.to(tl.int32), axis=0))
    tl.store(sections_ptr + tile, section)
    tl.store(out_rows_ptr + tile.to(tl.int64) * TILE + lane, out_row.to(tl.int32))


@device_guard
def tile_neighbors(
    neighbors: Tensor, parent: Tensor | None = None, child: Tensor | None = None, total: int | None = None
) -> TiledMap:
    """See the package's `tile_neighbors`: neighbors [N, 27] int32."""
    n, device = len(neighbors if parent is None else parent), neighbors.device
    groups, children = 3 if (total or n) < SPLIT_ROWS else 1, 1 if parent is None else 8
    slots, sections = TAPS // groups, groups * children
    tiles = (groups * n + sections * (TILE - 1)) // TILE if n else 0

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=device)

    out = TiledMap(
        empty(tiles, TILE),
        empty(tiles),
        empty(tiles, slots),
        empty(tiles),
        empty(tiles, slots, TILE),
        n,
        groups,
        children,
    )
    if n == 0:
        return out
    neighbors = neighbors.contiguous()
    # Placeholders of the same dtype for absent arguments.
    none = torch.empty(0, dtype=torch.int64, device=device)
    parent, child = (none if index is None else index.contiguous() for index in (parent, child))
    blocks = min(triton.cdiv(n, SORT_ROWS * children), KEY_BLOCKS // sections)
    keys = empty(groups * n)
    grid, block_rows = (triton.cdiv(n, 32), groups), triton.cdiv(n, blocks)
    _key_kernel[grid](neighbors, parent, child, keys, n, block_rows, blocks, children, slots, BLOCK=32)
    keys, order = torch.sort(keys, stable=True)
    edges = torch.searchsorted(keys, torch.arange(sections + 1, dtype=torch.int32, device=device) * (blocks << 26))
    _tile_kernel[(tiles,)](
        neighbors,
        parent,
        order,
        edges,
        out.out_rows,
        out.sections,
        out.taps,
        out.counts,
        out.sources,
        n,
        children,
        sections,
        slots,
        TILE=TILE,
    )
    return out
