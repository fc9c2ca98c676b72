"""Reads what a loader needs of a shared library for Linux: the libraries, versions and symbols that it wants and
offers.

The format is that of the System V ABI's "Object Files" and of the Linux Standard Base's "Symbol Versioning" and GNU
hash tables. The dynamic segment is read, as the loader does; the section table, which may be stripped, only for what no
segment holds. Every offset is checked and every walk bounded by the size of the file, so that a malformed file ends in
an ElfError within the time of one pass over it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap

Data = bytes | mmap

MAGIC = b"\x7fELF"
MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64le", 22: "s390x"}
LONGEST_NAME = 1 << 16  # bytes; C++ names of templates pass 10,000
MOST_SEGMENTS = 256  # a dozen is usual
LONGEST_CHAIN = 64  # symbols of one bucket; a few are usual

SHARED = 3
LOAD, DYNAMIC = 1, 2
NEEDED, STRTAB, SYMTAB, STRSZ, SONAME, RPATH, RUNPATH, HASH = 1, 5, 6, 10, 14, 15, 29, 4
GNU_HASH, VERDEF, VERDEFNUM, VERNEED, VERNEEDNUM = 0x6FFFFEF5, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
DYNSYM = 11  # a section's type
NO_BITS = 8
WEAK_NEED = 2  # a version's flag: only warned about when absent
LOCAL_BINDING, GLOBAL_BINDING = 0, 1


class ElfError(ValueError):
    """The file is no shared library that can be read; the message says where it is wrong."""


@dataclass(frozen=True)
class Kind:
    """What an ELF file is for: its word size in bits, byte order, processor and type."""

    bits: int
    little: bool
    machine: str
    shared: bool


@dataclass(frozen=True)
class Segment:
    """A part of the file, and the address at which the loader puts it."""

    offset: int
    address: int
    size: int


def kind_of(data: Data) -> Kind:
    """Reads the first 20 bytes. Raises ElfError if they are not those of an ELF file."""
    if data[:4] != MAGIC or len(data) < 20:
        raise ElfError(f"expected an ELF file, got {len(data)} bytes that begin {bytes(data[:4])!r}")
    bits, little = {1: 32, 2: 64}.get(data[4], 0), data[5] == 1
    if not bits or data[5] not in (1, 2):
        raise ElfError(f"expected an ELF class and byte order of 1 or 2, got {data[4]} and {data[5]}")
    kind, machine = struct.unpack_from("<HH" if little else ">HH", data, 16)
    return Kind(bits, little, MACHINES.get(machine, f"machine {machine}"), kind == SHARED)


class ElfFile:
    """A little-endian 64-bit shared library. `data` is its bytes, best a memory map: only what is asked for is read."""

    def __init__(self, data: Data) -> None:
        kind = kind_of(data)
        if kind.bits != 64 or not kind.little:
            raise ElfError(f"expected 64 bits, little-endian, got {kind.bits} bits, {kind.machine}")
        self.kind = kind
        self._data = data
        self._left = 8 * len(data) + (1 << 20)  # bytes of names that may be read: names may share their bytes
        self._steps = len(data) // 8 + 1000  # structures of linked lists that may be read
        self._loads: list[Segment] = []
        self._dynamic: Segment | None = None
        self._read_segments()

    def _unpack(self, layout: str, offset: int) -> tuple:
        if offset < 0 or offset + struct.calcsize(layout) > len(self._data):
            raise ElfError(f"a structure at byte {offset} lies outside the file's {len(self._data)}")
        return struct.unpack_from(layout, self._data, offset)

    def _read_segments(self) -> None:
        start, size, count = (*self._unpack("<Q", 32), *self._unpack("<HH", 54))
        if (count and size < 56) or count > MOST_SEGMENTS:
            raise ElfError(f"expected up to {MOST_SEGMENTS} program headers of 56 bytes, got {count} of {size}")
        for i in range(count):
            kind, _, offset, address, _, length = self._unpack("<IIQQQQ", start + i * size)
            if kind in (LOAD, DYNAMIC) and offset + length > len(self._data):
                raise ElfError(f"truncated: a segment ends at byte {offset + length} of {len(self._data)}")
            if kind == LOAD:
                self._loads.append(Segment(offset, address, length))
            elif kind == DYNAMIC:
                self._dynamic = Segment(offset, address, length)

    def _offset(self, address: int) -> int:
        for load in self._loads:
            if load.address <= address < load.address + load.size:
                return load.offset + address - load.address
        raise ElfError(f"address {address:#x} lies in no loaded segment")

    @cached_property
    def _tags(self) -> dict[int, list[int]]:
        """Tag to values, of the dynamic segment."""
        found: dict[int, list[int]] = {}
        if self._dynamic is None:
            return found
        start, size = self._dynamic.offset, self._dynamic.size - self._dynamic.size % 16
        for tag, value in struct.iter_unpack("<QQ", self._data[start : start + size]):
            if tag == 0:
                break
            found.setdefault(tag, []).append(value)
        return found

    def _tag(self, tag: int) -> int | None:
        values = self._tags.get(tag)
        return values[0] if values else None

    @cached_property
    def _strings(self) -> tuple[int, int]:
        """First byte and end of the dynamic string table."""
        address, size = self._tag(STRTAB), self._tag(STRSZ)
        if address is None or size is None:
            raise ElfError("the dynamic segment names no string table")
        start = self._offset(address)
        if start + size > len(self._data):
            raise ElfError("truncated: the string table ends after the file")
        return start, start + size

    def _name(self, offset: int) -> str:
        start, end = self._strings
        begin = start + offset
        stop = self._data.find(b"\0", begin, min(end, begin + LONGEST_NAME)) if begin < end else -1
        if stop < 0:
            raise ElfError(f"a name at byte {offset} of the string table does not end")
        self._left -= stop - begin
        if self._left < 0:
            raise ElfError("the names together are longer than eight times the file")
        return self._data[begin:stop].decode("utf-8", "replace")

    @cached_property
    def soname(self) -> str | None:
        """The name under which the loader knows the library."""
        offset = self._tag(SONAME)
        return None if offset is None else self._name(offset)

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """Names of the libraries that the loader must find, in their order."""
        return tuple(map(self._name, self._tags.get(NEEDED, ())))

    @cached_property
    def search(self) -> tuple[str, ...]:
        """Folders in which they are looked for first: RUNPATH, else RPATH. "$ORIGIN" is the file's own folder."""
        offset = self._tag(RUNPATH)
        offset = self._tag(RPATH) if offset is None else offset
        return tuple(filter(None, self._name(offset).split(":"))) if offset is not None else ()

    @cached_property
    def version_needs(self) -> dict[str, tuple[str, ...]]:
        """Library to the versions that it must define ("libstdc++.so.6": "GLIBCXX_3.4.32"); weak ones left out."""
        needs: dict[str, tuple[str, ...]] = {}
        for place in self._chain(self._tag(VERNEED), self._tag(VERNEEDNUM), 12):
            _, count, library, first, _ = self._unpack("<HHIII", place)
            names = []
            for entry in self._walk(place + first, count, 12):
                _, flags, _, name, _ = self._unpack("<IHHII", entry)
                if not flags & WEAK_NEED:
                    names.append(self._name(name))
            key = self._name(library)
            needs[key] = needs.get(key, ()) + tuple(names)
        return needs

    @cached_property
    def version_definitions(self) -> frozenset[str]:
        """The versions that the library defines."""
        names = set()
        for place in self._chain(self._tag(VERDEF), self._tag(VERDEFNUM), 16):
            (auxiliary,) = self._unpack("<I", place + 12)
            (name,) = self._unpack("<I", place + auxiliary)
            names.add(self._name(name))
        return frozenset(names)

    def _chain(self, address: int | None, count: int | None, next_at: int) -> Iterator[int]:
        if address is not None:
            yield from self._walk(self._offset(address), count or 0, next_at)

    def _walk(self, place: int, count: int, next_at: int) -> Iterator[int]:
        """Offsets of up to `count` structures, each of which has the distance of the next in its bytes at `next_at`.
        Only forwards, so that a malformed list ends with the file."""
        for _ in range(count):
            self._steps -= 1
            if self._steps < 0:
                raise ElfError("the lists of versions together have more entries than the file has room for")
            (step,) = self._unpack("<I", place + next_at)
            yield place
            if step == 0:
                return
            place += step

    def undefined(self) -> list[str]:
        """Names of the symbols that other libraries must define; weak ones, which may stay absent, left out."""
        return self._symbols(lambda info, section: section == 0 and info >> 4 == GLOBAL_BINDING)

    def defined(self) -> list[str]:
        """Names of the symbols that the library offers."""
        return self._symbols(lambda info, section: section != 0 and info >> 4 != LOCAL_BINDING)

    def _symbols(self, wanted: Callable[[int, int], bool]) -> list[str]:
        address = self._tag(SYMTAB)
        if address is None:
            return []
        start, count = self._offset(address), self._symbol_count()
        if start + 24 * count > len(self._data):
            raise ElfError("truncated: the symbol table ends after the file")
        with memoryview(self._data) as whole, whole[start : start + 24 * count] as table:
            names = [
                name
                for name, info, _, section, _, _ in struct.iter_unpack("<IBBHQQ", table)
                if name and wanted(info, section)
            ]
        return list(map(self._name, names))

    def _symbol_count(self) -> int:
        for kind, _, _, size in self._sections():
            if kind == DYNSYM:
                return size // 24
        if (address := self._tag(HASH)) is not None:
            return self._unpack("<II", self._offset(address))[1]
        return self._count_by_gnu_hash()

    def _count_by_gnu_hash(self) -> int:
        """One after the last symbol of the last chain. Undefined symbols stand before all chains."""
        if self._tag(GNU_HASH) is None:
            raise ElfError("the symbol table has no end: neither a section nor a hash table counts it")
        buckets, first, bucket_at, chain_at = self._gnu_hash[:4]
        last = max((self._unpack("<I", bucket_at + 4 * i)[0] for i in range(buckets)), default=0)
        if last < first:
            return first
        while not self._unpack("<I", chain_at + 4 * (last - first))[0] & 1:
            last += 1
        return last + 1

    @cached_property
    def _gnu_hash(self) -> tuple[int, int, int, int, int, int, int]:
        """Number of buckets, first hashed symbol, offsets of buckets and chains; offset, words, shift of the filter."""
        place = self._offset(self._tag(GNU_HASH) or 0)
        buckets, first, words, shift = self._unpack("<IIII", place)
        bucket_at = place + 16 + 8 * words
        chain_at = bucket_at + 4 * buckets
        if not buckets or not words or chain_at > len(self._data):
            raise ElfError("the GNU hash table lies outside the file")
        return buckets, first, bucket_at, chain_at, place + 16, words, shift

    def defines(self, symbol: str) -> bool:
        """True if the library offers `symbol`, by one look into its GNU hash table. Raises ElfError if it has none."""
        if self._tag(GNU_HASH) is None:
            raise ElfError("expected a GNU hash table of symbols")
        buckets, first, bucket_at, chain_at, filter_at, words, shift = self._gnu_hash
        wanted = symbol.encode()
        value = 5381
        for byte in wanted:
            value = (value * 33 + byte) & 0xFFFFFFFF
        (word,) = self._unpack("<Q", filter_at + 8 * (value // 64 % words))
        if not word >> (value % 64) & word >> ((value >> (shift & 31)) % 64) & 1:
            return False
        (start,) = self._unpack("<I", bucket_at + 4 * (value % buckets))
        symbols, strings = self._offset(self._tag(SYMTAB) or 0), self._strings[0]
        for index in range(start, start + LONGEST_CHAIN if start >= first else start):
            (link,) = self._unpack("<I", chain_at + 4 * (index - first))
            if link | 1 == value | 1:
                name, _, _, section = self._unpack("<IBBH", symbols + 24 * index)
                begin = strings + name
                if section and self._data[begin : begin + len(wanted) + 1] == wanted + b"\0":
                    return True
            if link & 1:
                break
        return False

    def _sections(self) -> Iterator[tuple[int, int, int, int]]:
        """Type, name's offset, offset and size of every section; nothing if the table was stripped."""
        (start,), (size, count) = self._unpack("<Q", 40), self._unpack("<HH", 58)
        if not start or not count:
            return
        if size < 64 or start + size * count > len(self._data):
            raise ElfError(f"truncated: the section table ends at byte {start + size * count} of {len(self._data)}")
        for i in range(count):
            name, kind, _, _, offset, length = self._unpack("<IIQQQQ", start + i * size)
            yield kind, name, offset, length

    def sections(self, *names: str) -> list[tuple[int, int]] | None:
        """Offset and size of each section that has one of `names`. None if the section table was stripped."""
        table = list(self._sections())
        (index,) = self._unpack("<H", 62)
        if not table or index >= len(table):
            return None
        _, _, strings, length = table[index]
        found = []
        for kind, name, offset, size in table:
            if kind == NO_BITS or name >= length:
                continue
            end = self._data.find(b"\0", strings + name, strings + min(length, name + 256))
            if end >= 0 and self._data[strings + name : end].decode("utf-8", "replace") in names:
                if offset + size > len(self._data):
                    raise ElfError(f"truncated: a section ends at byte {offset + size} of {len(self._data)}")
                found.append((offset, size))
        return found
