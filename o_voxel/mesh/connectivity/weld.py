"""Clusters of vertices within a distance of each other (uniform-grid search), and boundary detection."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.exact_sums import precise
from ...core.vectors import dot
from ...ops.mesh_connectivity import components
from ...values import Mesh
from .topology import ValidMesh, check_mesh, edges

# Cells along an axis; three such indices, with one cell of padding at either end, fit an int64.
CELLS = 1 << 20
# Half of a cell's 26 neighbours, so that each pair of cells is visited once.
ABOVE = [(x, y, z) for x in (0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)]

# Tolerance for rounding at cell walls, in cells.
SLACK = 1e-9
# Candidate pairs per chunk.
PAIRS = 1 << 22


def close_vertices(vertices: Tensor, distance: float, *, backend: str = "auto") -> Tensor:
    """Labels [V] int64 of single-linkage clusters: the lowest vertex connected by steps of at most `distance`.

    vertices: [V, 3] float32.  distance: in their units, compared in float64. A uniform grid limits the comparisons to
    pairs in one cell, and to adjacent cells for vertices near their wall.
    """
    label = torch.arange(len(vertices), device=vertices.device)
    if len(vertices) < 2:
        return label
    points = precise(vertices)
    low = points.amin(0)
    extent = float((points.amax(0) - low).amax())
    side = _cell_side(extent, distance, len(vertices))
    scaled = (points - low) / side
    cell = scaled.floor()
    key, order = _keys(cell.to(torch.int64)).sort(stable=True)
    same = _merge_equal(points, key, order)
    label[order] = same
    if distance == 0:
        return label
    alone = same == order
    key, order = key[alone], order[alone]
    sources = [_within(key, order), _across(key, order, scaled - cell, cell.to(torch.int64), distance / side)]
    pairs = [_close_pairs(points, order, *source, distance) for source in sources]
    first, second = (torch.cat(ends) for ends in zip(*pairs, strict=True))
    merged, _ = components(len(vertices), first, second, torch.zeros_like(first, dtype=torch.bool), backend=backend)
    return merged[label]


def has_border(mesh: Mesh, *, backend: str = "auto") -> bool:
    """True if any edge has a single face, so that back faces may be visible.

    mesh: [V, 3] float32 vertices, [F, 3] int32 or int64 faces. Coincident vertices count as one, so vertices split
    along shading creases make no border.
    """
    mesh = check_mesh(mesh)
    merged = close_vertices(mesh.vertices, 0.0, backend=backend)
    sizes = edges(ValidMesh(mesh.vertices, merged[mesh.faces.long()]), backend=backend).sizes
    return bool((sizes == 1).any())


def _cell_side(extent: float, distance: float, count: int) -> float:
    """Cell size: at least twice `distance`, otherwise about the vertex spacing of a surface."""
    spacing = extent / count**0.5 if distance > 0 else 0.0
    return max(2 * distance, spacing, extent / CELLS) or 1.0


def _keys(cell: Tensor) -> Tensor:
    """Sort keys [N] int64 of cells [N, 3] int64."""
    x, y, z = (cell + 1).unbind(1)
    return (x << 42) | (y << 21) | z


def _merge_equal(points: Tensor, key: Tensor, order: Tensor) -> Tensor:
    """The lowest vertex [V] with exactly the position of each in `order` [V], sorted by `key` [V], then by row."""
    shared = torch.zeros_like(key, dtype=torch.bool)
    shared[1:] = key[1:] == key[:-1]
    shared[:-1] |= shared[1:].clone()
    rows = shared.nonzero().squeeze(1)
    for column in (2, 1, 0):
        rows = rows[points[order[rows], column].sort(stable=True).indices]
    rows = rows[key[rows].sort(stable=True).indices]
    here = points[order[rows]]
    begins = torch.ones_like(rows, dtype=torch.bool)
    begins[1:] = (here[1:] != here[:-1]).any(1) | (key[rows[1:]] != key[rows[:-1]])
    lowest = order[rows[begins]]
    same = order.clone()
    same[rows] = lowest[begins.cumsum(0) - 1]
    return same


def _within(key: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(vertex, begin, end) [N] int64: the candidates order[begin:end], the later vertices of each vertex's cell."""
    rows = torch.arange(len(key), device=key.device)
    return order, rows + 1, torch.searchsorted(key, key, right=True)


def _across(key: Tensor, order: Tensor, inside: Tensor, cell: Tensor, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """As `_within`, for each adjacent cell whose wall is within `reach` (in cells) of the vertex.

    inside: [V, 3], position in the cell, 0 to 1.  cell: [V, 3] int64.
    """
    inside, cell = inside[order], cell[order]
    reach = reach * (1 + SLACK) + SLACK
    near = {-1: inside <= reach, 0: torch.ones_like(inside, dtype=torch.bool), 1: inside >= 1 - reach}
    touches = torch.stack([near[x][:, 0] & near[y][:, 1] & near[z][:, 2] for x, y, z in ABOVE])
    step, row = touches.nonzero(as_tuple=True)
    wanted = _keys(cell[row] + torch.tensor(ABOVE, device=cell.device)[step])
    return order[row], torch.searchsorted(key, wanted), torch.searchsorted(key, wanted, right=True)


def _close_pairs(
    points: Tensor, order: Tensor, vertex: Tensor, begin: Tensor, end: Tensor, distance: float
) -> tuple[Tensor, Tensor]:
    """Pairs (first, second) [P] int64 of each `vertex` [N] and its candidates order[begin:end] within `distance`."""
    some = (end > begin).nonzero().squeeze(1)
    vertex, begin, count = vertex[some], begin[some], (end - begin)[some]
    total = count.cumsum(0)
    parts, row = [(vertex[:0], vertex[:0])], 0
    while row < len(vertex):
        done = int(total[row - 1]) if row else 0
        until = max(row + 1, int(torch.searchsorted(total, done + PAIRS, right=True)))
        which = torch.repeat_interleave(torch.arange(row, until, device=total.device), count[row:until])
        step = torch.arange(len(which), device=total.device) + done - (total - count)[which]
        first, second = vertex[which], order[begin[which] + step]
        gap = points[first] - points[second]
        near = dot(gap, gap) <= distance * distance
        parts.append((first[near], second[near]))
        row = until
    first, second = (torch.cat(ends) for ends in zip(*parts, strict=True))
    return first, second
