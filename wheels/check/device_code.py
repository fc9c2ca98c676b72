"""Which GPUs the device code of a library was compiled for, read from the headers of its fat binaries.

NVIDIA's container: magic 0xBA55ED50, version 1, then one entry for each architecture: a cubin, which runs on cards of
its major compute capability from its minor on, or PTX, which the driver compiles for its own capability and every later
one. A flag marks code for exactly one architecture ("sm_90a") or one family ("sm_100f"). The entries' headers hold all
this, so nothing is decompressed; the layout was checked against nvcc 12 and 13. AMD's is clang's offload bundle, whose
entries have names such as "hipv4-amdgcn-amd-amdhsa--gfx942:xnack-".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .elf import Data

FATBIN = b"\x50\xed\x55\xba"
CONTAINER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes of the entries
ENTRY = struct.Struct(
    "<HHIQIIHHIIIQ"
)  # kind, -, header's and payload's bytes, -, -, minor, major, architecture, -, -, flags
PTX, CUBIN = 1, 2
ONE_ARCHITECTURE, ONE_FAMILY = 0x100000, 0x200000
ARCHITECTURES = range(20, 1000)

BUNDLE = b"__CLANG_OFFLOAD_BUNDLE__"
COMPRESSED_BUNDLE = b"CCOB"
GFX = re.compile(rb"amdhsa--(gfx[0-9a-f]+(?:-[a-z0-9-]+)?)")
LONGEST_TRIPLE = 256


@dataclass(frozen=True, order=True)
class Target:
    """What one piece of device code was compiled for: compute capability times ten, `kind` "" or "a" or "f"."""

    architecture: int
    kind: str = ""
    ptx: bool = False

    def __str__(self) -> str:
        return f"{'compute' if self.ptx else 'sm'}_{self.architecture}{self.kind}"

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """True if a card of `capability` runs it, PTX after the driver has compiled it."""
        card = capability[0] * 10 + capability[1]
        if self.kind == "a":
            return card == self.architecture
        if self.ptx and not self.kind:
            return card >= self.architecture
        return card // 10 == self.architecture // 10 and card >= self.architecture


def cuda_modules(data: Data, parts: Iterable[tuple[int, int]] | None = None) -> list[frozenset[Target]]:
    """Returns the targets of each fat binary in `data`, within `parts` (offset, size) if given. Empty: no device code.

    Raises ValueError if a container is cut off.
    """
    return [targets for start, end in _spans(data, parts) for targets in _containers(data, start, end)]


def _spans(data: Data, parts: Iterable[tuple[int, int]] | None) -> list[tuple[int, int]]:
    return [(0, len(data))] if parts is None else [(offset, offset + size) for offset, size in parts]


def _containers(data: Data, start: int, end: int) -> Iterator[frozenset[Target]]:
    place = start
    while (place := data.find(FATBIN, place, end)) >= 0:
        if end - place < CONTAINER.size:
            return
        _, version, header, size = CONTAINER.unpack_from(data, place)
        if version != 1 or header != CONTAINER.size or not 0 < size < 1 << 40:
            place += 4  # the four bytes occurred by chance
            continue
        if place + header + size > end:
            raise ValueError(f"truncated: device code ends at byte {place + header + size} of {end}")
        yield frozenset(_entries(data, place + header, place + header + size))
        place += header + size


def _entries(data: Data, place: int, end: int) -> Iterator[Target]:
    while end - place >= ENTRY.size:
        kind, _, header, size, _, _, _, _, architecture, _, _, flags = ENTRY.unpack_from(data, place)
        if header < ENTRY.size or header + size > end - place:
            return
        if kind in (PTX, CUBIN) and architecture in ARCHITECTURES:
            suffix = "a" if flags & ONE_ARCHITECTURE else "f" if flags & ONE_FAMILY else ""
            yield Target(architecture, suffix, kind == PTX)
        place += header + size


def rocm_targets(data: Data, parts: Iterable[tuple[int, int]]) -> frozenset[str] | None:
    """Returns the AMD architectures ("gfx942") of the offload bundles in `parts`. None: bundles that are compressed."""
    found: set[str] = set()
    compressed = False
    for start, end in _spans(data, parts):
        compressed |= data.find(COMPRESSED_BUNDLE, start, end) >= 0
        place = start
        while (place := data.find(BUNDLE, place, end)) >= 0:
            place += len(BUNDLE)
            found.update(_triples(data, place, end))
    return None if compressed and not found else frozenset(found)


def _triples(data: Data, place: int, end: int) -> Iterator[str]:
    if end - place < 8:
        return
    (count,) = struct.unpack_from("<Q", data, place)
    place += 8
    for _ in range(min(count, (end - place) // 24)):
        if end - place < 24:
            return
        length = struct.unpack_from("<QQQ", data, place)[2]
        if length > min(LONGEST_TRIPLE, end - place - 24):
            return
        if match := GFX.search(bytes(data[place + 24 : place + 24 + length])):
            found = match[1].decode()
            yield found
        place += 24 + length
