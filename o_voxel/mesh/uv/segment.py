"""Chart segmentation: hierarchical face clustering into nearly flat and compact charts, then border smoothing.

After Garland, Willmott and Heckbert, Hierarchical Face Clustering on Polygonal Surfaces, 2001, in parallel rounds. Uses
only +, -, *, /, square roots and integer sums: every device finds the same charts.

Letters: F faces, E edges of the dual graph, K charts, M edges between charts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.vectors import dot, unit
from ...ops.connected_components import connected

LENGTH_UNIT = 2.0**-32  # step of fixed-point lengths: sums are exact in any order
SHAPE_WEIGHT = 0.02  # weight of compactness against planarity
COST_STEPS = 2**24
COST_CAP = 100.0
FORBIDDEN = 1 << 36  # above COST_CAP * COST_STEPS
ID_BITS = 24  # bits of a chart's index, packed below its cost
SMALLEST = 1e-30
SMOOTH_CONE_DEG = 80.0


@dataclass(frozen=True, eq=False)
class FaceGeometry:
    """Per-face geometry, on a surface scaled to an area of about 1.

    normal: [F, 3] float64 unit, zero for a face that must not be merged.  area: [F] float64.
    perimeter: [F] int64, in LENGTH_UNIT.  low, high: [F, 3] float64, bounding box.
    """

    normal: Tensor
    area: Tensor
    perimeter: Tensor
    low: Tensor
    high: Tensor

    def select(self, rows: Tensor) -> FaceGeometry:
        """The rows `rows` [N] int64 of every field."""
        return FaceGeometry(*(part[rows] for part in (self.normal, self.area, self.perimeter, self.low, self.high)))


@dataclass(frozen=True, eq=False)
class DualGraph:
    """Dual graph of faces or charts. first, second: [E] int64, different nodes.  length: [E] int64, in LENGTH_UNIT."""

    first: Tensor
    second: Tensor
    length: Tensor

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The two nodes (first, second) [E] of each edge."""
        return self.first, self.second


@dataclass(frozen=True)
class ChartLimits:
    """cone_deg: maximum angle between a face normal and its chart's mean normal, below 90.  extent: maximum diagonal of
    the bounding box.  compactness: maximum perimeter^2 / (4 pi area), 1 for a disc."""

    cone_deg: float = 72.0
    extent: float = 0.45
    compactness: float = 6.0


def segment_charts(geometry: FaceGeometry, graph: DualGraph, limits: ChartLimits = ChartLimits()) -> Tensor:
    """Chart index [F] int64 of each face, 0 to K - 1 in the order of their lowest faces, for F up to 2^24.

    geometry: normal [F, 3], area [F], …  graph: edges [E]. Starts from one chart per face. In each round every chart
    selects the neighbour of least merge cost (planarity and compactness) within the limits; mutual selections merge.
    Charts are connected. Deterministic, identical on every device. About 40 rounds, each O(F).
    Raises ValueError for more faces.
    """
    if len(geometry.area) >> ID_BITS:
        raise ValueError(f"faces: expected at most {1 << ID_BITS}, got {len(geometry.area)}")
    label = torch.arange(len(geometry.area), device=geometry.area.device)
    charts = _Charts.of_faces(geometry)
    normal = geometry.normal.T.contiguous()
    own = label
    while len(graph.first):
        ends = torch.stack(graph.ends)
        mean = charts.normal / _length(charts.normal).clamp(min=SMALLEST)
        cosine = _dot(normal, mean.index_select(1, label))
        cone = torch.ones_like(charts.area).scatter_reduce_(0, label, cosine, "amin")
        partner = _partners(_costs(charts, mean, cone, ends, graph.length, limits), ends, own)
        merging = (partner[partner] == own) & (partner != own)
        root = torch.where(merging, torch.minimum(own, partner), own)
        roots = root == own
        kept = roots.nonzero().squeeze(1)
        if len(kept) == len(own):
            break
        merged = root[ends]
        charts = _merged(charts, merged, graph.length, kept, torch.where(merging, partner, own)[kept])
        number = roots.cumsum(0) - 1
        label = number[root][label]
        graph = _contract(number[merged], graph.length, len(kept))
        own = torch.arange(len(kept), device=own.device)
    return label


@dataclass(frozen=True, eq=False)
class _Charts:
    """K charts. rows: [10, K] float64, the sum of area vectors, area, lower and upper corner of the bounding box, in
    one tensor, so that one gather fetches them.  perimeter: [K] int64, in LENGTH_UNIT.
    """

    rows: Tensor
    perimeter: Tensor

    @classmethod
    def of_faces(cls, geometry: FaceGeometry) -> _Charts:
        """A chart for each of the faces."""
        vectors = geometry.normal * geometry.area[:, None]
        rows = torch.cat((vectors.T, geometry.area[None], geometry.low.T, geometry.high.T))
        return cls(rows, geometry.perimeter)

    @property
    def normal(self) -> Tensor:
        """Sum of area vectors [3, K]."""
        return self.rows[:3]

    @property
    def area(self) -> Tensor:
        """Area [K]."""
        return self.rows[3]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """`vectors.dot` of columns [3, ...]."""
    product = a * b
    return product[0] + product[1] + product[2]


