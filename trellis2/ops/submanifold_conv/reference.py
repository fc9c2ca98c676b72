"""Submanifold convolution and its gradients in torch: gathers the 27 neighbours of a block of rows, then one matrix
product per block."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ....o_voxel.core.device import normal_tensors

# The gathered block [rows, 27, C] is the only large temporary; this bounds it.
BLOCK_BYTES = 128 * 2**20


def convolve(feats: Tensor, neighbors: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `submanifold_conv`: feats [N, C] to [n, D]."""
    (n, taps), channels = neighbors.shape, feats.shape[1]
    matrix = weight.reshape(len(weight), taps * channels).t()
    padded = _with_absent_row(feats)
    out = feats.new_empty(n, len(weight))
    step = max(1, BLOCK_BYTES // (taps * channels * feats.element_size()))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        gathered = padded[neighbors[rows].long()].reshape(-1, taps * channels)
        out[rows] = gathered @ matrix if bias is None else torch.addmm(bias, gathered, matrix)
    return out


def child_conv(
    feats: Tensor, neighbors: Tensor, weight: Tensor, bias: Tensor | None, parent: Tensor, child: Tensor
) -> Tensor:
    """See the package's `child_conv`: feats [N, C] to [M, D]. Computes all children of a block of parents, and keeps
    the listed ones."""
    parents, index = parent.unique(return_inverse=True)
    out = feats.new_empty(len(parent), len(weight) // 8)
    step = max(1, BLOCK_BYTES // (len(weight) * feats.element_size()))
    for start in range(0, len(parents), step):
        block = convolve(feats, neighbors[parents[start : start + step]], weight, bias).unflatten(1, (8, -1))
        rows = ((index >= start) & (index < start + step)).nonzero().squeeze(1)
        out[rows] = block[index[rows] - start, child[rows]]
    return out


def weight_gradient(grad: Tensor, feats: Tensor, neighbors: Tensor) -> Tensor:
    """Returns the weight's gradient [D, 3, 3, 3, C] for the output's `grad` [N, D]: a matrix product per tap."""
    padded, rows = _with_absent_row(feats), neighbors.long()
    taps = [grad.t() @ padded[rows[:, tap]] for tap in range(rows.shape[1])]
    return torch.stack(taps, dim=1).view(grad.shape[1], 3, 3, 3, feats.shape[1])


def transpose_weight(weight: Tensor) -> Tensor:
    """Returns the weight [C, 3, 3, 3, D] that maps the output's gradient to the input's: i is the neighbour of j
    through tap 26 - k where j is that of i through k."""
    return weight.flip(1, 2, 3).permute(4, 1, 2, 3, 0).contiguous()


def child_neighbors(neighbors: Tensor, parent: Tensor, child: Tensor, rows: Tensor) -> Tensor:
    """See the package's `child_neighbors`: neighbors [N, 27] int32, rows [N, 8] int32, to [M, 27] int32."""
    parent_tap, sibling = (table.to(neighbors.device)[child] for table in _sibling_tables())
    # An absent parent, -1, is the appended row, which has no children.
    rows = torch.cat([rows, rows.new_full((1, rows.shape[1]), -1)])
    return rows[neighbors[parent].gather(1, parent_tap).long(), sibling]


@lru_cache(maxsize=1)
@normal_tensors
def _sibling_tables() -> tuple[Tensor, Tensor]:
    """Returns, for child s and tap k, [8, 27] int64 each: the tap of the parent that contains the neighbour, and the
    neighbour's child index in it."""
    child = torch.arange(8)
    bits = torch.stack([child & 1, child >> 1 & 1, child >> 2 & 1], dim=1)
    offset = bits[:, None] + torch.cartesian_prod(*[torch.arange(-1, 2)] * 3)
    step, bit = offset.div(2, rounding_mode="floor") + 1, offset.remainder(2)
    return step @ torch.tensor([9, 3, 1]), bit @ torch.tensor([1, 2, 4])


def _with_absent_row(feats: Tensor) -> Tensor:
    """Appends a row of zeros to feats [N, C], which row number -1, an absent neighbour, then reads."""
    return torch.cat([feats, feats.new_zeros(1, feats.shape[1])])
