"""Simplification of a triangle mesh by collapsing edges, cheapest first by quadric error."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend, triton_probe
from ...core.progress import Progress, silent
from .graph import build_graph
from .rounds import run_rounds


def _probe_library(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"runs on the CPU, not on {device}"
    return None if find_spec("fast_simplification") else "fast-simplification is not installed"


BACKENDS = (
    Backend("triton", triton_probe),
    Backend("numba", numba_probe),
    Backend("reference", always),
    Backend("library", _probe_library),
)


def collapse_edges(
    position: Tensor,
    faces: Tensor,
    target: int,
    *,
    max_error: float = float("inf"),
    locked: Tensor | None = None,
    backend: str = "auto",
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Positions [V, 3] float32 and faces [G, 3] int32 after collapses, G <= target where the topology lets it.

    position: [V, 3] float32 in units of about an edge; rows that no face uses any more keep their last place.
    faces: [F, 3] int32, F >= 1, no corner twice in a face and no face twice.  max_error: in the same units.
    locked: [V] bool, vertices that neither move nor go; "library" has none of these two.
    backend: "triton" and "reference" (plain torch), in rounds; "numba", one at a time, the cheapest each time; or
    "library" (fast-simplification, other rows: V changes).
    Deterministic for each backend and version of it.
    """
    chosen = resolve_backend(backend, BACKENDS, position.device)
    if chosen == "numba":
        from .kernel_cpu_blocks import collapse_one_by_one

        return collapse_one_by_one(position, faces, (target, max_error), locked, progress or silent)
    if chosen == "library":
        return _collapse_library(position, faces, target, progress)
    if chosen == "triton":
        from . import kernel as steps
    else:
        from . import reference as steps
    graph = run_rounds(build_graph(position, faces, locked), steps, target, max_error, progress)
    return graph.position, graph.faces


def _collapse_library(position: Tensor, faces: Tensor, target: int, progress: Progress | None) -> tuple[Tensor, Tensor]:
    """Returns positions [W, 3] float32 and faces [G, 3] int32 of about `target` faces; open edges are kept.

    The library ignores connectivity: it occasionally creates an edge of four faces.
    """
    from .library import simplify_by_library

    points, triangles = simplify_by_library(position.double().numpy(), faces.numpy(), min(target, len(faces)), progress)
    return torch.from_numpy(points).float(), torch.from_numpy(triangles).to(torch.int32)


__all__ = ["BACKENDS", "collapse_edges"]
