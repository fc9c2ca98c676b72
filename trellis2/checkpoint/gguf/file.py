"""Reads GGUF files: the header at once, tensors when they are asked for, in the dtype that is asked for.

Layout (facts: ggml's docs/gguf.md, version 3): "GGUF", uint32 version, uint64 numbers of tensors and of entries. An
entry of the metadata is a string, a uint32 type, a value. A tensor is a string, a uint32 number of dimensions, uint64
dimensions, the innermost first, a uint32 format, and a uint64 offset into the data, which begin at the next multiple of
general.alignment. Strings are a uint64 length and UTF-8. All is little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..stored import PIECE, CheckpointError, gather, read_pieces
from .blocks import BLOCKS

MAGIC, VERSIONS = b"GGUF", (2, 3)
# Codes of ggml's formats; those that are neither in PLAIN nor in BLOCKS are refused by name.
FORMATS: Mapping[int, str] = {
    code: name
    for first, names in (
        (0, "F32 F16 Q4_0 Q4_1"),
        (6, "Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS"),
        (24, "I8 I16 I32 I64 F64 IQ1_M BF16"),
        (34, "TQ1_0 TQ2_0"),
        (39, "MXFP4 NVFP4 Q1_0"),
    )
    for code, name in enumerate(names.split(), first)
}
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
# Metadata types: struct codes of the numbers, by type; 8 is a string, 9 an array.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ALIGNMENT = "general.alignment"
# Written by converters for tensors that they flattened.
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
MOST_DIMENSIONS, LONGEST_NAME, MOST_ENTRIES = 8, 1 << 16, 1 << 20


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file, not read yet. form: a key of PLAIN or BLOCKS.  shape: the outermost dimension first.

    offset, length: of its bytes in the file.
    """

    path: Path
    form: str
    shape: tuple[int, ...]
    offset: int
    length: int

    def read(self, dtype: torch.dtype) -> Tensor:
        """Returns the weights in `dtype`, rounded once, from float32. Beside them it needs a few megabytes.

        Raises CheckpointError for a file that has become shorter.
        """
        block = BLOCKS.get(self.form)
        pieces = read_pieces(self.path, self.offset, self.length, PIECE if block is None else block.piece)
        return gather(
            (raw.view(PLAIN[self.form]) if block is None else block.dequantize(raw) for raw in pieces),
            self.shape,
            dtype,
        )


@dataclass(frozen=True)
class GgufFile:
    """The header of a file. tensors: by the names in the file.  metadata: strings, numbers, and lists of numbers; lists
    of strings are left out."""

    path: Path
    tensors: Mapping[str, GgufTensor]
    metadata: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Reads the header. Raises CheckpointError naming `path` for a damaged or truncated file, another version, and
        a format that is not read."""
        try:
            with path.open("rb") as file:
                return _parse(path, _Reader(file, path.stat().st_size))
        except (OSError, ValueError, struct.error) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path}: not a whole GGUF file ({error}); download it again") from error


class _Reader:
    """Reads numbers and strings; ValueError past the end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def take(self, length: int) -> bytes:
        if length > self.size - self.file.tell():
            raise ValueError(f"it ends at byte {self.size}")
        return self.file.read(length)

    def numbers(self, code: str, count: int = 1) -> tuple[Any, ...]:
        form = struct.Struct(f"<{count}{code}")
        return form.unpack(self.take(form.size))

    def string(self, longest: int) -> str:
        (length,) = self.numbers("Q")
        if length > longest:
            raise ValueError(f"a string of {length} bytes")
        return self.take(length).decode("utf-8")

    def value(self, kind: int) -> Any:
        """The value of a metadata entry; None for a list of strings, which is passed over."""
        if kind in NUMBERS:
            return self.numbers(NUMBERS[kind])[0]
        if kind == STRING:
            return self.string(self.size)
        if kind != ARRAY:
            raise ValueError(f"metadata of an unknown type {kind}")
        inner, count = (self.numbers(code)[0] for code in "IQ")
        if inner in NUMBERS:
            if count * struct.calcsize(NUMBERS[inner]) > self.size:
                raise ValueError(f"a list of {count} numbers")
            return list(self.numbers(NUMBERS[inner], count))
        if inner != STRING:
            raise ValueError(f"a list of values of type {inner}")
        for _ in range(count):
            self.string(self.size)
        return None


