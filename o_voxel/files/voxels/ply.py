"""Voxels as binary .ply: element `vertex` with x, y, z as float, then one property <name>_<i> per channel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ...core.atomic_io import MAX_BYTES, FilePath, naming, write_files
from ...core.progress import Progress, in_background, scaled
from .records import VoxelRecords, as_coords

# float32 represents all integers up to this one.
_MAX_COORD = 1 << 24
_MAX_HEADER_BYTES = 1 << 20
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_TYPES = {
    "uchar": "u1",
    "ushort": "u2",
    "uint": "u4",
    "char": "i1",
    "short": "i2",
    "int": "i4",
    "float": "f4",
    "double": "f8",
}
_NAMES = {code: name for name, code in _TYPES.items()}
_ALIASES = {np.dtype(code).name: code for code in _TYPES.values()}


def read_ply(path: FilePath, max_bytes: int = MAX_BYTES) -> VoxelRecords:
    """Reads a binary .ply file in file order: coords [N, 3] int32, from rounded positions, and attributes [N, C].

    max_bytes: maximum size of the voxels. Raises ValueError, naming the file and the fault, for malformed files, text
    files, lists, and properties other than x, y, z and <name>_<i>; OSError.
    """
    with open(path, "rb") as file, naming(path):
        count, dtype = _read_header(file)
        size = os.fstat(file.fileno()).st_size - file.tell()
        if count * dtype.itemsize > min(size, max_bytes):
            wanted = f"{count} voxels of {dtype.itemsize} bytes"
            raise ValueError(f"{wanted}: expected at most {min(size, max_bytes)} bytes of them")
        table = np.frombuffer(file.read(count * dtype.itemsize), dtype)
        with np.errstate(invalid="ignore"):  # converting a signalling NaN warns; as_coords rejects it
            positions = np.stack([table[axis].astype(np.float64) for axis in "xyz"], axis=1)
        coords = as_coords(np.rint(positions))
        attrs = {name: _channels(table, name, count) for name, count in _attributes(dtype).items()}
        return VoxelRecords(coords, attrs)


def write_ply(path: FilePath, records: VoxelRecords, *, progress: Progress | None = None) -> None:
    """Writes `records`, coords [N, 3] and attributes [N, C], in their order, as .ply; the original can read it.

    Little-endian. Deterministic; replaces `path` atomically.  progress: called with the fraction done, 0 to 1; if it
    raises, nothing is written. Raises ValueError for coordinates beyond 2**24, which float32 cannot represent, and for
    attribute names with spaces or outside ASCII.
    """
    content = in_background(lambda report: _encoded(records), scaled(progress, 0.0, 0.7), 1.0)
    write_files({Path(path): content}, scaled(progress, 0.7, 0.3))


def _encoded(records: VoxelRecords) -> bytes:
    """The file that `write_ply` writes."""
    coords = records.coords.cpu().numpy()
    if coords.size and max(-int(coords.min()), int(coords.max())) > _MAX_COORD:
        raise ValueError(f"coords: expected at most 2**24 in a .ply, got {coords.min()} to {coords.max()}")
    arrays = {name: values.cpu().numpy() for name, values in records.attrs.items()}
    fields = [(axis, "<f4") for axis in "xyz"]
    for name, values in arrays.items():
        if not name.isascii() or " " in name:
            raise ValueError(f"attrs: expected ASCII names without spaces in a .ply, got {name!r}")
        fields += [(f"{name}_{i}", values.dtype.newbyteorder("<")) for i in range(values.shape[1])]
    table = np.empty(len(records), fields)
    columns = [*coords.T, *(column for values in arrays.values() for column in values.T)]
    for (field, _), column in zip(fields, columns, strict=True):
        table[field] = column
    return _header_text(table.dtype, len(table)).encode("ascii") + table.tobytes()


def _header_text(dtype: np.dtype, count: int) -> str:
    properties = [f"property {_NAMES[dtype[name].str[1:]]} {name}" for name in dtype.names]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}", *properties, "end_header"]
    return "\n".join(lines) + "\n"


def _read_header(file: BinaryIO) -> tuple[int, np.dtype]:
    """Returns (vertex count, row dtype); leaves `file` at the first row."""
    lines = _header_lines(file)
    magic, form, element = (*lines, [], [], [])[:3]
    if magic != ["ply"] or len(form) != 3 or form[0] != "format" or form[1] not in _ORDERS:
        raise ValueError(f"expected a binary .ply, got one that begins with {lines[:2]!r:.200}")
    if len(element) != 3 or element[:2] != ["element", "vertex"] or not element[2].isdecimal():
        raise ValueError(f"expected 'element vertex <count>' first, got {' '.join(element)!r:.200}")
    fields: dict[str, str] = {}
    for words in lines[3:]:
        if words[0] == "element":
            break
        code = _TYPES.get(words[1], _ALIASES.get(words[1])) if len(words) == 3 and words[0] == "property" else None
        if code is None or words[2] in fields:
            raise ValueError(f"expected 'property <type> <name>' of a new name, got {' '.join(words)!r:.200}")
        fields[words[2]] = _ORDERS[form[1]] + code
    if not {"x", "y", "z"} <= fields.keys():
        raise ValueError(f"expected the properties x, y, z, got {list(fields)!r:.200}")
    return int(element[2]), np.dtype(list(fields.items()))


def _header_lines(file: BinaryIO) -> list[list[str]]:
    """Returns the words of each header line, without comments."""
    lines = []
    left = _MAX_HEADER_BYTES
    while True:
        line = file.readline(left)
        left -= len(line)
        if not line.endswith(b"\n"):
            raise ValueError(f"expected 'end_header' within {_MAX_HEADER_BYTES} bytes")
        words = line.decode("ascii").split()
        if words == ["end_header"]:
            return lines
        if words and words[0] not in ("comment", "obj_info"):
            lines.append(words)


def _attributes(dtype: np.dtype) -> dict[str, int]:
    """Returns {attribute: channel count}, in file order."""
    found: dict[str, set[str]] = {}
    for field in dtype.names:
        name, _, channel = field.rpartition("_")
        if field not in ("x", "y", "z"):
            found.setdefault(name, set()).add(channel)
    for name, channels in found.items():
        if not name or channels != {str(i) for i in range(len(channels))}:
            raise ValueError(f"attribute {name!r}: expected properties <name>_0 on, got {sorted(channels)!r:.200}")
    return {name: len(channels) for name, channels in found.items()}


def _channels(table: np.ndarray, name: str, count: int) -> torch.Tensor:
    columns = [table[f"{name}_{i}"] for i in range(count)]
    if len({column.dtype for column in columns}) > 1:
        raise ValueError(f"attribute {name!r}: expected one type for all its channels")
    return torch.from_numpy(np.stack(columns, axis=1).astype(columns[0].dtype.newbyteorder("=")))
