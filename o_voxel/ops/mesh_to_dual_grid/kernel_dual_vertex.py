"""Box-constrained QEF minimiser in Triton: as dual_vertex.py, one voxel per lane."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import formulas
from .kernel_shared import VARIABLE, formula, launch, rotate, rotate_back

FIXED_POINT = tl.constexpr(formulas.FIXED_POINT)

_solve_three = formula(formulas.solve_three)
_solve_two = formula(formulas.solve_two)
_energy = formula(formulas.energy)


def solve_in_box(system: Tensor) -> Tensor:
    """Returns the minimisers [N, 3] float32 of systems [N, 9] int64."""
    dual = torch.empty((len(system), 3), dtype=torch.float32, device=system.device)
    launch(_solve, len(system), system, dual, len(system))
    return dual


@triton.jit
def _unit(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit(do_not_specialize=VARIABLE)
def _solve(system, dual, n_rows, block: tl.constexpr):
    """Writes the minimiser of each system's u^T A u - 2 b . u in the unit box, as dual_vertex.py."""
    lane = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    live = lane < n_rows
    at = system + lane * 9
    # Lanes without a voxel load the identity.
    xx = tl.load(at, mask=live, other=1).to(tl.float64) / FIXED_POINT
    xy = tl.load(at + 1, mask=live, other=0).to(tl.float64) / FIXED_POINT
    xz = tl.load(at + 2, mask=live, other=0).to(tl.float64) / FIXED_POINT
    yy = tl.load(at + 3, mask=live, other=1).to(tl.float64) / FIXED_POINT
    yz = tl.load(at + 4, mask=live, other=0).to(tl.float64) / FIXED_POINT
    zz = tl.load(at + 5, mask=live, other=1).to(tl.float64) / FIXED_POINT
    bx = tl.load(at + 6, mask=live, other=0).to(tl.float64) / FIXED_POINT
    by = tl.load(at + 7, mask=live, other=0).to(tl.float64) / FIXED_POINT
    bz = tl.load(at + 8, mask=live, other=0).to(tl.float64) / FIXED_POINT
    x, y, z = _solve_three(xx, xy, xz, yy, yz, zz, bx, by, bz)
    inside = (x >= 0.0) & (x <= 1.0) & (y >= 0.0) & (y <= 1.0) & (z >= 0.0) & (z <= 1.0)
    free_x, free_y, free_z = _unit(x), _unit(y), _unit(z)
    least = tl.where(inside, float("-inf"), float("inf"))
    for axis in tl.static_range(3):
        b_j, b_k, _ = rotate(axis, bx, by, bz)
        jj, kk, _ = rotate(axis, xx, yy, zz)
        ik, ij, jk = rotate(axis, yz, xz, xy)
        _, _, fixed = rotate(axis, free_x, free_y, free_z)
        to_j, to_k = b_j - ij * fixed, b_k - ik * fixed
        p, q = _solve_two(jj, jk, kk, to_j, to_k)
        for turn in tl.static_range(2):
            if turn == 0:
                at_j = _unit(p)
                at_k = _unit((to_k - jk * at_j) / kk)
            else:
                at_k = _unit(q)
                at_j = _unit((to_j - jk * at_k) / jj)
            u, v, w = rotate_back(axis, at_j, at_k, fixed)
            error = _energy(xx, xy, xz, yy, yz, zz, bx, by, bz, u, v, w)
            better = error < least
            x, y, z = tl.where(better, u, x), tl.where(better, v, y), tl.where(better, w, z)
            least = tl.where(better, error, least)
    tl.store(dual + lane * 3, x.to(tl.float32), mask=live)
    tl.store(dual + lane * 3 + 1, y.to(tl.float32), mask=live)
    tl.store(dual + lane * 3 + 2, z.to(tl.float32), mask=live)
