"""Reads and writes voxel files by suffix: .vxz, .npz or .ply."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...core.atomic_io import MAX_BYTES, FilePath
from ...core.grid import Grid
from ...core.progress import Progress, in_background
from .npz import read_npz, write_npz
from .ply import read_ply, write_ply
from .records import VoxelRecords
from .vxz.header import VxzLayout
from .vxz.read_write import read_vxz, write_vxz

_READERS = {".vxz": read_vxz, ".npz": read_npz, ".ply": read_ply}
_WRITERS = {".vxz": write_vxz, ".npz": write_npz, ".ply": write_ply}


# For the estimate of the time, on two CPU cores.
BYTES_A_SECOND = 10e6


def read_voxels(
    path: FilePath, grid: Grid | None = None, max_bytes: int = MAX_BYTES, *, progress: Progress | None = None
) -> VoxelRecords:
    """Reads a voxel file in file order, on the CPU: coords [N, 3] int32 and attributes [N, C].

    grid: stored in the records; no file format contains it.  max_bytes: maximum size of the decoded voxels.
    progress: called with the fraction done, 0 to 1, by estimate; may raise, to cancel.
    Raises ValueError, naming the file and the fault, for another suffix, malformed files, and voxels outside `grid`;
    OSError; ImportError for a missing decoder.
    """
    reader = _of_suffix(path, _READERS)
    seconds = 1 + os.stat(path).st_size / BYTES_A_SECOND
    records = in_background(lambda report: reader(path, max_bytes), progress, seconds)
    if grid is None:
        return records
    coords = records.coords
    outside = ((coords < 0) | (coords >= coords.new_tensor(grid.shape))).any(dim=1)
    if bool(outside.any()):
        first = coords[outside][0].tolist()
        raise ValueError(f"{os.fspath(path)}: expected voxels inside {grid.shape}, got {first}")
    return VoxelRecords(coords, records.attrs, grid)


def write_voxels(
    path: FilePath, records: VoxelRecords, layout: VxzLayout | None = None, *, progress: Progress | None = None
) -> None:
    """Writes `records`, coords [N, 3] and attributes [N, C], to `path`, atomically, readable by the original.

    layout: of a .vxz; default, the original's.  progress: called with the fraction done, 0 to 1; if it raises, nothing
    is written. Raises ValueError for another suffix, a layout with another format, and records that the format cannot
    represent (see `write_vxz`, `write_npz`, `write_ply`); OSError.
    """
    writer = _of_suffix(path, _WRITERS)
    if layout is None:
        writer(path, records, progress=progress)
    elif writer is write_vxz:
        write_vxz(path, records, layout, progress=progress)
    else:
        raise ValueError(f"{os.fspath(path)}: expected no layout, which only a .vxz has")


def _of_suffix(path: FilePath, functions: dict[str, Callable]) -> Callable:
    suffix = Path(path).suffix.lower()
    if suffix not in functions:
        raise ValueError(f"{os.fspath(path)}: expected a file name that ends in {', '.join(functions)}, got {suffix!r}")
    return functions[suffix]
