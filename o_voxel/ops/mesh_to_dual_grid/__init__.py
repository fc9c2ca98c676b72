"""Mesh to flexible dual grid (O-Voxel): backend, slab thickness, and the slabs in order.

reference.py defines the computation; kernel.py (Triton) and kernel_cpu.py (numba) take the same decisions in float64
and add in integers, so that all agree on voxels and flags, and on vertices up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from types import ModuleType

import torch

from ...core.backend import Backend, numba_probe, triton_probe
from ...core.progress import Progress
from .soup import OpenEdges, Part, QefWeights, Slab, Soup, cut_slabs, triangle_soup

SLABS_A_WORKER = 4  # for load balancing
WORD_BITS = 64  # a row of voxels along z is padded to whole words


def run_slabs(soup: Soup, weights: QefWeights, backend: str, progress: Progress | None = None) -> Part:
    """Returns the grid's coords [N, 3] int32, dual vertices [N, 3] float32 and flags [N, 3] bool, slab by slab.

    backend: a name in BACKENDS; numba uses all cores.
    progress: called after each slab with the fraction done, 0 to 1; its exceptions stop the work and propagate.
    """
    module = _load(backend)
    workers = torch.get_num_threads() if backend == "numba" else 1
    nx, ny, nz = soup.shape
    layer_bits = ny * (-(-nz // WORD_BITS) * WORD_BITS)
    layers = min(module.SLAB_VOXELS // layer_bits, nx if workers == 1 else -(-nx // (SLABS_A_WORKER * workers)))
    slabs = cut_slabs(soup, max(layers, 1))
    parts = []
    with closing(_in_order(partial(_voxelize, module, soup, weights), slabs, workers)) as results:
        for part in results:
            parts.append(part)
            if progress is not None:
                progress(len(parts) / len(slabs))
    return _join(parts, soup.corners.device)


def _voxelize(module: ModuleType, soup: Soup, weights: QefWeights, slab: Slab) -> Part:
    return module.voxelize_slab(soup, slab, weights)


def _in_order(work: Callable[[Slab], Part], slabs: list[Slab], workers: int) -> Generator[Part, None, None]:
    if workers == 1:
        yield from map(work, slabs)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        for future in [pool.submit(work, slab) for slab in slabs]:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _join(parts: list[Part], device: torch.device) -> Part:
    empty = [torch.empty((0, 3), dtype=t, device=device) for t in (torch.int32, torch.float32, torch.bool)]
    columns = zip(*([p.coords, p.dual, p.intersected] for p in parts), strict=True) if parts else [[e] for e in empty]
    return Part(*(torch.cat(column) for column in columns))


def _load(backend: str) -> ModuleType:
    if backend == "triton":
        from . import kernel as module
    elif backend == "numba":
        from . import kernel_cpu as module
    else:
        from . import reference as module
    return module


def _probe_reference(device: torch.device, dtype: torch.dtype) -> str | None:
    return "float64 is needed, which this device lacks" if device.type == "mps" else None


BACKENDS = (Backend("triton", triton_probe), Backend("numba", numba_probe), Backend("reference", _probe_reference))

__all__ = ["BACKENDS", "OpenEdges", "Part", "QefWeights", "Slab", "Soup", "cut_slabs", "run_slabs", "triangle_soup"]
