"""Faces grouped into charts: neighbours merged while a chart stays nearly flat, round and not too large."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...checks import check_tensor
from ..backend import Choice, always, numba_probe, resolve_backend
from .reference import grow

CHOICES = (Choice("numba", numba_probe), Choice("reference", always))
LENGTH_UNIT = 2.0**-32  # of fixed-point lengths: sums are exact, in whatever order they are added
MAX_FACES = 1 << 24


@dataclass(frozen=True, eq=False)
class Facets:
    """What is known of each face, on a surface scaled to a total area of about 1.

    normal: [F, 3] float64 unit, zero for a face that must stay alone.  area: [F] float64.
    perimeter: [F] int64, in LENGTH_UNIT.  low, high: [F, 3] float64, its box.
    """

    normal: Tensor
    area: Tensor
    perimeter: Tensor
    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        count = len(check_tensor(self.area, "Facets.area", (None,), torch.float64))
        for name in ("normal", "low", "high"):
            check_tensor(getattr(self, name), f"Facets.{name}", (count, 3), torch.float64)
        check_tensor(self.perimeter, "Facets.perimeter", (count,), torch.int64)

    def select(self, rows: Tensor) -> Facets:
        """The facets `rows` [N] int64."""
        return Facets(*(part[rows] for part in (self.normal, self.area, self.perimeter, self.low, self.high)))


@dataclass(frozen=True, eq=False)
class Links:
    """Which faces meet at an edge. first, second: [E] int64, different faces.  length: [E] int64, in LENGTH_UNIT."""

    first: Tensor
    second: Tensor
    length: Tensor

    def __post_init__(self) -> None:
        count = len(check_tensor(self.first, "Links.first", (None,), torch.int64))
        check_tensor(self.second, "Links.second", (count,), torch.int64)
        check_tensor(self.length, "Links.length", (count,), torch.int64)


@dataclass(frozen=True)
class ChartLimits:
    """cone_deg: no normal of a chart is further than this from its mean normal, below 90.  extent: the diagonal of
    its box.  compactness: its perimeter squared over 4 pi times its area, 1 for a disc."""

    cone_deg: float = 50.0
    extent: float = 0.4
    compactness: float = 6.0

    def __post_init__(self) -> None:
        if not 0 <= self.cone_deg < 90:
            raise ValueError(f"cone_deg: expected 0 to below 90, got {self.cone_deg}")


def grow_charts(facets: Facets, links: Links, limits: ChartLimits = ChartLimits(), *, backend: str = "auto") -> Tensor:
    """The chart [F] int64 of each face, 0 to K - 1 in the order of their lowest faces; F at most 2^24.

    From one chart a face, every chart picks the neighbour that it would make the flattest and roundest union with,
    within the limits; those that pick each other merge; until none do. Charts are connected. Deterministic, and the
    same on every backend ("numba" on the CPU, "reference" everywhere). About 40 rounds of O(F) work.
    After Garland, Willmott and Heckbert, Hierarchical Face Clustering on Polygonal Surfaces, 2001, in parallel.
    """
    if len(facets.area) > MAX_FACES:
        raise ValueError(f"facets: expected at most {MAX_FACES}, got {len(facets.area)}")
    cone = math.cos(math.radians(limits.cone_deg)), limits.extent**2, limits.compactness
    columns = facets.normal, facets.area, facets.perimeter, facets.low, facets.high
    edges = links.first, links.second, links.length
    if resolve_backend(backend, CHOICES, facets.area.device) == "numba":
        from .kernel_cpu import grow_cpu

        return torch.from_numpy(grow_cpu(*(part.contiguous().numpy() for part in (*columns, *edges)), *cone))
    return grow(columns, edges, cone)


__all__ = ["CHOICES", "LENGTH_UNIT", "ChartLimits", "Facets", "Links", "grow_charts"]
