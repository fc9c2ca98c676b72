"""Triton kernels of row quantisation, and of the product of quantised matrices with scales and bias in its epilogue.

Floors: reading x and writing a byte a value; 2 T N K operations at twice the card's 16-bit rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ....o_voxel.core.device import device_guard, is_hopper
from .formats import Format, Quantized

try:
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # Triton before 3.4
    TensorDescriptor = None


@triton.jit
def _quantize_kernel(
    x_ptr,
    out_ptr,
    scale_ptr,
    K,
    stride,
    LIMIT: tl.constexpr,
    INTEGER: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < K
    x = tl.load(x_ptr + row * stride + channel, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        # 0.5 (1 + tanh(u)) = sigmoid(2 u)
        x *= tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    unit = tl.maximum(tl.max(tl.abs(x), axis=0), 1e-12) / LIMIT
    tl.store(scale_ptr + row, unit)
    x *= 1 / unit
    if INTEGER:
        x = tl.floor(x + 0.5)
    tl.store(out_ptr + row * K + channel, x.to(out_ptr.dtype.element_ty), mask=inside)


@device_guard
def quantize_rows(x: Tensor, form: Format, activation: str | None) -> Quantized:
    """See the package's `quantize_rows`. x [R, K] may be a strided view with contiguous channels."""
    if x.stride(-1) != 1:
        x = x.contiguous()
    rows, channels = x.shape
    out = torch.empty(x.shape, dtype=form.dtype, device=x.device)
    scale = torch.empty(rows, dtype=torch.float32, device=x.device)
    if rows:
        block = triton.next_power_of_2(channels)
        _quantize_kernel[(rows,)](
            x,
            out,
            scale,
            channels,
            x.stride(0),
            LIMIT=form.limit,
            INTEGER=form.integer,
            GELU=activation == "gelu",
            BLOCK=block,
            num_warps=min(max(block // 512, 1), 8),
        )
    return Quantized(out, scale)


@triton.jit(do_not_specialize=["T"])
def _linear_kernel(
    x,
    weight,
    x_scale_ptr,
    weight_scale_ptr,
    bias_ptr,
    out_ptr,
    T,
    N,
    K,
    HAS_BIAS: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    INTEGER: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    # Grouped order: tiles run down GROUP rows of tiles before the next column, so that both matrices' parts stay in L2.
    columns = tl.cdiv(N, BLOCK_N)
    band = tl.program_id(0) // (GROUP * columns) * GROUP
    height = tl.minimum(tl.cdiv(T, BLOCK_T) - band, GROUP)
    within = tl.program_id(0) % (GROUP * columns)
    first_row = (band + within % height) * BLOCK_T
    first_column = within // height * BLOCK_N
    row = first_row + tl.arange(0, BLOCK_T)
    column = first_column + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_T, BLOCK_N), dtype=tl.int32 if INTEGER else tl.float32)
    for start in range(0, K, BLOCK_K):
        if DESCRIPTOR:
            a = x.load([first_row, start])
            b = weight.load([first_column, start]).T
        else:
            valid = start + depth < K
            a_at = x + row.to(tl.int64)[:, None] * K + (start + depth)[None, :]
            b_at = weight + column.to(tl.int64)[None, :] * K + (start + depth)[:, None]
            a = tl.load(a_at, mask=(row < T)[:, None] & valid[None, :], other=0.0)
            b = tl.load(b_at, mask=(column < N)[None, :] & valid[:, None], other=0.0)
        acc = tl.dot(a, b, acc, out_dtype=tl.int32 if INTEGER else tl.float32)
    x_scale = tl.load(x_scale_ptr + row, mask=row < T, other=0.0)
    weight_scale = tl.load(weight_scale_ptr + column, mask=column < N, other=0.0)
    out = acc.to(tl.float32) * x_scale[:, None] * weight_scale[None, :]
    if HAS_BIAS:
        out += tl.load(bias_ptr + column, mask=column < N, other=0.0).to(tl.float32)[None, :]
    target = out_ptr + row.to(tl.int64)[:, None] * N + column[None, :]
    tl.store(target, out.to(out_ptr.dtype.element_ty), mask=(row < T)[:, None] & (column < N)[None, :])


@dataclass(frozen=True)
class Config:
    """Tile shape and launch parameters of the product's kernel."""

    block_t: int
    block_n: int
    block_k: int
    warps: int
    stages: int


# Two programs per multiprocessor: one multiplies while the other writes.
HOPPER = Config(128, 128, 128, 4, 3)
ELSEWHERE = Config(128, 128, 64, 8, 3)
# Bands of this many rows of tiles share the weight in L2.
GROUP = 8


def choose_config(device: torch.device) -> Config:
    """Returns the tile for a card: measured on an H200, chosen to fit elsewhere."""
    return HOPPER if is_hopper(device) else ELSEWHERE


def uses_descriptor(device: torch.device) -> bool:
    """True if tiles are loaded through tensor descriptors: NVIDIA's tensor memory accelerator, or the CPU's
    interpreter."""
    return TensorDescriptor is not None and (device.type == "cpu" or is_hopper(device, or_newer=True))


@device_guard
def linear(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """See `quantized_linear`: [T, K] and [N, K] to [T, N]."""
    (t, k), n = x.shape, len(weight.values)
    config = choose_config(x.values.device)
    out = torch.empty(t, n, dtype=dtype, device=x.values.device)
    values, kernel = x.values.contiguous(), weight.values.contiguous()
    aligned = k % 16 == 0 and values.data_ptr() % 16 == 0 and kernel.data_ptr() % 16 == 0
    descriptor = aligned and uses_descriptor(values.device)
    if descriptor:
        values = TensorDescriptor.from_tensor(values, [config.block_t, config.block_k])
        kernel = TensorDescriptor.from_tensor(kernel, [config.block_n, config.block_k])
    _linear_kernel[(triton.cdiv(t, config.block_t) * triton.cdiv(n, config.block_n),)](
        values,
        kernel,
        x.scale,
        weight.scale,
        x.scale if bias is None else bias,
        out,
        t,
        n,
        k,
        HAS_BIAS=bias is not None,
        DESCRIPTOR=descriptor,
        INTEGER=x.values.dtype == torch.int8,
        BLOCK_T=config.block_t,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        GROUP=GROUP,
        num_warps=config.warps,
        num_stages=config.stages,
    )
    return out
