"""Case tables of manifold dual contouring (Schaefer, Ju and Warren 2007): the surface sheets in each of 256 cubes.

Corner 4 x + 2 y + z is the point (x, y, z) of the cube. Edge 4 a + 2 b + c runs along axis a, at positions b and c on
the other two axes, in order. On ambiguous faces (diagonal corners inside) the surface separates the outside corners:
outside points are connected along grid edges only, so that a wall one point thick is watertight at every slope. Both
cubes of a face use this rule, as in marching cubes with consistent faces, so the sheets of all cubes match.
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
    """(sheet counts [256] int64, sheet of each edge [256, 12] int64, twice [256] bool) by the mask of inside corners.

    Uncrossed edges have sheet 0.  twice: true if a sheet crosses a face twice.
    """
    found = [_sheets(case) for case in range(256)]
    counts = torch.tensor([max(sheet) + 1 for sheet, _ in found])
    of_edge = torch.tensor([[max(number, 0) for number in sheet] for sheet, _ in found])
    return counts.to(device), of_edge.to(device), torch.tensor([twice for _, twice in found]).to(device)


def _sheets(case: int) -> tuple[list[int], bool]:
    """(sheet of each of the 12 edges, -1 if uncrossed; true if a sheet crosses a face twice)."""
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
    """Pairs of crossed edges connected by the surface on the face at `side` (0 or 1) of `axis`."""
    corners = [corner for corner in product((0, 1), repeat=3) if corner[axis] == side]
    edges = [edge for edge in range(12) if all(corner[axis] == side for corner in _ends(edge))]
    crossed = [edge for edge in edges if _crosses(edge, inside)]
    if len(crossed) < 4:
        return [tuple(crossed)] if crossed else []
    return [tuple(edge for edge in edges if corner in _ends(edge)) for corner in corners if corner not in inside]


def _ends(edge: int) -> tuple[Corner, Corner]:
    axis, position = edge // 4, (edge // 2 % 2, edge % 2)
    low, high = ([*position[:axis], end, *position[axis:]] for end in (0, 1))
    (a, b, c), (x, y, z) = low, high
    return (a, b, c), (x, y, z)


def _crosses(edge: int, inside: set[Corner]) -> bool:
    low, high = _ends(edge)
    return (low in inside) != (high in inside)


def _number(corner: Corner) -> int:
    return 4 * corner[0] + 2 * corner[1] + corner[2]
