"""Manifold dual contouring (Schaefer, Ju and Warren 2007) of a signed field into a closed 2-manifold, in grid units.

Every cube of eight grid points gets a vertex for each surface sheet in it (see `contour_tables`), at the mean of the
sheet's edge crossings. Every crossed grid edge gets a quad of the four cubes around it. The quads of a vertex form a
ring. A quad side has two quads, unless a sheet of one cube meets a sheet of its neighbour twice, through an ambiguous
face (diagonal corners inside); there a vertex on the face is inserted for each of the two intersections.

Letters: B blocks of 64 points, E crossed grid edges, V vertices, Q quads, F triangles. A slot is a flat index into
`SparseSDF.values`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.vectors import dot, length
from ...ops.flood_fill import POINTS, SIDE
from .contour_tables import contour_tables
from .sparse_sdf import BLOCKS_A_CHUNK, SparseSDF

# Offsets of the four cubes around an edge, below its low end along the other two axes; counter-clockwise about the
# cross product of those axes, which is the edge's direction, or its opposite for an edge along y.
RING = ((0, 0), (1, 0), (1, 1), (0, 1))
EDGES_A_CHUNK = 1 << 20
# Fixed-point steps of position sums, so that they do not depend on the order.
STEPS = float(1 << 20)
# Least distance of a crossing from the ends of its grid edge: sheets that meet at a grid point must not share it.
END = 0.01
# Weight of a diagonal's length against its deviation from the surface.
LENGTH = 0.1


class Contour(NamedTuple):
    """vertices: [V, 3] float32 in grid units.  quads: [Q, 4] int32.  triangles: [F, 3] int32, of the few quads with
    double sides."""

    vertices: Tensor
    quads: Tensor
    triangles: Tensor


class Cells(NamedTuple):
    """Cubes by slot. first: [64 B] int32, the first vertex of each.  case: [64 B] uint8, bit mask of its inside
    corners.  edges: [E] int64, 3 slot + axis of each crossed edge, by its low end.  count: number of vertices."""

    first: Tensor
    case: Tensor
    edges: Tensor
    count: int


def contour(field: SparseSDF) -> Contour:
    """Extracts the zero level set of a field as a `Contour` ([V, 3] vertices, [Q, 4] quads), facing outward.

    However the quads are triangulated, every edge has two faces of opposite direction and every vertex a single fan.
    Deterministic. The outermost points of the field must be outside.
    """
    cells = _find_cells(field)
    quads, at, outer = _quads(field, cells)
    ambiguous = _ambiguous_vertices(cells)
    count = cells.count
    del cells
    vertices = _means(quads, at, count)
    quad, side = _double_sides(quads, ambiguous)
    if len(quad) == 0:
        return Contour(vertices, quads, quads.new_empty(0, 3))
    triangles, extra = _split_double_sides(quads, at, outer, quad, side, count)
    plain = torch.ones(len(quads), dtype=torch.bool, device=quads.device)
    plain[quad] = False
    return Contour(torch.cat([vertices, extra]), quads[plain], triangles)


def cut_quads(shell: Contour, position: Tensor, normal: Tensor) -> Tensor:
    """Triangulates a contour with its vertices moved to `position` [V, 3] float32; returns faces [F, 3] int32.

    Splits each quad along the diagonal that deviates least from the tangent planes at its ends, given by the normals
    [V, 3] (unit or zero); ties go to the shorter diagonal.
    """
    count = len(shell.quads)
    faces = shell.quads.new_empty(2 * count + len(shell.triangles), 3)
    faces[2 * count :] = shell.triangles
    halves = faces[: 2 * count].view(count, 6)
    for start in range(0, count, EDGES_A_CHUNK):
        quad = shell.quads[start : start + EDGES_A_CHUNK]
        a, b, c, d = quad.unbind(1)
        across, other = (_deviation(position, normal, *ends) for ends in ((a, c), (b, d)))
        first, second = torch.stack([a, b, c, a, c, d], 1), torch.stack([a, b, d, b, c, d], 1)
        halves[start : start + EDGES_A_CHUNK] = torch.where((across <= other)[:, None], first, second)
    return faces


def _deviation(position: Tensor, normal: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Deviation [N] of the segments start-end from the tangent planes at both ends, plus a small length term."""
    segment = position[end] - position[start]
    return dot(segment, normal[start]).abs() + dot(segment, normal[end]).abs() + LENGTH * length(segment)


