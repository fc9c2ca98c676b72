"""Tensors of a weight file that are not read yet, and what a safetensors file says of them before any is read.

A mapped tensor of another dtype than the network's would stand in memory twice while it is converted. Here it is read
through the file instead, a piece at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .config import ConfigError

# Bytes that are converted at a time; of whole numbers of any dtype.
PIECE = 1 << 20
# Of the format: a longer header is a damaged one.
LONGEST_HEADER = 100_000_000
# Of a network's or a pipeline's configuration; published ones have a few kB.
LONGEST_JSON = 4 << 20
TAKE_INSTEAD = "take the same network in bf16, in int8_convrot (Comfy-Org), or in GGUF (Q4_K_M, Q5_K_M, Q6_K or Q8_0)"
# Formats that are not read, by the keys' last parts that only they have.
UNREAD_KEYS: Mapping[str, tuple[str, ...]] = {
    "SDNQ": ("svd_up", "svd_down", "zero_point"),
    "w4a8": ("weight_s_rel", "weight_s_channel", "weight_codebook"),
    "nvfp4": ("weight_scale_2",),
    "bitsandbytes": ("absmax", "quant_map"),
}
FP8, BYTES = ("F8_E4M3", "F8_E5M2"), ("U8", "I8", "F4")
# Parts of file names that their writers use.
UNREAD_NAMES: Mapping[str, tuple[str, ...]] = {
    "SDNQ": ("sdnq", "_svd"),
    "nvfp4": ("nvfp4",),
    "mxfp8": ("mxfp8",),
    "w4a8": ("w4a8", "w4a4"),
}


class CheckpointError(ValueError):
    """A weight file is damaged, in a format that is not read, or does not fit the network."""


class Stored(Protocol):
    """Interface of a tensor in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""

    def read(self, dtype: torch.dtype) -> Tensor:
        """Returns the tensor in `dtype`, on the CPU. Raises CheckpointError."""


@dataclass(frozen=True, eq=False)
class FileTensor:
    """A tensor of a safetensors file. mapped: the file's pages, which are not in memory before they are read.

    offset: of its bytes in the file.
    """

    mapped: Tensor
    path: Path
    offset: int

    @property
    def shape(self) -> torch.Size:
        """Its shape."""
        return self.mapped.shape

    def read(self, dtype: torch.dtype) -> Tensor:
        """Returns the mapped tensor if it has the dtype; else a converted one, without touching the mapped pages."""
        if self.mapped.dtype == dtype:
            return self.mapped
        length = self.mapped.numel() * self.mapped.itemsize
        pieces = (raw.view(self.mapped.dtype) for raw in read_pieces(self.path, self.offset, length, PIECE))
        return gather(pieces, self.shape, dtype)


def read_pieces(path: Path, offset: int, length: int, step: int) -> Iterator[Tensor]:
    """Yields `length` bytes of a file, `step` at a time, [step] uint8 in one buffer that is used again.

    A buffer as large as the tensor would, freed between two that stay, leave holes of its size in the heap. Raises
    CheckpointError if the file ends before.
    """
    buffer = torch.empty(min(step, length), dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        for start in range(0, length, step):
            piece = buffer[: min(step, length - start)]
            into = memoryview(piece.numpy())
            while len(into):
                count = file.readinto(into)
                if not count:
                    raise CheckpointError(f"{path}: it ends before byte {offset + length}; download it again")
                into = into[count:]
            yield piece


def gather(pieces: Iterable[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Returns a tensor in `dtype` whose numbers come in pieces, flat, in any dtype."""
    out, done = torch.empty(shape, dtype=dtype), 0
    flat = out.view(-1)
    for piece in pieces:
        flat[done : done + len(piece)] = piece
        done += len(piece)
    return out


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Returns (entries of a safetensors header by key, offset of the data). Raises CheckpointError if damaged."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(LONGEST_HEADER, path.stat().st_size - 8):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error}); download it again") from error
    header.pop("__metadata__", None)
    return header, 8 + length


def check_format(path: Path) -> None:
    """Raises CheckpointError, naming the format and what to take instead, for a safetensors file in one that is not
    read; and for a damaged file."""
    found = unread_format(read_header(path)[0])
    if found is not None:
        raise CheckpointError(f"{path}: weights in {found} are not read; {TAKE_INSTEAD}")


def unread_format(header: Mapping[str, Any]) -> str | None:
    """Returns the name of the format that these entries of a header are in, or None for one that is read.

    Unscaled fp8 is read: it is cast. Int8 layers with comfy_quant say more of themselves, see `split_int8_layers`.
    """
    kinds = {key: entry.get("dtype", "") for key, entry in header.items() if isinstance(entry, dict)}
    last = {key.rpartition(".")[2] for key in kinds}
    for name, marks in UNREAD_KEYS.items():
        if last.intersection(marks):
            return name
    for key, kind in kinds.items():
        layer, _, part = key.rpartition(".")
        scale = kinds.get(f"{layer}.weight_scale", kinds.get(f"{layer}.scale_weight"))
        if kind == "F4" or part != "weight":
            found = "nvfp4 or mxfp4" if kind == "F4" else None
        elif kind in FP8 and scale is not None:
            found = "mxfp8" if scale in ("U8", "F8_E8M0") else "scaled fp8"
        elif kind in BYTES and scale in FP8:
            found = "nvfp4"
        elif kind in BYTES and f"{layer}.scale" in kinds:
            found = "SDNQ"
        elif kind in BYTES and f"{layer}.comfy_quant" not in kinds:
            found = "8 bits without comfy_quant"
        else:
            found = None
        if found is not None:
            return found
    return None


def unread_name(name: str) -> str | None:
    """Returns the format that is not read and that a file's name tells of, or None."""
    lower = name.lower()
    return next((form for form, parts in UNREAD_NAMES.items() if any(part in lower for part in parts)), None)


def unread_files(folder: Path) -> str:
    """Returns a sentence that names a weight file in a format that is not read, in `folder` or two folders below, and
    what to take instead; or an empty string."""
    for pattern in ("*.safetensors", "*/*.safetensors", "*/*/*.safetensors"):
        for path in sorted(folder.glob(pattern)):
            form = unread_name(path.name)
            if form is not None:
                return f" {path.relative_to(folder).as_posix()} is in {form}, which is not read: {TAKE_INSTEAD}."
    return ""


def read_json(path: Path) -> Any:
    """Returns the contents of a JSON file. Raises ConfigError naming it."""
    if path.stat().st_size > LONGEST_JSON:
        raise ConfigError(f"{path}: expected at most {LONGEST_JSON:,} bytes of a configuration")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error


def without_fp8(description: Any) -> Any:
    """Returns a network's {"name", "args"} with the published dtype in place of fp8, in which weights may be stored but
    nothing but the large products is computed."""
    args = description.get("args") if isinstance(description, dict) else None
    if not isinstance(args, dict) or not str(args.get("dtype")).startswith("float8"):
        return description
    return description | {"args": args | {"dtype": "bfloat16" if "num_heads" in args else "float16"}}
