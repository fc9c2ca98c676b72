"""Box-constrained QEF minimiser in numba: as dual_vertex.py, one voxel after another."""

from __future__ import annotations

from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ...core.kernel_cpu import cached_njit
from . import formulas

FIXED_POINT = formulas.FIXED_POINT

_solve_three = njit(formulas.solve_three)
_solve_two = njit(formulas.solve_two)
_energy = njit(formulas.energy)


def solve_in_box(system: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns the minimisers [N, 3] float32 of systems [N, 9] int64."""
    dual = np.empty((len(system), 3), np.float32)
    _compiled_solve(system, dual)
    return dual


def _compiled(function, inner=None):
    return cached_njit(function, formulas, inner=inner)


@partial(_compiled, inner=False)
def _compiled_solve(system, dual):
    """Writes the minimiser of each system's u^T A u - 2 b . u in the unit box, as dual_vertex.py."""
    a, b, point, free = np.empty((3, 3)), np.empty(3), np.empty(3), np.empty(3)
    for n in range(len(system)):
        entry = 0
        for i in range(3):
            for j in range(i, 3):
                a[i, j] = a[j, i] = system[n, entry] / FIXED_POINT
                entry += 1
            b[i] = system[n, 6 + i] / FIXED_POINT
        xx, xy, xz, yy, yz, zz = a[0, 0], a[0, 1], a[0, 2], a[1, 1], a[1, 2], a[2, 2]
        x, y, z = _solve_three(xx, xy, xz, yy, yz, zz, b[0], b[1], b[2])
        dual[n, 0], dual[n, 1], dual[n, 2] = x, y, z
        if 0.0 <= x <= 1.0 and 0.0 <= y <= 1.0 and 0.0 <= z <= 1.0:
            continue
        free[0], free[1], free[2] = _unit(x), _unit(y), _unit(z)
        least = np.inf
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            p, q = _solve_two(a[j, j], a[j, k], a[k, k], b[j] - a[i, j] * free[i], b[k] - a[i, k] * free[i])
            for turn in range(2):
                if turn == 1:
                    j, k, p = k, j, q
                point[i], point[j] = free[i], _unit(p)
                point[k] = _unit((b[k] - a[i, k] * point[i] - a[j, k] * point[j]) / a[k, k])
                error = _energy(xx, xy, xz, yy, yz, zz, b[0], b[1], b[2], point[0], point[1], point[2])
                if error < least:
                    least = error
                    dual[n, 0], dual[n, 1], dual[n, 2] = point[0], point[1], point[2]


@_compiled
def _unit(x):
    return min(max(x, 0.0), 1.0)