def _find_cells(field: SparseSDF) -> Cells:
    """Finds the cubes and grid edges that the surface crosses, in chunks of blocks."""
    device, count = field.values.device, len(field.coords)
    cases, edges = torch.empty(count, POINTS, dtype=torch.uint8, device=device), []
    for start in range(0, count, BLOCKS_A_CHUNK):
        inside = _with_neighbours(field, slice(start, min(start + BLOCKS_A_CHUNK, count)))
        case = torch.zeros(len(inside), SIDE, SIDE, SIDE, dtype=torch.uint8, device=device)
        for corner in range(8):
            x, y, z = (slice(low, low + SIDE) for low in (corner >> 2, corner >> 1 & 1, corner & 1))
            case |= inside[:, x, y, z] << corner
        cases[start : start + BLOCKS_A_CHUNK] = case.reshape(-1, POINTS)
        # Corners 4, 2 and 1 are a step along x, y and z from corner 0.
        crossed = torch.stack([(case >> bit ^ case) & 1 for bit in (4, 2, 1)], -1).reshape(-1)
        edges.append(crossed.nonzero().squeeze(1) + start * POINTS * 3)
    case = cases.view(-1)
    counts = contour_tables(device)[0].to(torch.uint8)
    passed = ((case != 0) & (case != 255)).nonzero().squeeze(1)
    sheets = counts[case[passed].to(torch.int32)]
    upto = sheets.cumsum(0, dtype=torch.int32)
    first = torch.zeros(len(case), dtype=torch.int32, device=device)
    first[passed] = upto - sheets
    total = int(upto[-1]) if len(upto) else 0
    return Cells(first, case, torch.cat(edges) if edges else passed, total)


