"""Triangulation of closed 3D polygons by dynamic programming over chords (Liepa, Filling Holes in Meshes, 2003)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend
from ...core.checks import check_tensor
from . import reference

BACKENDS = (Backend("numba", numba_probe), Backend("reference", always))
MAX_POINTS = 128
# Work (points cubed) below which threads do not pay: 0.4 ms, about the start of a few threads.
THREAD_WORK = 200_000


def triangulate_loops(
    points: Tensor, rim: Tensor, start: Tensor, barred: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Returns (triangles [T, 3] int64, rows of `points`, by loop; whole [L] bool: loop triangulated), on the CPU.

    points: [P, 3] float64.  start: [L + 1] int64; loop l is the polygon start[l] to start[l + 1], 3 to 128 points.
    rim: [P, 3] float64, unit normal of the surface beyond the edge from each point to the next, zero if unknown.
    barred: [B, 2] int64, pairs of points that no triangle may join, such as existing edges.

    The cost (not Liepa's) is the sum of squared edge lengths over the triangles, plus for every edge of length l and
    dihedral bend b BEND l^2 (1 - cos b), and FOLD l perimeter (-cos b) for bends above a right angle. Triangles follow
    the loop's orientation. If every triangulation needs a barred edge or a degenerate triangle, the loop gets none and
    `whole` is False. O(n^3) in the points of a loop; deterministic; backends ("numba", "reference") agree up to
    rounding.
    """
    count = len(check_tensor(points, "points", (None, 3), torch.float64))
    check_tensor(rim, "rim", (count, 3), torch.float64)
    check_tensor(start, "start", (None,), torch.int64)
    check_tensor(barred, "barred", (None, 2), torch.int64)
    sizes = start.diff()
    if len(sizes) and not 3 <= int(sizes.min()) <= int(sizes.max()) <= MAX_POINTS:
        raise ValueError(f"start: expected loops of 3 to {MAX_POINTS} points, got {sizes.min()} to {sizes.max()}")
    if resolve_backend(backend, BACKENDS, points.device) == "numba":
        return _in_threads(points, rim, start, barred)
    return reference.triangulate_loops(points, rim, start, barred)


def bars_by_loop(start: np.ndarray, barred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (pairs [B, 2], bars [L + 1]) int64: `barred` within loop l are pairs[bars[l] : bars[l + 1]], in their
    order. start: [L + 1]."""
    loop = np.searchsorted(start, barred[:, 0], side="right") - 1
    within = (loop >= 0) & (loop < len(start) - 1)
    within[within] = barred[within, 1] < start[loop[within] + 1]
    within[within] = barred[within, 1] >= start[loop[within]]
    pairs, loop = barred[within], loop[within]
    count = np.bincount(loop, minlength=max(len(start) - 1, 0))
    return pairs[np.argsort(loop, kind="stable")], np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])


def _in_threads(points: Tensor, rim: Tensor, start: Tensor, barred: Tensor) -> tuple[Tensor, Tensor]:
    """Runs the numba kernel on ranges of loops of about equal cost, on as many threads as the work justifies."""
    from . import kernel_cpu

    place, edge, starts, pairs = (column.contiguous().numpy() for column in (points, rim, start, barred))
    bars = bars_by_loop(starts, pairs)
    work = torch.cat([start.new_zeros(1), start.diff().pow(3).cumsum(0)])
    threads = min(torch.get_num_threads(), 1 + int(work[-1]) // THREAD_WORK)
    shares = torch.arange(1, threads) * work[-1] // threads
    ends = [0, *torch.searchsorted(work[1:], shares).tolist(), len(work) - 1]

    def run(span: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        weights = reference.BEND, reference.FOLD, reference.FLAT
        return kernel_cpu.triangulate_loops(place, edge, starts, *bars, span, *weights)

    spans = [span for span in zip(ends[:-1], ends[1:], strict=True) if span[0] < span[1]]
    with ThreadPoolExecutor(threads) as pool:
        others = [pool.submit(run, span) for span in spans[1:]]
        parts = [*map(run, spans[:1]), *(other.result() for other in others)]
    triangles = [torch.zeros(0, 3, dtype=torch.int64), *(torch.from_numpy(part) for part, _ in parts)]
    whole = [torch.zeros(0, dtype=torch.bool), *(torch.from_numpy(part) for _, part in parts)]
    return torch.cat(triangles), torch.cat(whole)


__all__ = ["BACKENDS", "MAX_POINTS", "triangulate_loops"]
