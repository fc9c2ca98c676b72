"""Mean material of the triangles that touch each voxel: scan conversion, texture sampling, then segment sums.

"numba" runs on the CPU, "reference" (plain torch) wherever torch has float64; both return the same rows.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ...core.backend import Backend, resolve_backend
from ...core.progress import Progress
from .nearest import nearest_rows
from .reference import weighted_means
from .scan_lines import triangle_voxel_pairs
from .scene import Scene, pack_scene

# Grid lines and samples per step. A sample takes about 1 KiB of temporary memory.
SCAN_SLAB = 1 << 22
SAMPLE_SLAB = 1 << 20


def _numba(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cpu":
        return f"runs on the CPU, the mesh is on {device}"
    return None if find_spec("numba") else "numba is not installed"


def _float64(device: torch.device, dtype: torch.dtype) -> str | None:
    return "no float64 on this device: move the mesh to the CPU" if device.type == "mps" else None


BACKENDS = (Backend("numba", _numba), Backend("reference", _float64))


def find_pairs(scene: Scene, *, backend: str = "auto", report: Progress, slab: int = SCAN_SLAB) -> Tensor:
    """Returns keys [P] int64, ascending and unique, of all touching pairs of voxels and triangles [F, 3, 3].

    key: voxel << tri_bits | triangle.  slab: grid lines per step.
    """
    if resolve_backend(backend, BACKENDS, scene.device) == "numba":
        from . import cpu

        return cpu.triangle_voxel_pairs(scene, report)
    return triangle_voxel_pairs(scene, slab, report)


def voxel_means(
    scene: Scene, keys: Tensor, voxels: Tensor, *, backend: str = "auto", report: Progress, slab: int = SAMPLE_SLAB
) -> Tensor:
    """Returns means [N, C] float32 over the pairs `keys` [P] int64 of `voxels` [N] int64, ascending; 0 if none.

    Every pair's voxel must be among `voxels`. Deterministic, for any slab and number of threads.
    """
    owner = keys >> scene.tri_bits
    counts = torch.unique_consecutive(owner, return_counts=True)[1]
    # Every voxel has a pair in most scenes; searching for a million of them takes longer than counting.
    ends = counts.cumsum(0) if len(counts) == len(voxels) else torch.searchsorted(owner, voxels, right=True)
    triangles = keys & ((1 << scene.tri_bits) - 1)
    coords = torch.stack(unravel(voxels, scene.shape), 1)
    if resolve_backend(backend, BACKENDS, scene.device) == "numba":
        from . import cpu

        return cpu.weighted_means(scene, coords, triangles, ends, report)
    return weighted_means(scene, coords, triangles, ends, slab, report)


def unravel(voxels: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (x, y, z), [N] int64 each, of voxel numbers `voxels` [N] = (x * Y + y) * Z + z."""
    column = voxels // shape[2]
    return column // shape[1], column % shape[1], voxels % shape[2]


__all__ = ["BACKENDS", "Scene", "find_pairs", "nearest_rows", "pack_scene", "unravel", "voxel_means"]
