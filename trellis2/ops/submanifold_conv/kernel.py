"""Submanifold convolution as an implicit matrix product on the GPU.

Rows that share a neighbour pattern are put into one tile, and a tile visits only the taps that one of its rows has.
Floor: 2 * pairs * C * D operations (pairs: existing neighbours), or reading the gathered rows once through L2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....o_voxel.ops.hash_grid.kernel import find_rows, pack_key

TAPS = 27
TILE = 128
# Rows are sorted by pattern inside blocks of this many, so that a tile's gathers stay close in memory.
SORT_BLOCK = 131072
BLOCK = 128

# (tile of output channels, channels a step, warps, stages) by the narrower of both channel counts; measured on H200.
CONFIGS = {64: (64, 64, 4, 5), 128: (128, 64, 4, 5), 256: (128, 64, 4, 5)}


@dataclass(frozen=True, eq=False)
class TiledMap:
    """A neighbour map arranged for the kernel: M = ceil(N / 128) tiles.

    order: [M, 128] int32, the row of each place, -1 past the end.  taps: [M, 27] int32, the taps that a tile needs,
    first ones first.  counts: [M] int32, how many.  sources: [M, 27, 128] int32, the rows gathered for these taps, -1
    where absent.
    """

    order: Tensor
    taps: Tensor
    counts: Tensor
    sources: Tensor


@triton.jit
def _neighbor_kernel(
    coords_ptr, keys_ptr, rows_ptr, out_ptr, n, capacity_mask, DILATION: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tap = tl.program_id(1)
    inside = at < n
    base = coords_ptr + at.to(tl.int64) * 4
    batch = tl.load(base, mask=inside, other=0)
    x = tl.load(base + 1, mask=inside, other=-1) + (tap // 9 - 1) * DILATION
    y = tl.load(base + 2, mask=inside, other=-1) + (tap // 3 % 3 - 1) * DILATION
    z = tl.load(base + 3, mask=inside, other=-1) + (tap % 3 - 1) * DILATION
    row = find_rows(keys_ptr, rows_ptr, pack_key(batch, x, y, z), inside, capacity_mask)
    tl.store(out_ptr + at.to(tl.int64) * 27 + tap, row, mask=inside)


def find_neighbors(coords: Tensor, keys: Tensor, rows: Tensor, dilation: int) -> Tensor:
    """The neighbour map [N, 27] int32 of `coords` [N, 4] int32, from the hash table over them."""
    n = len(coords)
    out = torch.empty(n, TAPS, dtype=torch.int32, device=coords.device)
    if n:
        grid = (triton.cdiv(n, BLOCK), TAPS)
        _neighbor_kernel[grid](coords.contiguous(), keys, rows, out, n, len(rows) - 1, DILATION=dilation, BLOCK=BLOCK)
    return out


def tile_neighbors(neighbors: Tensor) -> TiledMap:
    """Arrange a neighbour map [N, 27] int32; done once for all the layers that share it."""
    n, device = len(neighbors), neighbors.device
    tiles = triton.cdiv(n, TILE)
    present = neighbors >= 0
    bits = torch.ones(TAPS, dtype=torch.int64, device=device) << torch.arange(TAPS, device=device)
    pattern = (present * bits).sum(1)
    block = torch.arange(n, device=device) // SORT_BLOCK
    order = torch.full((tiles * TILE,), -1, dtype=torch.int64, device=device)
    order[:n] = ((block << TAPS) | pattern).argsort(stable=True)
    arranged = torch.cat([neighbors, neighbors.new_full((1, TAPS), -1)])[order].view(tiles, TILE, TAPS)
    needed = (arranged >= 0).any(1)
    taps = needed.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    sources = arranged.gather(2, taps[:, None].expand(tiles, TILE, TAPS)).transpose(1, 2).contiguous()
    counts = needed.sum(1, dtype=torch.int32)
    return TiledMap(order.view(tiles, TILE).to(torch.int32), taps.to(torch.int32), counts, sources)


@triton.jit
def _conv_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    order_ptr,
    taps_ptr,
    counts_ptr,
    sources_ptr,
    C,
    D,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # Tiles of output channels run fastest: the programs that gather the same rows are neighbours in time.
    column_tiles = tl.cdiv(D, BLOCK_D)
    tile = (tl.program_id(0) // column_tiles).to(tl.int64)
    columns = (tl.program_id(0) % column_tiles) * BLOCK_D + tl.arange(0, BLOCK_D)
    lane = tl.arange(0, TILE)
    depth = tl.arange(0, BLOCK_C)
    steps = tl.cdiv(C, BLOCK_C)
    total = tl.load(counts_ptr + tile) * steps
    acc = tl.zeros((TILE, BLOCK_D), dtype=tl.float32)
    for step in range(total):
        slot = step // steps
        channel = (step % steps) * BLOCK_C + depth
        tap = tl.load(taps_ptr + tile * 27 + slot)
        source = tl.load(sources_ptr + (tile * 27 + slot) * TILE + lane)
        gathered = tl.load(
            x_ptr + source.to(tl.int64)[:, None] * C + channel[None],
            mask=(source >= 0)[:, None] & (channel < C)[None],
            other=0.0,
        )
        kernel = tl.load(
            weight_ptr + columns.to(tl.int64)[None] * (27 * C) + tap * C + channel[:, None],
            mask=(columns < D)[None] & (channel < C)[:, None],
            other=0.0,
        )
        acc = tl.dot(gathered, kernel, acc, input_precision=PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)[None]
    row = tl.load(order_ptr + tile * TILE + lane)
    place = out_ptr + row.to(tl.int64)[:, None] * D + columns[None]
    tl.store(place, acc.to(out_ptr.dtype.element_ty), mask=(row >= 0)[:, None] & (columns < D)[None])


def convolve(feats: Tensor, tiles: TiledMap, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `submanifold_conv`. float32 is multiplied in full precision, not TF32."""
    (n, c), d = feats.shape, len(weight)
    out = torch.empty(n, d, dtype=feats.dtype, device=feats.device)
    if n == 0:
        return out
    block_d, block_c, warps, stages = CONFIGS[min(max(64, triton.next_power_of_2(min(c, d))), 256)]
    if feats.dtype == torch.float32:
        block_d, block_c, stages = 64, 32, 2
    block_c = min(block_c, max(16, triton.next_power_of_2(c)))
    block_d = min(block_d, max(16, triton.next_power_of_2(d)))
    grid = (len(tiles.counts) * triton.cdiv(d, block_d),)
    _conv_kernel[grid](
        feats.contiguous(),
        weight.contiguous(),
        weight if bias is None else bias,
        out,
        tiles.order,
        tiles.taps,
        tiles.counts,
        tiles.sources,
        c,
        d,
        HAS_BIAS=bias is not None,
        PRECISION="ieee",
        TILE=TILE,
        BLOCK_D=block_d,
        BLOCK_C=block_c,
        num_warps=warps,
        num_stages=stages,
    )
    return out
