"""Half-edge connectivity for mesh repair: edge matching, connected components with parity, and corner groups.

Half-edge h = 3 f + k of face f runs from its corner k to its corner (k + 1) % 3; corner c = 3 f + k is the start of
half-edge c. A twin is the opposite half-edge, -1 if none. "numba" runs on the CPU, "reference" (plain torch)
everywhere; both return the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend
from ...core.checks import check_tensor
from . import reference

BACKENDS = (Backend("numba", numba_probe), Backend("reference", always))


def match_edges(faces: Tensor, vertex_count: int, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Returns (order [3 F], start [E + 1]), int64: half-edges grouped by undirected edge.

    faces: [F, 3] int64, rows below `vertex_count` < 2^31. Edges are sorted by their lower vertex, then by the higher;
    edge e has the half-edges order[start[e] : start[e + 1]], ascending. Deterministic.
    """
    check_tensor(faces, "faces", (None, 3), torch.int64)
    if resolve_backend(backend, BACKENDS, faces.device) == "numba":
        from . import kernel_cpu

        arrays = kernel_cpu.match_edges(faces.contiguous().numpy(), vertex_count)
        return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])
    return reference.match_edges(faces, vertex_count)


def components(
    count: int, first: Tensor, second: Tensor, odd: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Returns (label [count] int64, parity [count] bool): each node's lowest connected node, and parity to it.

    Edge i joins nodes first[i] and second[i] ([L] int64); odd [L] bool: their parities differ. A node's parity is that
    of its path to the label within the spanning forest of the lowest edges; where edges contradict each other, the
    later ones are ignored. Deterministic.
    """
    links = len(check_tensor(first, "first", (None,), torch.int64))
    check_tensor(second, "second", (links,), torch.int64)
    check_tensor(odd, "odd", (links,), torch.bool)
    if resolve_backend(backend, BACKENDS, first.device) == "numba":
        from . import kernel_cpu

        columns = (column.contiguous().numpy() for column in (first, second, odd))
        label, parity = kernel_cpu.components(count, *columns)
        return torch.from_numpy(label), torch.from_numpy(parity)
    return reference.components(count, first, second, odd)


def corner_groups(twin: Tensor, flip: Tensor, *, backend: str = "auto") -> Tensor:
    """Returns [3 F] int64: the lowest corner of the triangle fan of each corner, circulating around a vertex by twins.

    twin: [3 F] int64.  flip: [F] bool, faces to be read in reverse, so that across every twin the two faces run in
    opposite directions. Deterministic.
    """
    corners = len(check_tensor(twin, "twin", (None,), torch.int64))
    check_tensor(flip, "flip", (corners // 3,), torch.bool)
    if resolve_backend(backend, BACKENDS, twin.device) == "numba":
        from . import kernel_cpu

        return torch.from_numpy(kernel_cpu.corner_groups(twin.contiguous().numpy(), flip.contiguous().numpy()))
    return reference.corner_groups(twin, flip)


__all__ = ["BACKENDS", "components", "corner_groups", "match_edges"]
