"""Voxels as .npz: `coord` [N, 3] uint16 and one array [N, C] per attribute, in numpy's `savez` layout.

Does not use `numpy.load`, which allocates whatever shape a header claims.
"""

from __future__ import annotations

import errno
import io
import math
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.atomic_io import MAX_BYTES, FilePath, naming, write_files
from ...core.progress import Progress, in_background, scaled
from .records import RECORD_DTYPES, VoxelRecords, as_coords

_SUFFIX = ".npy"
# Bytes deflated between two reports; and for the estimate of the time.
BLOCK = 1 << 20
BYTES_A_SECOND = 20e6
_COORD = "coord"
_MAX_MEMBERS = 4096
_NUMPY_HEADER = re.compile(
    r"\{'descr': '([<>|][a-z][0-9]{1,2})', 'fortran_order': (True|False), 'shape': \(([0-9, ]{0,80})\), \} *\n"
)
# Exceptions of `zipfile` for damaged archives, besides ValueError.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError, struct.error)


class _Array(NamedTuple):
    """Location, dtype and shape of an array in the archive."""

    member: zipfile.ZipInfo
    header_size: int
    dtype: np.dtype
    fortran: bool
    shape: tuple[int, ...]


def read_npz(path: FilePath, max_bytes: int = MAX_BYTES) -> VoxelRecords:
    """Reads a .npz file in file order: coords [N, 3] int32, from any integer type, and attributes [N, C].

    max_bytes: maximum total array size. Raises ValueError, naming the file and the fault, for malformed files, arrays
    that are not [N, C], and dtypes outside RECORD_DTYPES; OSError.
    """
    with open(path, "rb") as file, naming(path):
        try:
            with zipfile.ZipFile(file) as archive:
                arrays = _read_arrays(archive, os.fstat(file.fileno()).st_size, max_bytes)
        except _ZIP_ERRORS as error:
            raise ValueError(f"damaged .npz: {error}") from error
        except OSError as error:
            # `zipfile` seeks to unchecked offsets; a negative one fails with EINVAL.
            if error.errno != errno.EINVAL:
                raise
            raise ValueError("damaged .npz: an offset outside the file") from error
        if _COORD not in arrays:
            raise ValueError(f"expected an array {_COORD!r}, got {sorted(arrays)!r:.200}")
        coords = _coords(arrays.pop(_COORD))
        return VoxelRecords(coords, {name: _attribute(name, values) for name, values in arrays.items()})


def write_npz(
    path: FilePath, records: VoxelRecords, compress: bool = True, *, progress: Progress | None = None
) -> None:
    """Writes `records`, coords [N, 3] and attributes [N, C], in their order, as a .npz file readable by the original.

    compress: deflate the arrays, or store them. Deterministic; replaces `path` atomically.  progress: called with the
    fraction done, 0 to 1; if it raises, nothing is written.
    Raises ValueError for coordinates outside 0 to 65535 and for an attribute named `coord`.
    """
    if _COORD in records.attrs:
        raise ValueError(f"attrs: the format keeps the name {_COORD!r} for itself")
    coords = records.coords.cpu().numpy()
    if coords.size and not (coords.min() >= 0 and coords.max() <= 0xFFFF):
        raise ValueError(f"coords: expected 0 to 65535 in a .npz, got {coords.min()} to {coords.max()}")
    arrays = {_COORD: coords.astype(np.uint16)} | {name: v.cpu().numpy() for name, v in records.attrs.items()}
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    total = sum(values.nbytes for values in arrays.values())
    content = in_background(
        lambda report: _archive(arrays, method, report), scaled(progress, 0.0, 0.95), 0.5 + total / BYTES_A_SECOND
    )
    write_files({Path(path): content}, scaled(progress, 0.95, 0.05))


def _archive(arrays: dict[str, np.ndarray], method: int, report: Progress) -> bytes:
    """The .npz file of `arrays`."""
    file, written = io.BytesIO(), 0
    total = max(1, sum(values.nbytes for values in arrays.values()))
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, values in arrays.items():
            with archive.open(name + _SUFFIX, "w", force_zip64=True) as member:
                values, head = np.ascontiguousarray(values), io.BytesIO()
                np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(values))
                member.write(head.getvalue())
                content = memoryview(values.tobytes())
                for start in range(0, len(content), BLOCK):
                    written += member.write(content[start : start + BLOCK])
                    report(written / total)
    return file.getvalue()


def _read_arrays(archive: zipfile.ZipFile, length: int, max_bytes: int) -> dict[str, np.ndarray]:
    """The arrays by their names. length: bytes of the file."""
    members = archive.infolist()
    names = [member.filename.removesuffix(_SUFFIX) for member in members]
    if len(set(names)) < len(names) or len(names) > _MAX_MEMBERS:
        raise ValueError(f"expected at most {_MAX_MEMBERS} arrays of unique names, got {len(names)}")
    size = sum(member.file_size for member in members)
    if size > max_bytes:
        raise ValueError(f"arrays of {size} bytes: expected at most {max_bytes}; allow more with max_bytes")
    # `zipfile` reserves what a member claims to have in the file, before it reads it.
    if any(member.compress_size > length for member in members):
        raise ValueError(f"damaged .npz: an array of more than the file's {length} bytes")
    arrays = {}
    for name, member in zip(names, members, strict=True):
        with naming(f"array {name!r}"):
            arrays[name] = _read_array(archive, _array(archive, member))
    return arrays


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Array:
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("expected a stored or deflated member, got one that is encrypted or compressed otherwise")
    with archive.open(member) as stream:
        start = stream.read(10)
        if len(start) < 10 or start[:6] != b"\x93NUMPY" or start[6] not in (1, 2):
            raise ValueError("expected a numpy array of format 1 or 2")
        wide = start[6] == 2
        length = struct.unpack("<I", start[8:] + stream.read(2))[0] if wide else struct.unpack("<H", start[8:])[0]
        text = stream.read(min(length, 1 << 16)).decode("latin-1")
    found = _NUMPY_HEADER.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a header of a plain numpy array, got {text[:200]!r}")
    shape = tuple(int(n) for n in found[3].replace(" ", "").split(",") if n)
    array = _Array(member, 10 + 2 * wide + length, np.dtype(found[1]), found[2] == "True", shape)
    wanted = array.header_size + math.prod(shape) * array.dtype.itemsize
    if wanted != member.file_size:
        raise ValueError(f"expected {wanted} bytes for {array.dtype} {list(shape)}, got {member.file_size}")
    return array


def _read_array(archive: zipfile.ZipFile, array: _Array) -> np.ndarray:
    with archive.open(array.member) as stream:
        data = stream.read()
    if len(data) != array.member.file_size:
        raise ValueError(f"expected {array.member.file_size} bytes, got {len(data)}")
    flat = np.frombuffer(data, array.dtype, offset=array.header_size)
    values = flat.reshape(array.shape, order="F" if array.fortran else "C")
    return np.array(values, array.dtype.newbyteorder("="), order="C")


def _coords(values: np.ndarray) -> Tensor:
    if values.ndim != 2 or values.shape[1] != 3 or values.dtype.kind not in "iu":
        raise ValueError(f"coord: expected whole numbers [*, 3], got {values.dtype} {list(values.shape)}")
    return as_coords(values)


def _attribute(name: str, values: np.ndarray) -> Tensor:
    allowed = [str(dtype).removeprefix("torch.") for dtype in RECORD_DTYPES]
    if values.dtype.name not in allowed:
        raise ValueError(f"array {name!r}: expected {' or '.join(allowed)}, got {values.dtype}")
    return torch.from_numpy(values)