def _with_neighbours(field: SparseSDF, rows: slice) -> Tensor:
    """[n, 5, 5, 5] uint8: 1 for inside points, of the blocks `rows` and the first layer of their upper neighbours."""
    axis = torch.arange(SIDE + 1, device=field.values.device)
    within = torch.cartesian_prod(axis, axis, axis)
    block = (within // SIDE * within.new_tensor([4, 2, 1])).sum(1)
    column = (within % SIDE * within.new_tensor([16, 4, 1])).sum(1)
    steps = torch.cartesian_prod(*[torch.arange(2, device=axis.device)] * 3)
    around = field.coords[rows].to(torch.int64)[:, None] + steps
    found = field.table[tuple(around.unbind(-1))].to(torch.int64) * POINTS
    inside = field.values.view(-1)[found[:, block] + column] <= 0
    return inside.to(torch.uint8).reshape(-1, *[SIDE + 1] * 3)


def _quads(field: SparseSDF, cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """(outward quads [E, 4] int32, edge crossings [E, 3] float32, slots of the outside ends [E] int32)."""
    device = field.values.device
    of_edge = contour_tables(device)[1]
    flat, unit = field.values.view(-1), torch.eye(3, dtype=torch.int64, device=device)
    others = torch.tensor([[1, 2], [0, 2], [0, 1]], device=device)
    ring = torch.tensor(RING, device=device)
    count = len(cells.edges)
    quads = torch.empty(count, 4, dtype=torch.int32, device=device)
    at, outer = flat.new_empty(count, 3), torch.empty(count, dtype=torch.int32, device=device)
    for start in range(0, count, EDGES_A_CHUNK):
        rows = slice(start, start + EDGES_A_CHUNK)
        slot, axis = cells.edges[rows] // 3, cells.edges[rows] % 3
        low = field.points(slot)
        far = field.slots(low + unit[axis])
        here, there = flat[slot], flat[far]
        at[rows] = low + unit[axis] * (here / (here - there)).clamp(END, 1 - END)[:, None]
        outer[rows] = torch.where(here <= 0, far, slot).to(torch.int32)

        steps = unit[others[axis]]  # [n, 2, 3]
        cell = field.slots(low[:, None] - (ring[None, :, :, None] * steps[:, None]).sum(2))
        number = axis[:, None] * 4 + ring[:, 0] * 2 + ring[:, 1]
        quad = cells.first[cell] + of_edge[cells.case[cell].to(torch.int64), number].to(torch.int32)
        backwards = (here <= 0) == (axis == 1)
        quads[rows] = torch.where(backwards[:, None], quad.flip(1), quad)
    return quads, at, outer


def _means(quads: Tensor, at: Tensor, count: int) -> Tensor:
    """Mean [count, 3] float32 of the edge crossings `at` [E, 3] of the quads [E, 4] at each vertex."""
    total = torch.zeros(count, 4, dtype=torch.int64, device=quads.device)
    for quad, crossing in zip(quads.split(EDGES_A_CHUNK), at.split(EDGES_A_CHUNK), strict=True):
        whole = torch.nn.functional.pad((crossing * STEPS).round().to(torch.int64), (0, 1), value=1)
        for corner in quad.unbind(1):
            total.index_add_(0, corner, whole)
    # Quotient and remainder separately: float32 represents both exactly.
    mean, rest = total[:, :3] // total[:, 3:], total[:, :3] % total[:, 3:]
    return ((mean + rest / total[:, 3:]) / STEPS).to(torch.float32)


def _ambiguous_vertices(cells: Cells) -> Tensor:
    """Mask [V] bool of vertices in cubes with a sheet that crosses a face twice (a superset)."""
    rows = contour_tables(cells.case.device)[2][cells.case.to(torch.int32)].nonzero().squeeze(1)
    found = torch.zeros(cells.count, dtype=torch.bool, device=rows.device)
    for sheet in range(4):
        found[(cells.first[rows] + sheet).clamp_max(cells.count - 1)] = True
    return found


def _double_sides(quads: Tensor, ambiguous: Tensor) -> tuple[Tensor, Tensor]:
    """(quad [K] int64, side [K] int64, from that corner to the next) of all sides shared by four quads."""
    found = []
    for start in range(0, len(quads), EDGES_A_CHUNK):
        ends = ambiguous[quads[start : start + EDGES_A_CHUNK]]
        found.append((ends & ends.roll(-1, 1)).nonzero() + torch.tensor([start, 0], device=quads.device))
    if not found:
        return quads.new_empty(0, dtype=torch.int64), quads.new_empty(0, dtype=torch.int64)
    quad, side = torch.cat(found).unbind(1)
    ends = torch.stack([quads[quad, side], quads[quad, (side + 1) % 4]], 1).sort(1).values
    _, same, count = ends.unique(dim=0, return_inverse=True, return_counts=True)
    double = count[same] == 4
    return quad[double], side[double]


def _split_double_sides(
    quads: Tensor, at: Tensor, outer: Tensor, quad: Tensor, side: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Triangle fans of the quads with double sides, around their edge crossings: (faces [F, 3] int32, vertices [N, 3]).

    quad, side: [K] int64, the double sides.  count: number of existing vertices; the new ones follow. The two
    intersections on such a side separate different outside points, which identify the inserted vertices.
    """
    rows, fan = quad.unique(return_inverse=True)
    centre = torch.arange(len(rows), dtype=torch.int32, device=rows.device) + count
    start, end = quads[quad, side], quads[quad, (side + 1) % 4]
    key = torch.stack([torch.minimum(start, end), torch.maximum(start, end), outer[quad]], 1)
    found, same = key.unique(dim=0, return_inverse=True)
    inserted = same.to(torch.int32) + count + len(rows)
    middle = at.new_zeros(len(found), 3)
    # Two quads contribute to each; a sum of two terms does not depend on the order.
    middle.index_add_(0, same, at[quad] / 2)

    single = torch.ones(len(rows), 4, dtype=torch.bool, device=rows.device)
    single[fan, side] = False
    whole, corner = single.nonzero().unbind(1)
    ring = quads[rows[whole]]
    plain = torch.stack([ring.gather(1, c[:, None])[:, 0] for c in (corner, (corner + 1) % 4)] + [centre[whole]], 1)
    halves = [torch.stack(ends, 1) for ends in ((start, inserted, centre[fan]), (inserted, end, centre[fan]))]
    return torch.cat([plain, *halves]), torch.cat([at[rows], middle])
