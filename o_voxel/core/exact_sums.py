"""Deterministic segment sums in fixed point (int64): the same bits on every device and thread count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BITS = 61  # usable bits of an int64, without the sign and one bit for rounding


def precise(values: Tensor) -> Tensor:
    """Converts `values` [...] to float64, or to float32 on devices without float64 (MPS)."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def fixed_point(values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (whole [N, K] int64, scale [K]) of `values` [N, K] float; any sum of rows of `whole` is exact.

    Each value is rounded to about 2^-61 of N times its column's largest. Does not synchronise with the device.
    """
    largest = values.abs().amax(0) if len(values) else values.new_zeros(values.shape[1])
    # Clearing the mantissa rounds down to a power of two; the clamp keeps its inverse finite.
    integer, mantissa = (torch.int64, 52) if values.dtype == torch.float64 else (torch.int32, 23)
    power = (largest.view(integer) >> mantissa << mantissa).view(values.dtype)
    power = power.clamp_min(torch.finfo(values.dtype).tiny ** 0.5)
    scale = 2.0 ** (BITS - 1 - len(values).bit_length()) / power
    return (values * scale).round().to(torch.int64), scale


def scatter_sums(values: Tensor, row: Tensor, count: int) -> Tensor:
    """Returns the sums [count, K] of the rows `values` [N, K] float by segment `row` [N] int64, 0 to count - 1.

    Suited to many small segments; use `Groups` for few large ones.
    """
    whole, scale = fixed_point(values)
    shape = count if values.shape[1] == 1 else (count, values.shape[1])
    total = torch.zeros(shape, dtype=torch.int64, device=values.device).index_add_(0, row, whole.squeeze(1))
    return total.view(count, values.shape[1]).to(values.dtype) / scale


@dataclass(frozen=True, eq=False)
class Groups:
    """A partition of N rows into segments, of which there may be few and large.

    number: [N] int64, the segment of each row, from 0.  count: number of segments.
    order, ends: [N] int64 rows sorted by segment, and [count] int64 the end of each segment in that order; None if rows
    are added by scatter instead.
    """

    number: Tensor
    count: int
    order: Tensor | None
    ends: Tensor | None

    @classmethod
    def of_labels(cls, label: Tensor, sort: bool | None = None) -> Groups:
        """Returns the segments of labels [N] int64, each the lowest row of its segment; segments keep that order.

        sort: sort rows by segment. Default on a GPU, where scattering millions of rows would serialise on one address.
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
        """Returns the sums [count, K] int64 of the rows `whole` [N, K] int64 of each segment."""
        if self.order is None:
            empty = torch.zeros(self.count, whole.shape[1], dtype=torch.int64, device=whole.device)
            return empty.index_add_(0, self.number, whole)
        running = [torch.cat([column.new_zeros(1), column[self.order].cumsum(0)]) for column in whole.unbind(1)]
        upto = torch.stack([column[self.ends] for column in running], 1)
        return upto.diff(dim=0, prepend=torch.zeros_like(upto[:1]))

    def sums(self, values: Tensor) -> Tensor:
        """Returns the sums [count, K] of the rows `values` [N, K] float of each segment."""
        whole, scale = fixed_point(values)
        return self.totals(whole).to(values.dtype) / scale
