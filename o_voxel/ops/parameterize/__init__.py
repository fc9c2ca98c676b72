"""Mesh parameterization: minimises the symmetric Dirichlet energy by per-vertex Newton steps without flipping faces."""

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
    """Returns `position` [U, 2] after `sweeps` passes over all vertices, each moved to lower the energy of its faces.

    position: [U, 2] float64.  corner: [F, 3] int64, rows of `position`.  rest: [F, 3] float64, squared target lengths
    of a face's edges, edge k from corner k to the next; they must form a triangle with area.
    color: [U] integer, below 64; corners of a face have different colours; vertices are moved in colour order.
    group: [U] integer; corners of a face are in one group. The CPU distributes groups over threads; the result does not
    depend on them.

    The energy of a face is its area times |J|^2 + |J^-1|^2 (symmetric Dirichlet; Smith and Schaefer, Bijective
    Parameterization with Free Boundaries, 2015), J the map from the rest shape: 4 for an isometry, infinite for a face
    about to flip. A step is a Newton step of one vertex, halved until the energy decreases. Around a vertex with a
    flipped face, the energy of Garanzha et al. (Foldover-free maps in 50 lines of code, 2021) untangles it instead. A
    vertex without flipped faces therefore never flips one. Deterministic; backends "triton", "numba" and "reference"
    agree up to rounding.
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


__all__ = ["BACKENDS", "distortion", "relax"]
