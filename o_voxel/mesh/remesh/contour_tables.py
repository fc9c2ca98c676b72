"""How a surface passes through a cube of eight points, by which of them are inside: one vertex for each sheet of it.

Corner 4 x + 2 y + z is the point (x, y, z) of the cube. Edge 4 a + 2 b + c runs along axis a, at b and c along the
other two axes, in order. On a face whose corners are inside crosswise the surface keeps the outside corners apart:
outside, points hang together along grid edges only, so that a wall one point thick holds at every slope. Both cubes of
the face decide so, and therefore the sheets of all cubes fit together (after Schaefer, Ju and Warren 2007, "Manifold
dual contouring"; the rule for faces is that of marching cubes with consistent faces).
"""

from __future__ import annotations

from functools import cache
from itertools import product

import torch
from torch import Tensor

from ...core.device import normal_tensors

Corner = tuple[int, int, int]


@cache
@normal_tensors
def contour_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(sheets [256] int64, sheet of an edge [256, 12] int64, twice [256] bool) by the inside corners, a bit a corner.

    sheet of an edge: 0 for those that are not crossed too.  twice: whether one sheet runs twice through some face.
    """
    found = [_sheets(case) for case in range(256)]
    counts = torch.tensor([max(sheet) + 1 for sheet, _ in found])
    of_edge = torch.tensor([[max(number, 0) for number in sheet] for sheet, _ in found])
    return counts.to(device), of_edge.to(device), torch.tensor([twice for _, twice in found]).to(device)


def _sheets(case: int) -> tuple[list[int], bool]:
    """(the sheet of each edge, -1 where it is not crossed; whether a sheet runs twice through a face)."""
    inside = {corner for corner in product((0, 1), repeat=3) if case >> _number(corner) & 1}
    label = [edge if _crosses(edge, inside) else -1 for edge in range(12)]
    pairs = [_face_pairs(axis, side, inside) for axis, side in product(range(3), (0, 1))]
    for first, second in (pair for face in pairs for pair in face):
        low, high = sorted((label[first], label[second]))
        label = [low if old == high else old for old in label]
    names = sorted(set(label) - {-1})
    sheet = [names.index(old) if old >= 0 else -1 for old in label]
    return sheet, any(len(face) == 2 and sheet[face[0][0]] == sheet[face[1][0]] for face in pairs)


def _face_pairs(axis: int, side: int, inside: set[Corner]) -> list[tuple[int, int]]:
    """The pairs of crossed edges that the surface joins on the face at `side` of `axis`."""
    corners = [corner for corner in product((0, 1), repeat=3) if corner[axis] == side]
    edges = [edge for edge in range(12) if all(corner[axis] == side for corner in _ends(edge))]
    crossed = [edge for edge in edges if _crosses(edge, inside)]
    if len(crossed) < 4:
        return [tuple(crossed)] if crossed else []
    return [tuple(edge for edge in edges if corner in _ends(edge)) for corner in corners if corner not in inside]


def _ends(edge: int) -> tuple[Corner, Corner]:
    axis, places = edge // 4, (edge // 2 % 2, edge % 2)
    low, high = ([*places[:axis], end, *places[axis:]] for end in (0, 1))
    return tuple(low), tuple(high)


def _crosses(edge: int, inside: set[Corner]) -> bool:
    low, high = _ends(edge)
    return (low in inside) != (high in inside)


def _number(corner: Corner) -> int:
    return 4 * corner[0] + 2 * corner[1] + corner[2]
