"""The outlines of charts: the smallest boxes around them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TURNS = 16  # of a box, over a quarter turn


def oriented_box(points: Tensor, chart: Tensor, charts: int) -> Tensor:
    """Sides [charts, 2] of the smallest of TURNS boxes around each chart's points [B, 2], the longer one first.

    chart: [B] int64. 0 where a chart has no points. Deterministic.
    """
    sides = _sides(points, chart, charts)
    best = sides.prod(dim=2).argmin(dim=1)
    chosen = sides[torch.arange(charts, device=chart.device), best]
    return chosen.sort(dim=1, descending=True).values


def _sides(points: Tensor, chart: Tensor, charts: int) -> Tensor:
    """[charts, TURNS, 2] sides of the boxes along every direction."""
    angle = torch.arange(TURNS, dtype=points.dtype, device=points.device) * (math.pi / 2 / TURNS)
    cosine, sine = angle.cos(), angle.sin()
    x, y = points[:, :1], points[:, 1:]
    along = torch.stack((x * cosine + y * sine, y * cosine - x * sine), dim=2).view(len(points), -1)
    row = chart[:, None].expand(-1, 2 * TURNS)
    low = along.new_full((charts, 2 * TURNS), torch.inf).scatter_reduce_(0, row, along, "amin")
    high = along.new_full((charts, 2 * TURNS), -torch.inf).scatter_reduce_(0, row, along, "amax")
    return (high - low).clamp(min=0).nan_to_num(0.0).view(charts, TURNS, 2)
