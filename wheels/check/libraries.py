"""Which file the loader would take for the name of a library, in a process that has imported torch."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterable, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path

from .elf import ElfError, ElfFile

CACHE = Path("/etc/ld.so.cache")
CACHE_MAGIC = b"glibc-ld.so.cache1.1"
CACHE_HEADER, CACHE_ENTRY = struct.Struct("<20sIIB3xI12x"), struct.Struct("<iIIIQ")
SYSTEM_FOLDERS = ("/lib64", "/usr/lib64", "/lib/{}", "/usr/lib/{}", "/lib", "/usr/lib", "/usr/local/lib")


def map_file(path: Path) -> mmap:
    """Returns a read-only memory map of `path`. Raises OSError, and ValueError if it is empty."""
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ)


class Libraries:
    """The libraries of a machine. `folders` are searched in their order, then `cache` (name to files), the loader's."""

    def __init__(self, folders: Iterable[Path], cache: Iterable[tuple[str, str]] = (), machine: str = "x86_64") -> None:
        self.folders = tuple(folders)
        self.machine = machine
        self._cache: dict[str, list[Path]] = {}
        for name, path in cache:
            self._cache.setdefault(name, []).append(Path(path))
        self._found: dict[str, ElfFile | None] = {}
        self._paths: dict[str, Path] = {}

    def find(self, name: str) -> ElfFile | None:
        """Returns the library that the loader takes for `name`, or None. One for another processor is passed over."""
        if name not in self._found:
            self._found[name] = self._search(name)
        return self._found[name]

    def path(self, name: str) -> Path | None:
        """Returns where `find` found it."""
        return self._paths.get(name) if self.find(name) else None

    def _search(self, name: str) -> ElfFile | None:
        for path in [*(folder / name for folder in self.folders), *self._cache.get(name, ())]:
            try:
                library = ElfFile(map_file(path))
            except (OSError, ValueError):
                continue
            if library.kind.machine == self.machine:
                self._paths[name] = path
                return library
        return None

    def matching(self, folder: Path, pattern: str) -> list[ElfFile]:
        """Returns the readable libraries of `folder` whose names match the glob `pattern`."""
        found = []
        for path in sorted(folder.glob(pattern)):
            try:
                found.append(ElfFile(map_file(path)))
            except (OSError, ValueError):
                continue
        return found


def loader_folders(site: Path, prefix: Path, machine: str) -> list[Path]:
    """Returns where libraries lie that a process with torch has loaded already or finds, nearest first.

    A conda Python has its own lib folder in its RPATH, so its libstdc++ is the one of the process. The loader knows
    what is loaded by name, so torch's and NVIDIA's wheels come next; then LD_LIBRARY_PATH and the system's folders.
    """
    conda = [prefix / "lib"] if (prefix / "conda-meta").is_dir() else []
    wheels = [site / "torch" / "lib", *sorted(site.glob("nvidia/*/lib")), *sorted(site.glob("nvidia/*/*/lib"))]
    told = os.environ.get("LD_LIBRARY_PATH", "")  # noqa: TID251 the loader reads it, so its search is not known without
    system = [Path(folder.format(f"{machine}-linux-gnu")) for folder in SYSTEM_FOLDERS]
    return [
        *conda,
        *wheels,
        *(Path(folder) for folder in told.split(":") if folder),
        Path(sys.base_prefix, "lib"),
        *system,
    ]


def read_cache(path: Path = CACHE) -> list[tuple[str, str]]:
    """Returns (name, file) of the loader's cache, in its order; nothing if it is absent or of another format."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    start = data.find(CACHE_MAGIC)
    if start < 0 or len(data) < start + CACHE_HEADER.size:
        return []
    count = CACHE_HEADER.unpack_from(data, start)[1]
    found = []
    for i in range(min(count, (len(data) - start - CACHE_HEADER.size) // CACHE_ENTRY.size)):
        _, name, file, _, _ = CACHE_ENTRY.unpack_from(data, start + CACHE_HEADER.size + i * CACHE_ENTRY.size)
        found.append((_string(data, start + name), _string(data, start + file)))
    return found


def _string(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset, offset + 4096)
    return data[offset:end].decode("utf-8", "replace") if end >= 0 else ""


def uses_cxx11_abi(torch_library: ElfFile) -> bool | None:
    """Whether a library of torch was built with the C++11 ABI of std::string; None if no name of it tells."""
    names = torch_library.defined()
    if any("__cxx11" in name for name in names):
        return True
    return False if any("RKSs" in name for name in names) else None


def offers(libraries: Sequence[ElfFile], symbol: str) -> bool:
    """True if one of `libraries` defines `symbol`."""
    for library in libraries:
        try:
            if library.defines(symbol):
                return True
        except ElfError:
            continue
    return False
