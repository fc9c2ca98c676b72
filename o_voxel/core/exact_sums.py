"""Sums over groups of rows that come out the same on every device, however many threads add."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 61  # of an int64, less the sign and one for rounding


def precise(values: Tensor) -> Tensor:
    """`values` as float64, or as float32 on a device that has no better."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def fixed_point(values: Tensor) -> tuple[Tensor, Tensor]:
    """(whole [N, K] int64, scale [K]) of `values` [N, K] float, so that any sum of rows of `whole` is exact.

    Each value is rounded to about 2^-61 of N times its column's largest. The host does not wait for the device.
    """
    largest = values.abs().amax(0) if len(values) else values.new_zeros(values.shape[1])
    # Without its mantissa, the power of two up to each; so that its inverse is finite, none is very small.
    integer, mantissa = (torch.int64, 52) if values.dtype == torch.float64 else (torch.int32, 23)
    power = (largest.view(integer) >> mantissa << mantissa).view(values.dtype)
    power = power.clamp_min(torch.finfo(values.dtype).tiny ** 0.5)
    scale = 2.0 ** (BITS - 1 - len(values).bit_length()) / power
    return (values * scale).round().to(torch.int64), scale


def scatter_sums(values: Tensor, row: Tensor, count: int) -> Tensor:
    """[count, K] sums of the rows `values` [N, K] float with each number; row [N] int64 below `count`, few alike."""
    whole, scale = fixed_point(values)
    total = torch.zeros(count, values.shape[1], dtype=torch.int64, device=values.device).index_add_(0, row, whole)
    return total.to(values.dtype) / scale


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows in groups, of which there may be few and large.

    number: [N] int64, the group of each row, from 0.  count: of groups.  order, ends: rows sorted by group [N] and
    where each group ends there [count], int64; or None, where rows are added one after another.
    """

    number: Tensor
    count: int
    order: Tensor | None
    ends: Tensor | None

    @classmethod
    def of_labels(cls, label: Tensor, sort: bool | None = None) -> Groups:
        """Groups of labels [N] int64 that each name the lowest row of a group, in the order of those rows.

        sort: whether to sort; on a GPU, where it is the default, millions of rows would queue at one address.
        """
        number = (label == torch.arange(len(label), device=label.device)).cumsum(0)
        count = int(number[-1]) if len(number) else 0
        number = number[label] - 1
        if not (label.is_cuda if sort is None else sort):
            return cls(number, count, None, None)
        ordered, order = number.sort()
        ends = torch.searchsorted(ordered, torch.arange(count, device=label.device), right=True)
        return cls(number, count, order, ends)

    def totals(self, whole: Tensor) -> Tensor:
        """[count, K] int64 sums of the rows `whole` [N, K] int64 of each group."""
        if self.order is None:
            empty = torch.zeros(self.count, whole.shape[1], dtype=torch.int64, device=whole.device)
            return empty.index_add_(0, self.number, whole)
        running = [torch.cat([column.new_zeros(1), column[self.order].cumsum(0)]) for column in whole.unbind(1)]
        upto = torch.stack([column[self.ends] for column in running], 1)
        return upto.diff(dim=0, prepend=torch.zeros_like(upto[:1]))

    def sums(self, values: Tensor) -> Tensor:
        """[count, K] sums of the rows `values` [N, K] float of each group."""
        whole, scale = fixed_point(values)
        return self.totals(whole).to(values.dtype) / scale
