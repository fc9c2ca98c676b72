"""Box-constrained QEF minimiser of each voxel (its dual vertex) in plain torch.

A system is [9] int64, in units of 1 / FIXED_POINT: the entries xx, xy, xz, yy, yz, zz of the symmetric A, and b.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import formulas

ENTRIES = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of A, in storage order


def solve_in_box(system: Tensor) -> Tensor:
    """Returns the minimiser [N, 3] float32 of u^T A u - 2 b . u in the unit box, for systems [N, 9] int64.

    If the unconstrained minimiser is outside, that of the box is on a face that it violates: from any other point, a
    step towards it stays in the box and improves. The same holds on that face with one axis less. So it is found by
    fixing the axes one after another at the clamped minimiser over the free ones, in each of the six orders.
    """
    a, b = _matrix(system)
    entries = [a[i][j] for i, j in ENTRIES]
    best = torch.stack(formulas.solve_three(*entries, *b), dim=1)
    least = torch.full_like(best[:, 0], torch.inf)
    free = best.clamp(0, 1)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        x = free[:, i]
        on_face = formulas.solve_two(a[j][j], a[j][k], a[k][k], b[j] - a[i][j] * x, b[k] - a[i][k] * x)
        for p, q, first in ((j, k, on_face[0]), (k, j, on_face[1])):
            point = torch.empty_like(best)
            point[:, i], point[:, p] = x, first.clamp(0, 1)
            point[:, q] = ((b[q] - a[i][q] * x - a[p][q] * point[:, p]) / a[q][q]).clamp(0, 1)
            error = formulas.energy(*entries, *b, *point.unbind(dim=1))
            best = torch.where((error < least)[:, None], point, best)
            least = torch.minimum(error, least)
    return best.to(torch.float32)


def _matrix(system: Tensor) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Returns the rows of A and entries of b, float64 [N] each."""
    values = (system.to(torch.float64) / formulas.FIXED_POINT).unbind(dim=1)
    entry = dict(zip(ENTRIES, values[:6], strict=True))
    return [[entry[min(i, j), max(i, j)] for j in range(3)] for i in range(3)], list(values[6:])
