"""Gather the 27 neighbours of a block of rows, then one matrix product a block."""

from __future__ import annotations

import torch
from torch import Tensor

# The gathered block [rows, 27, C] is the only large temporary; this bounds it.
BLOCK_BYTES = 128 * 2**20


def convolve(feats: Tensor, neighbors: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `submanifold_conv`."""
    taps, (n, channels) = neighbors.shape[1], feats.shape
    matrix = weight.reshape(len(weight), taps * channels).t()
    # Row -1, an absent neighbour, is the appended row of zeros.
    padded = torch.cat([feats, feats.new_zeros(1, channels)])
    out = feats.new_empty(n, len(weight))
    step = max(1, BLOCK_BYTES // (taps * channels * feats.element_size()))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        gathered = padded[neighbors[rows].long()].reshape(-1, taps * channels)
        out[rows] = gathered @ matrix if bias is None else torch.addmm(bias, gathered, matrix)
    return out
