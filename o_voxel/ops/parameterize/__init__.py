"""Triangles in the plane moved towards the shapes they have on the surface, one vertex at a time, never over."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend, triton_probe
from ...core.checks import INTEGERS, check_tensor
from .reference import distortion, relax_torch

BACKENDS = (Backend("triton", triton_probe), Backend("numba", numba_probe), Backend("reference", always))


def relax(
    position: Tensor,
    corner: Tensor,
    rest: Tensor,
    color: Tensor,
    group: Tensor,
    sweeps: int,
    *,
    backend: str = "auto",
) -> Tensor:
    """`position` after `sweeps` passes over all vertices, each moved to lower the energy of its faces.

    position: [U, 2] float64.  corner: [F, 3] int64, rows of `position`.  rest: [F, 3] float64, the squared lengths that
    a face's edges should have, edge k from corner k to the next; they must belong to a triangle with area.
    color: [U] integer, below 64; corners of a face have different colours; vertices are moved in their order.
    group: [U] integer; corners of a face are in one group. The result does not depend on it; the CPU shares out groups.

    The energy of a face is its area times |J|^2 + |J^-1|^2 (symmetric Dirichlet; Smith and Schaefer, Bijective
    Parameterization with Free Boundaries, 2015), J the map from the rest shape: 4 for an isometry, infinite for a face
    about to turn over. A step is a Newton step of one vertex, halved until the energy is lower. Around a vertex with a
    face that is turned over already, the energy of Garanzha et al. (Foldover-free maps in 50 lines of code, 2021)
    pulls it back instead. So a face that is not turned over never turns over because of a vertex whose faces are all
    right. Deterministic; backends "triton", "numba" and "reference" agree up to rounding.
    """
    vertices = len(check_tensor(position, "position", (None, 2), torch.float64))
    faces = len(check_tensor(corner, "corner", (None, 3), torch.int64))
    check_tensor(rest, "rest", (faces, 3), torch.float64)
    check_tensor(color, "color", (vertices,), INTEGERS)
    check_tensor(group, "group", (vertices,), INTEGERS)
    if sweeps < 0:
        raise ValueError(f"sweeps: expected 0 or more, got {sweeps}")
    chosen = resolve_backend(backend, BACKENDS, position.device)
    if not (vertices and faces and sweeps):
        return position.clone()
    if chosen == "numba":
        from .kernel_cpu import relax_cpu

        return relax_cpu(position, corner, rest, color, group, sweeps)
    if chosen == "triton":
        from .kernel import relax_gpu

        return relax_gpu(position, corner, rest, color, sweeps)
    return relax_torch(position, corner, rest, color, sweeps)


__all__ = ["CHOICES", "distortion", "relax"]
