"""Manifold dual contouring: the surface between inside and outside as a closed 2-manifold, in grid units.

Every cube of eight points gets a vertex for each sheet of the surface in it (`sheets`), in the middle of where that
sheet crosses the cube's edges. Every crossed edge gets a quad of the four cubes around. The quads of one vertex form a
ring, because the sheets' pieces do; and a side has two quads, unless one sheet of a cube meets one of its neighbour
twice, through a face that is inside crosswise. There a vertex on the face is put in for each of the two meetings.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.vectors import dot, length
from ...ops.flood_fill import POINTS, SIDE
from .contour_tables import contour_tables
from .sparse_sdf import BLOCKS_A_CHUNK, SparseSDF

# The cubes around an edge lie below its low end by these, along the other two axes; counter-clockwise about the first
# of them crossed with the second, which is the edge's direction, or against it for an edge along y.
RING = ((0, 0), (1, 0), (1, 1), (0, 1))
EDGES_A_CHUNK = 1 << 20
# Positions are added up in whole steps, so that the order does not count.
STEPS = float(1 << 20)
# What the length of a diagonal counts, against how far it leaves the surface.
LENGTH = 0.1


class Contour(NamedTuple):
    """vertices: [V, 3] float32 in grid units.  quads: [Q, 4] int32 rows of them.  fans: [F, 3] int32, the triangles of
    the few quads that are none."""

    vertices: Tensor
    quads: Tensor
    fans: Tensor


class Cells(NamedTuple):
    """The cubes that the surface passes. first: [64 B] int32 by slot, the first vertex of each.  case: [64 B] uint8,
    its inside corners.  edges: [E] int64, 3 slot + axis of each crossed edge, by its low end.  count: of vertices."""

    first: Tensor
    case: Tensor
    edges: Tensor
    count: int


def contour(field: SparseSDF) -> Contour:
    """The field's surface, wound to face outside.

    Every edge has two faces, which run along it in opposite directions; every vertex has one fan; however the quads
    are cut. Deterministic. The field's outermost points have to be outside.
    """
    cells = _find_cells(field)
    quads, at, outer = _quads(field, cells)
    pinched = _pinched(cells)
    count = cells.count
    del cells
    vertices = _means(quads, at, count)
    quad, side = _double_sides(quads, pinched)
    if len(quad) == 0:
        return Contour(vertices, quads, quads.new_empty(0, 3))
    fans, extra = _fans(quads, at, outer, quad, side, count)
    plain = torch.ones(len(quads), dtype=torch.bool, device=quads.device)
    plain[quad] = False
    return Contour(torch.cat([vertices, extra]), quads[plain], fans)


def cut_quads(shell: Contour, position: Tensor, normal: Tensor) -> Tensor:
    """The triangles [F, 3] int32 of a contour with its vertices at `position` [V, 3].

    A quad is cut along the diagonal that leaves the surface least at its ends, by their normals [V, 3], which may be
    zero; and of two alike, along the shorter.
    """
    count = len(shell.quads)
    faces = shell.quads.new_empty(2 * count + len(shell.fans), 3)
    faces[2 * count :] = shell.fans
    halves = faces[: 2 * count].view(count, 6)
    for start in range(0, count, EDGES_A_CHUNK):
        quad = shell.quads[start : start + EDGES_A_CHUNK]
        a, b, c, d = quad.unbind(1)
        across, other = (_departure(position, normal, *ends) for ends in ((a, c), (b, d)))
        first, second = torch.stack([a, b, c, a, c, d], 1), torch.stack([a, b, d, b, c, d], 1)
        halves[start : start + EDGES_A_CHUNK] = torch.where((across <= other)[:, None], first, second)
    return faces


def _departure(position: Tensor, normal: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """How far [N] the ways between two vertices leave the surface there, and a little for their length."""
    way = position[end] - position[start]
    return dot(way, normal[start]).abs() + dot(way, normal[end]).abs() + LENGTH * length(way)


def _find_cells(field: SparseSDF) -> Cells:
    """Looks through all blocks for cubes and edges with ends on both sides."""
    device, count = field.values.device, len(field.coords)
    cases, edges = torch.empty(count, POINTS, dtype=torch.uint8, device=device), []
    for start in range(0, count, BLOCKS_A_CHUNK):
        inside = _with_neighbours(field, slice(start, min(start + BLOCKS_A_CHUNK, count)))
        case = torch.zeros(len(inside), SIDE, SIDE, SIDE, dtype=torch.uint8, device=device)
        for corner in range(8):
            x, y, z = (slice(place, place + SIDE) for place in (corner >> 2, corner >> 1 & 1, corner & 1))
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
    """[n, 5, 5, 5] uint8: which points are inside, of the blocks in `rows` and the first ones beyond, upwards."""
    axis = torch.arange(SIDE + 1, device=field.values.device)
    within = torch.cartesian_prod(axis, axis, axis)
    block = (within // SIDE * within.new_tensor([4, 2, 1])).sum(1)
    place = (within % SIDE * within.new_tensor([16, 4, 1])).sum(1)
    steps = torch.cartesian_prod(*[torch.arange(2, device=axis.device)] * 3)
    around = field.coords[rows].to(torch.int64)[:, None] + steps
    found = field.table[tuple(around.unbind(-1))].to(torch.int64) * POINTS
    inside = field.values.view(-1)[found[:, block] + place] <= 0
    return inside.to(torch.uint8).reshape(-1, *[SIDE + 1] * 3)


def _quads(field: SparseSDF, cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """(quads [E, 4] int32 facing outside, where the surface crosses [E, 3] float32, slot of the outer end [E])."""
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
        at[rows] = low + unit[axis] * (here / (here - there))[:, None]
        outer[rows] = torch.where(here <= 0, far, slot).to(torch.int32)

        steps = unit[others[axis]]  # [n, 2, 3]
        cell = field.slots(low[:, None] - (ring[None, :, :, None] * steps[:, None]).sum(2))
        number = axis[:, None] * 4 + ring[:, 0] * 2 + ring[:, 1]
        quad = cells.first[cell] + of_edge[cells.case[cell].to(torch.int64), number].to(torch.int32)
        backwards = (here <= 0) == (axis == 1)
        quads[rows] = torch.where(backwards[:, None], quad.flip(1), quad)
    return quads, at, outer


def _means(quads: Tensor, at: Tensor, count: int) -> Tensor:
    """The mean [count, 3] float32 of the positions `at` [E, 3] of the quads of each vertex."""
    total = torch.zeros(count, 4, dtype=torch.int64, device=quads.device)
    for quad, place in zip(quads.split(EDGES_A_CHUNK), at.split(EDGES_A_CHUNK), strict=True):
        whole = torch.nn.functional.pad((place * STEPS).round().to(torch.int64), (0, 1), value=1)
        for corner in quad.unbind(1):
            total.index_add_(0, corner, whole)
    # Whole parts and the rest apart: float32 holds either.
    mean, rest = total[:, :3] // total[:, 3:], total[:, :3] % total[:, 3:]
    return ((mean + rest / total[:, 3:]) / STEPS).to(torch.float32)


def _pinched(cells: Cells) -> Tensor:
    """Vertices [V] bool of cubes with a sheet that runs twice through a face, and a few others."""
    rows = contour_tables(cells.case.device)[2][cells.case.to(torch.int32)].nonzero().squeeze(1)
    found = torch.zeros(cells.count, dtype=torch.bool, device=rows.device)
    for sheet in range(4):
        found[(cells.first[rows] + sheet).clamp_max(cells.count - 1)] = True
    return found


def _double_sides(quads: Tensor, pinched: Tensor) -> tuple[Tensor, Tensor]:
    """(quad [K] int64, side [K] int64, from its corner to the next) of all sides that four quads have."""
    found = []
    for start in range(0, len(quads), EDGES_A_CHUNK):
        ends = pinched[quads[start : start + EDGES_A_CHUNK]]
        found.append((ends & ends.roll(-1, 1)).nonzero() + torch.tensor([start, 0], device=quads.device))
    if not found:
        return quads.new_empty(0, dtype=torch.int64), quads.new_empty(0, dtype=torch.int64)
    quad, side = torch.cat(found).unbind(1)
    ends = torch.stack([quads[quad, side], quads[quad, (side + 1) % 4]], 1).sort(1).values
    _, same, count = ends.unique(dim=0, return_inverse=True, return_counts=True)
    double = count[same] == 4
    return quad[double], side[double]


def _fans(quads: Tensor, at: Tensor, outer: Tensor, quad: Tensor, side: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(faces [F, 3] int32, vertices [N, 3]) of the quads with double sides, as fans around where they cross.

    quad, side: [K] int64, the double sides; count: of the vertices so far, which the new ones follow. The two meetings
    on such a side keep different outside points apart: the vertex put in goes by that point.
    """
    rows, fan = quad.unique(return_inverse=True)
    centre = torch.arange(len(rows), dtype=torch.int32, device=rows.device) + count
    start, end = quads[quad, side], quads[quad, (side + 1) % 4]
    key = torch.stack([torch.minimum(start, end), torch.maximum(start, end), outer[quad]], 1)
    found, same = key.unique(dim=0, return_inverse=True)
    put_in = same.to(torch.int32) + count + len(rows)
    middle = at.new_zeros(len(found), 3)
    # Each has two quads, and a sum of two does not depend on the order.
    middle.index_add_(0, same, at[quad] / 2)

    single = torch.ones(len(rows), 4, dtype=torch.bool, device=rows.device)
    single[fan, side] = False
    whole, corner = single.nonzero().unbind(1)
    ring = quads[rows[whole]]
    plain = torch.stack([ring.gather(1, c[:, None])[:, 0] for c in (corner, (corner + 1) % 4)] + [centre[whole]], 1)
    halves = [torch.stack(ends, 1) for ends in ((start, put_in, centre[fan]), (put_in, end, centre[fan]))]
    return torch.cat([plain, *halves]), torch.cat([at[rows], middle])
