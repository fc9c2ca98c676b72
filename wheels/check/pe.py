"""Reads a Windows library: its processor, and the DLLs that the loader must find. The format is Microsoft's "PE
Format".

Every offset is checked and every walk bounded, as in elf.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .elf import Data

MACHINES = {0x14C: "i386", 0x8664: "amd64", 0xAA64: "arm64"}
PE32_PLUS = 0x20B
MOST_DLLS = 4096
LONGEST_NAME = 512


class PeError(ValueError):
    """The file is no Windows library that can be read; the message says where it is wrong."""


@dataclass(frozen=True)
class PeFile:
    """`machine` as in wheels' platform tags; `needed`: DLL names as written; `sections`: name to offset and size."""

    machine: str
    needed: tuple[str, ...]
    sections: dict[str, tuple[int, int]]


def read_pe(data: Data) -> PeFile:
    """Parses a 64-bit DLL. Raises PeError on another file, a 32-bit one, or one that is cut off."""
    if data[:2] != b"MZ":
        raise PeError(f"expected a Windows library, got {len(data)} bytes that begin {bytes(data[:2])!r}")
    (header,) = _unpack(data, "<I", 0x3C)
    signature, machine, count, _, _, _, size, _ = _unpack(data, "<4sHHIIIHH", header)
    if signature != b"PE\0\0":
        raise PeError(f"expected PE at byte {header}, got {signature!r}")
    optional = header + 24
    (magic,) = _unpack(data, "<H", optional)
    if magic != PE32_PLUS:
        raise PeError(f"expected 64 bits, got {MACHINES.get(machine, hex(machine))} with optional header {magic:#x}")
    table = [_unpack(data, "<8sIIII", optional + size + 40 * i) for i in range(count)]
    for name, _, _, raw_size, raw in table:
        if raw + raw_size > len(data):
            raise PeError(f"truncated: section {name!r} ends at byte {raw + raw_size} of {len(data)}")
    (directories,) = _unpack(data, "<I", optional + 108)
    imports = _unpack(data, "<II", optional + 120)[0] if directories > 1 else 0
    needed = _imports(data, table, imports) if imports else ()
    sections = {name.rstrip(b"\0").decode("latin-1"): (raw, raw_size) for name, _, _, raw_size, raw in table}
    return PeFile(MACHINES.get(machine, hex(machine)), needed, sections)


def _unpack(data: Data, layout: str, offset: int) -> tuple:
    if offset + struct.calcsize(layout) > len(data):
        raise PeError(f"truncated: a structure at byte {offset} lies outside the file's {len(data)}")
    return struct.unpack_from(layout, data, offset)


def _imports(data: Data, table: list[tuple], address: int) -> tuple[str, ...]:
    found: list[str] = []
    place = _offset(table, address)
    for i in range(MOST_DLLS):
        name = _unpack(data, "<IIIII", place + 20 * i)[3]
        if name == 0:
            return tuple(found)
        begin = _offset(table, name)
        end = data.find(b"\0", begin, begin + LONGEST_NAME)
        if end < 0:
            raise PeError(f"a DLL's name at byte {begin} does not end")
        found.append(data[begin:end].decode("latin-1"))
    raise PeError(f"expected at most {MOST_DLLS} imported DLLs")


def _offset(table: list[tuple], address: int) -> int:
    for _, size, start, raw_size, raw in table:
        if start <= address < start + max(size, raw_size):
            return raw + address - start
    raise PeError(f"address {address:#x} lies in no section")
