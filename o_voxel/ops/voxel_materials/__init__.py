"""Mean material values of the triangles that touch each voxel: scan lines, then texture reads, then segment sums.

"numba" runs on the CPU, "reference" (plain torch) wherever torch has float64; both give the same rows.
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

# Grid lines and samples at once. A sample holds about 1 KiB while it is made.
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
    """Keys [P] int64, ascending and unique, of every (voxel, triangle) that touch: voxel << tri_bits | triangle."""
    if resolve_backend(backend, BACKENDS, scene.device) == "numba":
        from . import cpu

        return cpu.triangle_voxel_pairs(scene, report)
    return triangle_voxel_pairs(scene, slab, report)


def voxel_means(
    scene: Scene, keys: Tensor, voxels: Tensor, *, backend: str = "auto", report: Progress, slab: int = SAMPLE_SLAB
) -> Tensor:
    """[N, C] float32 means over the pairs `keys` [P] of the voxels numbered `voxels` [N] int64, ascending; 0 for none.

    Every pair's voxel must be among them. Deterministic, whatever the slab or the number of threads.
    """
    ends = torch.searchsorted(keys >> scene.tri_bits, voxels, right=True)
    triangles = keys & ((1 << scene.tri_bits) - 1)
    coords = torch.stack(unravel(voxels, scene.shape), 1)
    if resolve_backend(backend, BACKENDS, scene.device) == "numba":
        from . import cpu

        return cpu.weighted_means(scene, coords, triangles, ends, report)
    return weighted_means(scene, coords, triangles, ends, slab, report)


def unravel(voxels: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """(x, y, z), each int64, of voxels numbered (x * Y + y) * Z + z."""
    column = voxels // shape[2]
    return column // shape[1], column % shape[1], voxels % shape[2]


__all__ = ["BACKENDS", "Scene", "find_pairs", "nearest_rows", "pack_scene", "unravel", "voxel_means"]