def _length(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


def _merged(charts: _Charts, merged: Tensor, length: Tensor, kept: Tensor, other: Tensor) -> _Charts:
    """Merges charts: `kept` [N] int64, each with the chart `other` [N] (itself if unmerged).

    merged: [2, M], the chart that each end of an edge of `length` [M] is merged into.
    """
    inside = torch.where(merged[0] == merged[1], 2 * length, 0)
    twice = torch.zeros_like(charts.area, dtype=torch.int64).index_add_(0, merged[0], inside)
    pairs = torch.cat((kept, other))
    first, second = charts.rows.index_select(1, pairs).view(10, 2, -1).unbind(1)
    outline, others_outline = charts.perimeter.index_select(0, pairs).view(2, -1)
    alone = other == kept
    sums = first[:4] + torch.where(alone, 0.0, second[:4])
    rows = torch.cat((sums, torch.minimum(first[4:7], second[4:7]), torch.maximum(first[7:], second[7:])))
    return _Charts(rows, outline + torch.where(alone, 0, others_outline) - twice[kept])


def _costs(charts: _Charts, mean: Tensor, cone: Tensor, ends: Tensor, length: Tensor, limits: ChartLimits) -> Tensor:
    """Merge cost [M] int64 of each dual edge, `ends` [2, M] of `length` [M], FORBIDDEN beyond the limits.

    mean: [3, K] unit mean normals.  cone: [K], cosine of the largest angle between the mean normal and a face normal.
    """
    table = torch.cat((charts.rows, mean, cone[None]))
    both = table.index_select(1, ends.flatten()).view(14, 2, -1)
    (normal, area), low, high = (both[:3], both[3]), both[4:7], both[7:10]
    mean, cone = both[10:13], both[13]
    perimeter = charts.perimeter.index_select(0, ends.flatten()).view(2, -1)
    union = normal[:, 0] + normal[:, 1]
    size = (area[0] + area[1]).clamp(min=SMALLEST)
    outline = (perimeter[0] + perimeter[1] - 2 * length).to(torch.float64)
    compactness = outline * outline * (LENGTH_UNIT * LENGTH_UNIT / (4 * math.pi)) / size
    span = torch.maximum(high[:, 0], high[:, 1]) - torch.minimum(low[:, 0], low[:, 1])
    total = _length(union)
    turn = _dot((union / total.clamp(min=SMALLEST))[:, None], mean).clamp(max=1.0)
    reach = turn * cone - (1 - turn * turn).sqrt() * (1 - cone * cone).clamp(min=0).sqrt()
    within = (turn > 0) & (cone > 0) & (reach > math.cos(math.radians(limits.cone_deg)))
    fits = (_dot(span, span) < limits.extent**2) & (compactness < limits.compactness) & within[0] & within[1]
    cost = (1 - total / size) + SHAPE_WEIGHT * compactness
    return torch.where(fits, (cost.clamp(min=0, max=COST_CAP) * COST_STEPS).to(torch.int64), FORBIDDEN)


def _partners(cost: Tensor, ends: Tensor, own: Tensor) -> Tensor:
    """Neighbour [K] int64 across each chart's cheapest edge, `ends` [2, M] of `cost` [M] (ties: lowest index); itself,
    `own` [K], if there is none."""
    best = torch.full_like(own, FORBIDDEN << ID_BITS)
    best.scatter_reduce_(0, ends.flatten(), ((cost << ID_BITS) | ends.flip(0)).flatten(), "amin")
    return torch.where(best >> ID_BITS < FORBIDDEN, best & ((1 << ID_BITS) - 1), own)


def _contract(ends: Tensor, length: Tensor, charts: int) -> DualGraph:
    """The graph of the edges `ends` [2, M] int64 of `length` [M] between different ones of `charts` charts: parallel
    edges are merged and their lengths added."""
    apart = (ends[0] != ends[1]).nonzero().squeeze(1)
    ends = ends.index_select(1, apart)
    key = torch.minimum(ends[0], ends[1]) * charts + torch.maximum(ends[0], ends[1])
    pair, row = key.unique(return_inverse=True)
    total = torch.zeros_like(pair).index_add_(0, row, length[apart])
    return DualGraph(pair // charts, pair % charts, total)


def smooth_charts(label: Tensor, geometry: FaceGeometry, faces: Tensor, graph: DualGraph, rounds: int = 3) -> Tensor:
    """Smooths chart borders: returns charts [F] int64, 0 to L - 1 in the order of their lowest faces; L may exceed K.

    label: [F] int64, 0 to K - 1.  faces: [F, 3] int64.  In each round a face moves to the neighbouring chart with more
    area around the face's corners, unless its normal is more than SMOOTH_CONE_DEG from that chart's mean normal.
    Disconnected parts of a chart become charts of their own. Deterministic, identical on every device.
    """
    share = (geometry.area / geometry.area.sum().clamp(min=SMALLEST) * 2.0**40).to(torch.int64)
    charts = int(label.max()) + 1 if len(label) else 0
    steep = math.cos(math.radians(SMOOTH_CONE_DEG))
    whole = (geometry.normal * share[:, None]).to(torch.int64)
    mean = unit(torch.zeros(charts, 3, dtype=torch.int64, device=label.device).index_add_(0, label, whole).double())
    for _ in range(rounds):
        border = (label[graph.first] != label[graph.second]).nonzero().squeeze(1)
        if not len(border):
            break
        face = torch.cat((graph.first[border], graph.second[border]))
        wanted = label[torch.cat((graph.second[border], graph.first[border]))]
        fits = (dot(geometry.normal[face], mean[wanted]) > steep).nonzero().squeeze(1)
        face, wanted = face[fits], wanted[fits]
        around = _area_around(label, share, faces, face, charts)
        gain = around(face, wanted) - around(face, label[face])
        best = torch.zeros_like(label).scatter_reduce_(0, face, gain, "amax")
        wins = ((gain == best[face]) & (gain > 0)).nonzero().squeeze(1)
        target = torch.full_like(label, charts).scatter_reduce_(0, face[wins], wanted[wins], "amin")
        label = torch.where(target < charts, target, label)
    return split_charts(label, graph.first, graph.second)


def _area_around(label: Tensor, share: Tensor, faces: Tensor, seen: Tensor, charts: int) -> Callable:
    """Returns a function (face [N], chart [N]) -> area share [N] int64 of the chart around the face's corners.

    label, share: [F] int64.  seen: [N] int64, the faces that may be queried.
    """
    corners = faces.reshape(-1)
    near = torch.zeros(int(corners.max()) + 1, dtype=torch.bool, device=faces.device)
    near[faces[seen].flatten()] = True
    rows = near[corners].nonzero().squeeze(1)
    key, slot = (corners[rows] * charts + label[rows // 3]).unique(return_inverse=True)
    total = torch.zeros_like(key).index_add_(0, slot, share[rows // 3])

    def around(face: Tensor, chart: Tensor) -> Tensor:
        wanted = faces[face] * charts + chart[:, None]
        found = torch.searchsorted(key, wanted).clamp(max=len(key) - 1)
        return torch.where(key[found] == wanted, total[found], 0).sum(dim=1)

    return around


def split_charts(label: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Splits charts `label` [F] int64 into connected components over edges first-second [E]; renumbered [F] int64.

    Numbers follow the order of the lowest faces.
    """
    same = (label[first] == label[second]).nonzero().squeeze(1)
    lowest = connected(len(label), first[same], second[same])
    return ((lowest == torch.arange(len(label), device=label.device)).cumsum(0) - 1)[lowest]


TURNS = 16  # box orientations in a quarter turn


def oriented_box(points: Tensor, chart: Tensor, charts: int) -> Tensor:
    """Sides [charts, 2] of the smallest of TURNS oriented boxes around each chart's points [B, 2], longer side first.

    chart: [B] int64. 0 for charts without points. Deterministic.
    """
    sides = _sides(points, chart, charts)
    best = sides.prod(dim=2).argmin(dim=1)
    chosen = sides[torch.arange(charts, device=chart.device), best]
    return chosen.sort(dim=1, descending=True).values


def _sides(points: Tensor, chart: Tensor, charts: int) -> Tensor:
    """Sides [charts, TURNS, 2] of the boxes in every orientation."""
    angle = torch.arange(TURNS, dtype=points.dtype, device=points.device) * (math.pi / 2 / TURNS)
    cosine, sine = angle.cos(), angle.sin()
    x, y = points[:, :1], points[:, 1:]
    along = torch.stack((x * cosine + y * sine, y * cosine - x * sine), dim=2).view(len(points), -1)
    row = chart[:, None].expand(-1, 2 * TURNS)
    low = along.new_full((charts, 2 * TURNS), torch.inf).scatter_reduce_(0, row, along, "amin")
    high = along.new_full((charts, 2 * TURNS), -torch.inf).scatter_reduce_(0, row, along, "amax")
    return (high - low).clamp(min=0).nan_to_num(0.0).view(charts, TURNS, 2)