def _parse(path: Path, reader: _Reader) -> GgufFile:
    if reader.take(4) != MAGIC:
        raise ValueError("it does not begin with GGUF")
    (version,) = reader.numbers("I")
    if version not in VERSIONS:
        raise CheckpointError(f"{path}: expected GGUF version 2 or 3, little-endian, got {version}; convert it again")
    tensors, entries = reader.numbers("Q", 2)
    if max(tensors, entries) > MOST_ENTRIES:
        raise ValueError(f"{tensors} tensors and {entries} entries")
    metadata = {}
    for _ in range(entries):
        key = reader.string(LONGEST_NAME)
        value = reader.value(reader.numbers("I")[0])
        if value is not None:
            metadata[key] = value
    listed = [_tensor_entry(reader) for _ in range(tensors)]
    alignment = metadata.get(ALIGNMENT, 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"an alignment of {alignment}")
    start = -(-reader.file.tell() // alignment) * alignment
    _check_formats(path, {form for _, _, form, _ in listed})
    found = {}
    for name, stored, form, offset in listed:
        length = _length(name, stored, FORMATS[form])
        if start + offset + length > reader.size:
            raise ValueError(f"{name} ends past byte {reader.size}")
        shape = _shape(name, stored, metadata)
        found[name] = GgufTensor(path, FORMATS[form], shape, start + offset, length)
    if len(found) < len(listed):
        raise ValueError("two tensors of one name")
    return GgufFile(path, found, metadata)


def _tensor_entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    """(name, stored dimensions, the innermost first, code of the format, offset into the data)."""
    name = reader.string(LONGEST_NAME)
    (count,) = reader.numbers("I")
    if count > MOST_DIMENSIONS:
        raise ValueError(f"{name} of {count} dimensions")
    stored = reader.numbers("Q", count)
    if 0 in stored:
        raise ValueError(f"{name}: no weights in {stored}")
    return name, stored, *(reader.numbers(code)[0] for code in "IQ")


def _check_formats(path: Path, codes: set[int]) -> None:
    names = [FORMATS.get(code, f"of code {code}") for code in sorted(codes)]
    refused = [name for name in names if name not in PLAIN and name not in BLOCKS]
    if refused:
        raise CheckpointError(
            f"{path}: tensors in {', '.join(refused)} are not read; take the file in Q4_K_M, Q5_K_M, Q6_K or Q8_0 "
            f"(read are {', '.join([*PLAIN, *BLOCKS])})"
        )


def _length(name: str, stored: tuple[int, ...], form: str) -> int:
    """Bytes of a tensor."""
    count = math.prod(stored)
    if form in PLAIN:
        return count * PLAIN[form].itemsize
    block = BLOCKS[form]
    if not stored or stored[0] % block.size:
        raise ValueError(f"{name}: rows of {stored[:1]} weights in blocks of {block.size}")
    return count // block.size * block.bytes


def _shape(name: str, stored: tuple[int, ...], metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape, the outermost dimension first; the one in the metadata, if a converter has noted it."""
    noted = metadata.get(ORIGINAL_SHAPE + name)
    if noted is None:
        return tuple(reversed(stored))
    whole = isinstance(noted, list) and all(isinstance(side, int) and side > 0 for side in noted)
    if not whole or math.prod(noted) != math.prod(stored):
        raise ValueError(f"{name}: {stored} weights for a shape {noted}")
    return tuple(noted)
