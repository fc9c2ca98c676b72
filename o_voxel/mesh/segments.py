"""Sums over groups of rows that come out the same on every device, however many threads add."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BITS = 61  # of an int64, less the sign and one for rounding


def precise(values: Tensor) -> Tensor:
    """`values` as float64, or as float32 on a device that has no better."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def group_sums(values: Tensor, group: Tensor, count: int) -> Tensor:
    """[count, K] sums of the rows `values` [N, K] float of each group; group [N] int64 below `count`.

    Added as integers, so that order does not matter: each value is rounded to 2^-61 of N times the column's largest.
    """
    largest = values.abs().amax(0).tolist() if len(values) else [0.0] * values.shape[1]
    exponents = [BITS - len(values).bit_length() - math.frexp(value)[1] for value in largest]
    scale = values.new_tensor([math.ldexp(1.0, min(exponent, 1000)) for exponent in exponents])
    return group_totals((values * scale).round().to(torch.int64), group, count).to(values.dtype) / scale


def group_totals(values: Tensor, group: Tensor, count: int) -> Tensor:
    """[count, K] int64 sums of the rows `values` [N, K] int64 of each group; group [N] int64 below `count`."""
    if values.is_cuda:
        return sorted_totals(values, group, count)
    return torch.zeros(count, values.shape[1], dtype=torch.int64, device=values.device).index_add_(0, group, values)


def sorted_totals(values: Tensor, group: Tensor, count: int) -> Tensor:
    """`group_totals` by sorting: on a GPU, millions of rows of one group would queue at one address."""
    group, order = group.sort()
    ends = torch.searchsorted(group, torch.arange(count, device=group.device), right=True)
    running = torch.cat([values.new_zeros(1, values.shape[1]), values[order].cumsum(0)])[ends]
    return running.diff(dim=0, prepend=torch.zeros_like(running[:1]))
