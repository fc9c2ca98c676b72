"""CPU backend of voxel materials: numba kernels on ranges of triangles or voxels, on all of torch's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ...core.progress import Progress
from .reference import LEAST_WEIGHT
from .scene import FLAT_SINE, Scene

# Keys in a thread's buffer, and ranges per thread, for load balancing.
BUFFER = 1 << 18
PIECES = 8


def triangle_voxel_pairs(scene: Scene, report: Progress) -> Tensor:
    """See `scan_lines.triangle_voxel_pairs`: the same keys [P] int64."""
    from .kernel_cpu import room_for, scan_range

    triangles, voxel_size = scene.triangles.contiguous().numpy(), scene.voxel_size.numpy()

    def scan(span: tuple[int, int]) -> np.ndarray:
        parts, buffer, at = [], np.empty(BUFFER, np.int64), span[0]
        while at < span[1]:
            following, used = scan_range(triangles, voxel_size, scene.shape, scene.tri_bits, at, span[1], buffer)
            if following == at and used == 0:
                buffer = np.empty(room_for(triangles[at], voxel_size, scene.shape), np.int64)
            parts.append(buffer[:used].copy())
            at = following
        return np.concatenate(parts)

    empty = np.empty(0, np.int64)
    keys = np.concatenate([empty, *_in_threads(scan, _spans(len(triangles)), report)])
    keys.sort()
    return torch.from_numpy(keys)


def weighted_means(scene: Scene, voxels: Tensor, triangles: Tensor, ends: Tensor, report: Progress) -> Tensor:
    """See `reference.weighted_means`: the same bytes [N, C] float32."""
    from .kernel_cpu import means_range

    out = np.empty((len(voxels), scene.factors.shape[1]), np.float32)
    arrays = voxels.numpy(), triangles.numpy(), ends.numpy()
    surface, materials, tables, settings = _scene_arrays(scene)

    def fill(span: tuple[int, int]) -> None:
        means_range(*arrays, span, surface, materials, tables, settings, out)

    _in_threads(fill, _spans(len(voxels)), report)
    return torch.from_numpy(out)


def _spans(items: int) -> list[tuple[int, int]]:
    pieces = max(1, min(items, PIECES * torch.get_num_threads()))
    edges = [items * k // pieces for k in range(pieces + 1)]
    return [(i, j) for i, j in zip(edges[:-1], edges[1:], strict=True) if j > i]


def _in_threads(work: Callable, spans: Iterable[tuple[int, int]], report: Progress) -> list:
    """Returns the results of `work` on every span, in order. `report` runs in this thread; if it raises, the rest is
    cancelled.
    """
    spans = list(spans)
    results = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        futures = [pool.submit(work, span) for span in spans]
        try:
            for future in futures:
                results.append(future.result())
                report(len(results) / len(spans))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return results


def _scene_arrays(scene: Scene) -> tuple[tuple, tuple, tuple, tuple]:
    """Returns (surface, materials, tables, settings) for `kernel_cpu.means_range`."""
    absent = scene.plane.new_zeros(len(scene.plane), 0)
    columns = (scene.plane, scene.uv, scene.colors, scene.normals, scene.tangents, scene.lod, scene.material)
    surface = tuple((absent if column is None else column).contiguous().numpy() for column in columns)
    normal_tables = [i for i, table in enumerate(scene.tables) if scene.normal_at in table.channels]
    materials = scene.factors, scene.alpha_mode, scene.alpha_cutoff
    materials = (*(column.numpy() for column in materials), normal_tables[0] if normal_tables else -1)
    numbers = (np.float32(scene.side), scene.normal_at, np.float32(FLAT_SINE), np.float32(LEAST_WEIGHT))
    return surface, materials, _table_arrays(scene), (scene.voxel_size.numpy(), *numbers)


def _table_arrays(scene: Scene) -> tuple[np.ndarray, ...]:
    """Returns the texture tables as arrays over (table, material, level); offsets are bytes into one texel array."""
    tables, materials = scene.tables, len(scene.factors)
    depth = max((table.offset.shape[1] for table in tables), default=1)
    levels = np.zeros((len(tables), materials, depth, 3), np.int64)
    channels = np.zeros((len(tables), scene.factors.shape[1]), np.int64)
    begin = 0
    for g, table in enumerate(tables):
        n = len(table.channels)
        parts = (table.offset * n + begin, table.height, table.width)
        levels[g, :, : table.offset.shape[1]] = torch.stack(parts, 2).numpy()
        channels[g, :n] = table.channels
        begin += table.texels.numel()
    flat = torch.cat([torch.zeros(0, dtype=torch.uint8), *(table.texels.flatten() for table in tables)])
    shapes = {"last_level": (materials,), "wrap": (materials, 2), "nearest": (materials,)}
    rows = [
        np.array([getattr(table, name).numpy() for table in tables], bool if name == "nearest" else np.int64).reshape(
            len(tables), *shape
        )
        for name, shape in shapes.items()
    ]
    counts = np.array([len(table.channels) for table in tables], np.int64)
    return flat.numpy(), levels, *rows, channels, counts
