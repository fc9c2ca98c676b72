"""Triton kernels of the submanifold convolution as an implicit matrix product.

Rows with like neighbour patterns share a tile, and a tile visits only the taps present in one of its rows. Floor: 2 *
pairs * C * D operations (pairs: existing neighbours), or reading the gathered rows once through L2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....o_voxel.core.device import device_guard, is_hopper
from .kernel_maps import TAPS, TILE, TiledMap

try:
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # Triton before 3.4
    TensorDescriptor = None


# `slots` and `children` only set loop bounds and offsets: as runtime arguments they save a compiled kernel.
@triton.jit(do_not_specialize=["slots", "children"])
def _conv_kernel(
    x_ptr,
    weight,
    bias_ptr,
    out_ptr,
    out_rows_ptr,
    sections_ptr,
    taps_ptr,
    counts_ptr,
    sources_ptr,
    C,
    D,
    slots,
    children,
    HAS_BIAS: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    # Columns run fastest: programs that gather the same rows run at the same time.
    blocks = tl.cdiv(D, BLOCK_D)
    tile = (tl.program_id(0) // blocks).to(tl.int64)
    section = tl.load(sections_ptr + tile)
    column = tl.program_id(0) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    first = section % children * D + tl.program_id(0) % blocks * BLOCK_D
    weight_row = (first + tl.arange(0, BLOCK_D)).to(tl.int64) * (27 * C)
    lane = tl.arange(0, TILE)
    depth = tl.arange(0, BLOCK_C)
    acc = tl.zeros((TILE, BLOCK_D), dtype=tl.float32)
    slot = tile * slots
    start_channel = 0
    for _ in range(tl.load(counts_ptr + tile) * tl.cdiv(C, BLOCK_C)):
        channel = start_channel + depth
        tap = tl.load(taps_ptr + slot)
        source = tl.load(sources_ptr + slot * TILE + lane)
        start = source[:, None].to(tl.int64) * C if WIDE else source[:, None] * C
        gathered = tl.load(
            x_ptr + start + channel[None, :], mask=(source >= 0)[:, None] & (channel < C)[None, :], other=0.0
        )
        if DESCRIPTOR:
            kernel = weight.load([first, tap * C + start_channel]).T
        else:
            kernel = tl.load(
                weight + weight_row[None, :] + (tap * C + channel)[:, None],
                mask=(column < D)[None, :] & (channel < C)[:, None],
                other=0.0,
            )
        acc = tl.dot(gathered, kernel, acc, input_precision="ieee")
        # All channels of a tap, then those of the next: counters, since a division would take longer.
        start_channel += BLOCK_C
        slot += (start_channel >= C).to(tl.int64)
        start_channel = tl.where(start_channel >= C, 0, start_channel)
    if HAS_BIAS:
        # Only the first group of taps adds the bias.
        mask = column < tl.where(section < children, D, 0)
        acc += tl.load(bias_ptr + section % children * D + column, mask=mask, other=0.0).to(tl.float32)[None, :]
    out_row = tl.load(out_rows_ptr + tile * TILE + lane)
    target = out_ptr + out_row.to(tl.int64)[:, None] * D + column[None, :]
    tl.store(target, acc.to(out_ptr.dtype.element_ty), mask=(out_row >= 0)[:, None] & (column < D)[None, :])


@triton.jit
def _add_kernel(partial_ptr, out_ptr, size, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for _ in tl.static_range(GROUPS):
        total += tl.load(partial_ptr + at, mask=at < size, other=0.0)
        partial_ptr += size
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=at < size)


@dataclass(frozen=True)
class Config:
    """block_d: output channels of a tile.  block_c: input channels a step.  descriptor: load the weight through a
    tensor descriptor (tensor memory accelerator)."""

    block_d: int
    block_c: int
    warps: int
    stages: int
    descriptor: bool = False


# The pipeline of an indirect load is half as deep as its number of stages: 5 make 3 buffers, two programs per SM.
HOPPER = Config(128, 64, 4, 5, descriptor=TensorDescriptor is not None)
# From 512 output channels on: 10 % faster, since rows are gathered half as often.
HOPPER_WIDE = replace(HOPPER, block_d=256, warps=8)
# 50 KB of the 99 KB of shared memory of consumer cards; AMD counts stages differently.
NVIDIA = Config(128, 32, 4, 7)
AMD = Config(128, 32, 4, 2)
# Full precision runs on the ordinary cores, which limit it.
FULL = Config(64, 32, 4, 2)
# The weight's gradient: tile shapes, rows per step, and the number of programs that fill a card.
GRADIENT = Config(128, 128, 8, 5)
GRADIENT_ELSEWHERE = Config(64, 64, 4, 2)
GRADIENT_ROWS = 64
GRADIENT_PROGRAMS = 1056


def choose_config(device: torch.device, dtype: torch.dtype, channels: int) -> Config:
    """Returns the tile shape for a card and a number of output channels: measured on an H200, chosen to fit
    elsewhere."""
    if dtype == torch.float32:
        return FULL
    if torch.version.hip:
        return AMD
    if device.type == "cuda" and not is_hopper(device):
        return NVIDIA
    return HOPPER_WIDE if channels >= 512 else HOPPER


@device_guard
def convolve(feats: Tensor, tiles: TiledMap, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `submanifold_conv` and `child_conv`: feats [N, C] to [rows, D]. float32 is multiplied in full precision, not
    TF32."""
    (n, c), d = feats.shape, len(weight) // tiles.children
    config = choose_config(feats.device, feats.dtype, d)
    out = torch.empty(tiles.rows, d, dtype=feats.dtype, device=feats.device)
    if tiles.rows == 0 or d == 0:
        return out
    partial = out
    if tiles.groups > 1:
        partial = torch.empty(tiles.groups * tiles.rows, d, dtype=torch.float32, device=feats.device)
    block_c = min(config.block_c, max(16, triton.next_power_of_2(c)))
    block_d = min(config.block_d, max(16, triton.next_power_of_2(d)))
    weight = weight.contiguous().view(len(weight), TAPS * c)
    descriptor = config.descriptor and c % block_c == 0 and weight.data_ptr() % 16 == 0
    _conv_kernel[(len(tiles.counts) * triton.cdiv(d, block_d),)](
        feats.contiguous(),
        TensorDescriptor.from_tensor(weight, [block_d, block_c]) if descriptor else weight,
        weight if bias is None else bias.contiguous(),
        partial,
        tiles.out_rows,
        tiles.sections,
        tiles.taps,
        tiles.counts,
        tiles.sources,
        c,
        d,
        TAPS // tiles.groups,
        tiles.children,
        HAS_BIAS=bias is not None,
        DESCRIPTOR=descriptor,
        WIDE=n * c >= 2**31,
        TILE=TILE,
        BLOCK_D=block_d,
        BLOCK_C=block_c,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    if tiles.groups > 1:
        _add_kernel[(triton.cdiv(out.numel(), 1024),)](partial, out, out.numel(), GROUPS=tiles.groups, BLOCK=1024)
    return out


@triton.jit(do_not_specialize=["n"])
def _weight_gradient_kernel(
    grad_ptr,
    x_ptr,
    neighbors_ptr,
    out_ptr,
    n,
    share,
    C,
    D,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    # Taps run fastest: concurrent programs share rows, which stay in L2.
    tap = tl.program_id(0)
    split = tl.program_id(2)
    blocks = tl.cdiv(C, BLOCK_C)
    column = tl.program_id(1) // blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    channel = tl.program_id(1) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    acc = tl.zeros((BLOCK_D, BLOCK_C), dtype=tl.float32)
    for start in range(split * share, tl.minimum(split * share + share, n), BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        # No other=-1: Triton 3.2 cannot pipeline a load with one that is not 0.
        source = tl.load(neighbors_ptr + row.to(tl.int64) * 27 + tap, mask=row < n, other=0)
        valid = ((row < n) & (source >= 0))[:, None]
        grad = tl.load(
            grad_ptr + row.to(tl.int64)[:, None] * D + column[None, :], mask=valid & (column < D)[None, :], other=0.0
        )
        gathered = tl.load(
            x_ptr + source.to(tl.int64)[:, None] * C + channel[None, :], mask=valid & (channel < C)[None, :], other=0.0
        )
        acc = tl.dot(grad.T, gathered, acc, input_precision="ieee")
    target = out_ptr + ((split * D + column).to(tl.int64)[:, None] * 27 + tap) * C + channel[None, :]
    tl.store(target, acc, mask=(column < D)[:, None] & (channel < C)[None, :])


@device_guard
def weight_gradient(grad: Tensor, feats: Tensor, neighbors: Tensor) -> Tensor:
    """See `reference.weight_gradient`: grad [N, D], feats [N, C]. Rows are split into equal shares, whose sums are
    added in order."""
    (n, c), d = feats.shape, grad.shape[1]
    config = GRADIENT if choose_config(feats.device, feats.dtype, 128) is HOPPER else GRADIENT_ELSEWHERE
    block_c = min(config.block_c, max(16, triton.next_power_of_2(c)))
    block_d = min(config.block_d, max(16, triton.next_power_of_2(d)))
    blocks = triton.cdiv(d, block_d) * triton.cdiv(c, block_c)
    splits = min(triton.cdiv(GRADIENT_PROGRAMS, TAPS * blocks), max(1, triton.cdiv(n, GRADIENT_ROWS)))
    share = triton.cdiv(triton.cdiv(n, splits), GRADIENT_ROWS) * GRADIENT_ROWS
    partial = torch.empty(splits, d, 3, 3, 3, c, dtype=torch.float32, device=feats.device)
    _weight_gradient_kernel[(TAPS, blocks, splits)](
        grad.contiguous(),
        feats.contiguous(),
        neighbors.contiguous(),
        partial,
        n,
        share,
        c,
        d,
        BLOCK_D=block_d,
        BLOCK_C=block_c,
        BLOCK_N=GRADIENT_ROWS,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return partial.sum(0).to(feats.dtype)
