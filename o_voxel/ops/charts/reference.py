"""Chart growing in plain torch: rounds in which charts that pick each other merge.

Only +, -, *, / and square roots, each rounded on its own, and sums of integers: every device and backend finds the
same charts. Letters: F faces, E links, K charts of the round, M links between charts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHAPE_WEIGHT = 0.02  # of roundness against flatness
COST_STEPS = 2**24
COST_CAP = 100.0
FORBIDDEN = 1 << 36  # above COST_CAP * COST_STEPS
ID_BITS = 24
SMALLEST = 1e-30
LENGTH_SCALE = 2.0**-64 / (4 * math.pi)  # from squared fixed-point lengths to compactness


def grow(facets: tuple[Tensor, ...], links: tuple[Tensor, ...], limits: tuple[float, float, float]) -> Tensor:
    """As `grow_charts`: facets are (normal, area, perimeter, low, high); links (first, second, length).

    limits: the cosine of the cone, the squared extent, the compactness.
    """
    normal, area, perimeter, low, high = facets
    label = torch.arange(len(area), device=area.device)
    total = normal * area[:, None]
    while True:
        mean = _scaled(total)
        cone = _cones(normal, mean, label)
        first, second, shared = links
        cost = _costs((total, area, perimeter, low, high), mean, cone, links, limits)
        partner = _partners(cost, first, second, len(area))
        own = torch.arange(len(area), device=area.device)
        merging = (partner[partner] == own) & (partner != own)
        if not bool(merging.any()):
            return label
        root = torch.where(merging, torch.minimum(own, partner), own)
        inside = root[first] == root[second]
        twice = torch.zeros_like(perimeter).index_add_(0, root[first[inside]], 2 * shared[inside])
        kept = (root == own).nonzero().squeeze(1)
        other = torch.where(merging, partner, own)[kept]
        joins = other != kept
        total = total[kept] + torch.where(joins[:, None], total[other], 0.0)
        area = area[kept] + torch.where(joins, area[other], 0.0)
        perimeter = perimeter[kept] + torch.where(joins, perimeter[other], 0) - twice[kept]
        low, high = torch.minimum(low[kept], low[other]), torch.maximum(high[kept], high[other])
        number = (root == own).cumsum(0) - 1
        renamed = number[root]
        label = renamed[label]
        links = _merge_links(renamed[first[~inside]], renamed[second[~inside]], shared[~inside], len(area))


def _scaled(vector: Tensor) -> Tensor:
    """[K, 3] unit vectors, zero where `vector` is."""
    return vector / _length(vector).clamp(min=SMALLEST)[:, None]


def _length(vector: Tensor) -> Tensor:
    return _dot(vector, vector).sqrt()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    product = a * b
    return product[..., 0] + product[..., 1] + product[..., 2]


def _cones(normal: Tensor, mean: Tensor, label: Tensor) -> Tensor:
    """The cosine [K] of each chart's cone: of its mean normal and the face normal furthest from it."""
    cosine = _dot(normal, mean[label])
    return torch.ones_like(mean[:, 0]).scatter_reduce_(0, label, cosine, "amin")


def _costs(charts: tuple[Tensor, ...], mean: Tensor, cone: Tensor, links: tuple[Tensor, ...], limits: tuple) -> Tensor:
    """What each link's union costs [M] int64, FORBIDDEN where it is beyond the limits."""
    total, area, perimeter, low, high = charts
    first, second, shared = links
    union = total[first] + total[second]
    size = (area[first] + area[second]).clamp(min=SMALLEST)
    outline = (perimeter[first] + perimeter[second] - 2 * shared).to(torch.float64)
    compactness = outline * outline * LENGTH_SCALE / size
    span = torch.maximum(high[first], high[second]) - torch.minimum(low[first], low[second])
    direction = _scaled(union)
    fits = (_dot(span, span) < limits[1]) & (compactness < limits[2])
    for side in (first, second):
        turn, half = _dot(direction, mean[side]).clamp(max=1.0), cone[side]
        reach = turn * half - (1 - turn * turn).sqrt() * (1 - half * half).clamp(min=0).sqrt()
        fits = fits & (turn > 0) & (half > 0) & (reach > limits[0])
    cost = (1 - _length(union) / size) + SHAPE_WEIGHT * compactness
    return torch.where(fits, (cost.clamp(min=0, max=COST_CAP) * COST_STEPS).to(torch.int64), FORBIDDEN)


def _partners(cost: Tensor, first: Tensor, second: Tensor, charts: int) -> Tensor:
    """The neighbour [K] int64 of the cheapest link of each chart, of equals the lowest; itself where there is none."""
    best = torch.full((charts,), FORBIDDEN << ID_BITS, dtype=torch.int64, device=cost.device)
    best.scatter_reduce_(0, first, (cost << ID_BITS) | second, "amin")
    best.scatter_reduce_(0, second, (cost << ID_BITS) | first, "amin")
    own = torch.arange(charts, device=cost.device)
    return torch.where(best >> ID_BITS < FORBIDDEN, best & ((1 << ID_BITS) - 1), own)


def _merge_links(first: Tensor, second: Tensor, length: Tensor, charts: int) -> tuple[Tensor, Tensor, Tensor]:
    """One link a pair of charts, with the sum of the lengths."""
    key = torch.minimum(first, second) * charts + torch.maximum(first, second)
    pair, row = key.unique(return_inverse=True)
    total = torch.zeros_like(pair).index_add_(0, row, length)
    return pair // charts, pair % charts, total
