"""Arithmetic of mesh to dual grid, written once for three compilers.

Each function is plain arithmetic on float64 values: tensors in reference.py, scalars under numba in kernel_cpu.py,
blocks under Triton in kernel.py. No branches, calls or fused multiply-adds, so that all three take the same
decisions. `x * (x > 0)` is the positive part of x.

Units are voxels, except in `interpolate`. A voxel's system is A u = b, with u in voxels from the voxel's low corner
and the symmetric A given as its entries xx, xy, xz, yy, yz, zz.
"""

# Sums are int64 multiples of 2**-36: exact in any order, on any device. A voxel can hold 2**27 unit planes.
FIXED_POINT = 2.0**36


def interpolate(at, a, b, value_a, value_b):
    """Interpolates the line from (a, value_a) to (b, value_b) at `at`, clamped to its ends.

    If the voxel size is not a power of two, a grid line in float32 can lie just outside the edge that crosses it.
    """
    part = (at - a) / (b - a)
    part = part * (part > 0.0)
    part = part + (1.0 - part) * (part > 1.0)
    return (1.0 - part) * value_a + part * value_b


def plane_meets_box(distance, nx, ny, nz):
    """Returns whether the plane n . u = distance meets the unit box, touching included."""
    low = nx * (nx < 0.0) + ny * (ny < 0.0) + nz * (nz < 0.0)
    high = nx * (nx > 0.0) + ny * (ny > 0.0) + nz * (nz > 0.0)
    return (distance >= low) & (distance <= high)


def edge_clearance(u, v, au, av, bu, bv, sign):
    """Returns a negative value if the unit square at (u, v) is entirely outside the edge a -> b of a triangle.

    sign: 1.0 for a counter-clockwise triangle, -1.0 for a clockwise one.
    """
    nu = sign * (av - bv)
    nv = sign * (bu - au)
    return nu * (u - au) + nv * (v - av) + nu * (nu > 0.0) + nv * (nv > 0.0)


def solve_three(xx, xy, xz, yy, yz, zz, bx, by, bz):
    """Solves A u = b by cofactors."""
    c_xx = yy * zz - yz * yz
    c_xy = xz * yz - xy * zz
    c_xz = xy * yz - xz * yy
    c_yy = xx * zz - xz * xz
    c_yz = xy * xz - xx * yz
    c_zz = xx * yy - xy * xy
    det = xx * c_xx + xy * c_xy + xz * c_xz
    x = (c_xx * bx + c_xy * by + c_xz * bz) / det
    y = (c_xy * bx + c_yy * by + c_yz * bz) / det
    z = (c_xz * bx + c_yz * by + c_zz * bz) / det
    return x, y, z


def solve_two(pp, pq, qq, bp, bq):
    """Solves the 2 x 2 system for (p, q)."""
    det = pp * qq - pq * pq
    return (qq * bp - pq * bq) / det, (pp * bq - pq * bp) / det


def energy(xx, xy, xz, yy, yz, zz, bx, by, bz, x, y, z):
    """Returns u^T A u - 2 b . u, the quadratic error of u less a constant."""
    quadratic = xx * x * x + yy * y * y + zz * z * z + 2.0 * (xy * x * y + xz * x * z + yz * y * z)
    return quadratic - 2.0 * (bx * x + by * y + bz * z)
