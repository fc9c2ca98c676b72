"""Whether the loader could load a wheel's libraries: processor, libraries, versions of glibc and libstdc++, torch's
ABI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from mmap import mmap
from pathlib import PurePosixPath

from .elf import MAGIC, Data, ElfError, ElfFile
from .findings import Finding
from .libraries import offers, uses_cxx11_abi
from .machine import Machine
from .pe import PeFile, read_pe

TORCH_LIBRARY = re.compile(r"(lib)?(c10|torch|caffe2)[\w]*\.(so|dll)")
TORCH_SYMBOL = re.compile(
    r"_Z(T[VIST])?(N[KVr]*)?(3c10|2at|5torch|6caffe2)|aoti_torch_|torch_call_dispatcher|torch_library_"
)
CUDA_LIBRARY = re.compile(
    r"(lib)?(cudart|cublas|cublasLt|cudnn\w*|cufft|curand|cusparse\w*|cusolver\w*|nvrtc\w*|nvJitLink|nccl|cufile|cupti)"
    r"(64_|\.so\.)(\d+).*"
)
LIBCXX_REMEDY = (
    "take an older build, or build it here (the recipe in wheels/README.md); or use a newer libstdc++: that of a newer "
    "system or container, or in a conda environment `conda install -c conda-forge libstdcxx-ng`"
)
LIBC_REMEDY = "take an older build, or build it here; glibc comes with the system, so else a newer system or container"
DAMAGED_REMEDY = "delete the wheel and download it again, or take another build"
MOST_SYMBOLS = 8_000  # torch's own bindings want 4,900
WINDOWS_OWN = re.compile(
    r"(api-ms-win-|ext-ms-|kernel32|user32|advapi32|ws2_32|shell32|ole32|oleaut32|gdi32|ntdll|msvcrt)"
)
VARIANT = re.compile(r"_(cpu|cuda|rocm|hip|xpu|mps)(?=[\d.])|\d+")
PYTHON_DLL = re.compile(r"python3(\d+)t?\.dll")


@dataclass(frozen=True, eq=False)
class Library:
    """A binary of the wheel. `elf` or `pe` is what it was read as; `error`: why it could not be."""

    name: PurePosixPath
    data: Data
    elf: ElfFile | None = None
    pe: PeFile | None = None
    error: str | None = None

    @classmethod
    def read(cls, name: PurePosixPath, data: Data) -> Library:
        """Reads `data` as its first bytes say; as neither if it is for macOS. Raises ElfError, PeError."""
        if name.suffix.lower() in (".pyd", ".dll"):
            return cls(name, data, pe=read_pe(data))
        return cls(name, data, elf=ElfFile(data)) if data[:4] == MAGIC else cls(name, data)

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the libraries that the loader must find."""
        return self.elf.needed if self.elf else self.pe.needed if self.pe else ()

    @property
    def links_torch(self) -> bool:
        """True if it needs one of torch's libraries."""
        try:
            return any(TORCH_LIBRARY.match(name) for name in self.needed)
        except ElfError:
            return False

    def close(self) -> None:
        """Lets go of the file, which Windows does not delete before."""
        if isinstance(self.data, mmap):
            self.data.close()


Fault = tuple[str, str, bool]  # reason, remedy, fatal


def judge_elf(libraries: Sequence[Library], machine: Machine, required: Sequence[str]) -> list[Finding]:
    """Compares the libraries for Linux with `machine`. `required`: the wheel's requirements, which may bring a
    library."""
    if not machine.python.platform.startswith("linux"):
        return []
    ours = [library for library in libraries if library.name.suffix.lower() not in (".pyd", ".dll")]
    own = {library.name.name: library for library in ours}
    unmet = _unmet(required, machine)
    faults = {library: _faults(library, own, machine, unmet) for library in ours}
    return _together(ours, own, faults)


def judge_pe(libraries: Sequence[Library], machine: Machine) -> list[Finding]:
    """Compares the libraries for Windows with `machine`: processor, and whether each DLL is found."""
    if not machine.python.platform.startswith("win"):
        return []
    ours = [library for library in libraries if library.name.suffix.lower() in (".pyd", ".dll")]
    own = {library.name.name.lower(): library for library in ours}
    here = {file.name.lower() for folder in machine.dll_folders if folder.is_dir() for file in folder.iterdir()}
    faults = {library: _windows_faults(library, set(own), here, machine) for library in ours}
    return _together(ours, own, faults)


def _together(ours: list[Library], own: dict[str, Library], faults: dict[Library, list[Fault]]) -> list[Finding]:
    """One finding for each fault, with the files that have it. Variants of one library, whose names differ only by
    numbers or by what they are built for, are alternatives: faults of some are remarks if another has none."""
    needed = {name: _own_closure(library, own) for name, library in own.items()}
    roots = [library for library in ours if not any(library in needed[o] for o in own if own[o] is not library)]
    groups: dict[str, list[Library]] = {}
    for library in roots:
        groups.setdefault(VARIANT.sub("", str(library.name)), []).append(library)
    files: dict[Fault, list[str]] = {}
    for members in groups.values():
        inside = {root: [root, *needed[_key(root, own)]] for root in members}
        sound = [root for root, parts in inside.items() if not any(f[2] for part in parts for f in faults[part])]
        for root in members:
            for part in inside[root]:
                for reason, remedy, fatal in faults[part]:
                    seen = files.setdefault((reason, remedy, fatal and not sound), [])
                    if str(part.name) not in seen:
                        seen.append(str(part.name))
    found = []
    for (reason, remedy, fatal), names in files.items():
        where = names[0] + (f" and {len(names) - 1} more" if names[1:] else "")
        found.append(Finding(f"{where}: {reason}", remedy, fatal))
    return found


def _key(library: Library, own: dict[str, Library]) -> str:
    name = library.name.name
    return name if name in own else name.lower()


def _own_closure(library: Library, own: dict[str, Library]) -> list[Library]:
    """The wheel's own libraries that `library` needs, directly or through others."""
    found: list[Library] = []
    queue = [library]
    while queue:
        current = queue.pop()
        try:
            names = current.needed
        except ElfError:
            continue
        for name in names:
            other = own.get(name) or own.get(name.lower())
            if other is not None and other is not library and other not in found:
                found.append(other)
                queue.append(other)
    return found


def _faults(library: Library, own: dict[str, Library], machine: Machine, unmet: Sequence[str]) -> list[Fault]:
    if library.error or library.elf is None:
        return [(library.error or "is no library for Linux", DAMAGED_REMEDY, True)]
    elf = library.elf
    if elf.kind.machine != machine.libraries.machine:
        return [(f"is for {elf.kind.machine}, this machine is {machine.libraries.machine}", DAMAGED_REMEDY, True)]
    try:
        found = [f for name in elf.needed if name not in own for f in _missing(name, machine, unmet)]
        whole = all(name in own or machine.libraries.find(name) for name in elf.needed if TORCH_LIBRARY.match(name))
        found += _version_faults(elf, own, machine)
        return found + (_torch_faults(elf, own, machine) if whole else [])
    except ElfError as error:
        return [(str(error), DAMAGED_REMEDY, True)]


def _missing(name: str, machine: Machine, unmet: Sequence[str]) -> list[Fault]:
    if machine.libraries.find(name) is not None:
        return []
    if CUDA_LIBRARY.fullmatch(name) and unmet:
        return [(f"needs {name}, which should come with {', '.join(unmet)}, not installed yet", "", False)]
    return [(f"needs {name}, which is not on this machine", missing_remedy(name, machine), True)]


def missing_remedy(name: str, machine: Machine) -> str:
    """What to do about a library that was not found."""
    torch = machine.torch
    if TORCH_LIBRARY.match(name):
        if torch is None:
            return "install torch first"
        if re.search("cuda", name) and torch.cuda is None:
            return f"it is built for a torch with CUDA, torch {torch.version} here has none: it serves only beside one"
        if re.search("hip", name) and torch.hip is None:
            return f"it is built for a torch with ROCm, torch {torch.version} here has none"
        return f"it is built for another torch than {torch.version}: choose the build for this one"
    if re.match(r"(lib)?(cuda\.so|nvcuda|nvidia-)", name):
        return "install NVIDIA's driver; a container must be started with the GPUs"
    if match := CUDA_LIBRARY.fullmatch(name):
        what = f"torch here has CUDA {torch.cuda}" if torch and torch.cuda else "torch here has no CUDA"
        number = f" {match[4].removesuffix('0') if len(match[4]) > 2 else match[4]}" if match[2] == "cudart" else ""
        return f"it is built for CUDA{number}, {what}: choose the build for torch's CUDA"
    if re.match(r"lib(amdhip|hip|roc|hsa|MIOpen)", name):
        return "it is built for ROCm: it needs AMD's libraries and a torch with ROCm"
    if re.match(r"libpython", name):
        return "it needs Python as a shared library, which this Python does not have: take another Python or build"
    return "install the package of your system that has it"


def _version_faults(elf: ElfFile, own: dict[str, Library], machine: Machine) -> list[Fault]:
    """The loader compares each wanted version with the definitions of the library that it takes."""
    found: list[Fault] = []
    for name, wanted in elf.version_needs.items():
        bundled = own[name].elf if name in own else None
        provider = bundled or machine.libraries.find(name)
        if provider is None or not provider.version_definitions:
            continue
        lacking = sorted(set(wanted) - provider.version_definitions, key=_numbers)
        for family in sorted({version.rpartition("_")[0] for version in lacking}):
            highest = [version for version in lacking if version.rpartition("_")[0] == family][-1]
            offered = [v for v in provider.version_definitions if v.rpartition("_")[0] == family and _numbers(v)]
            best = max(offered, key=_numbers, default="none of them")
            path = machine.libraries.path(name) if bundled is None else name
            remedy = LIBC_REMEDY if family.startswith("GLIBC_") or family == "GLIBC" else LIBCXX_REMEDY
            found.append((f"needs {highest} of {name}; {path} has up to {best}", remedy, True))
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _torch_faults(elf: ElfFile, own: dict[str, Library], machine: Machine) -> list[Fault]:
    """Looks every symbol of torch that the library wants up in the installed torch's libraries and the wheel's own."""
    if machine.torch is None:
        return []  # its missing libraries say so
    wanted = [symbol for symbol in elf.undefined() if TORCH_SYMBOL.match(symbol)][:MOST_SYMBOLS]
    if not wanted:
        return []
    torch = [
        library
        for pattern in ("libc10*.so", "libtorch*.so")
        for library in machine.libraries.matching(machine.torch.folder, pattern)
    ]
    torch += [library.elf for library in own.values() if library.elf and library.elf is not elf]
    lacking = [symbol for symbol in wanted if not offers(torch, symbol)]
    if not lacking:
        return []
    version = machine.torch.version
    reason = f"wants {len(lacking)} symbols that torch {version} does not have, such as {lacking[0][:120]}"
    c10 = next(iter(machine.libraries.matching(machine.torch.folder, "libc10.so")), None)
    here = uses_cxx11_abi(c10) if c10 else None
    built = True if any("__cxx11" in s for s in wanted) else False if any("RKSs" in s for s in wanted) else None
    if None not in (here, built) and here != built:
        reason += f"; it was built with _GLIBCXX_USE_CXX11_ABI={int(built)}, torch here with {int(here)}"
    return [(reason, f"choose the build for torch {version}, or build it here", True)]


def _unmet(required: Iterable[str], machine: Machine) -> list[str]:
    names = (re.match(r"[A-Za-z0-9._-]+", line.strip()) for line in required)
    nvidia = (re.sub(r"[-_.]+", "-", match[0]).lower() for match in names if match)
    return sorted({name for name in nvidia if name.startswith(("nvidia-", "cuda-")) and name not in machine.versions})


def _windows_faults(library: Library, own: set[str], here: set[str], machine: Machine) -> list[Fault]:
    if library.error or library.pe is None:
        return [(library.error or "is no library for Windows", DAMAGED_REMEDY, True)]
    processor = machine.python.platform.partition("_")[2]
    if library.pe.machine != processor:
        return [(f"is for {library.pe.machine}, this machine is {processor}", DAMAGED_REMEDY, True)]
    found: list[Fault] = []
    for name in map(str.lower, library.pe.needed):
        match = PYTHON_DLL.fullmatch(name)
        if match and int(match[1]) != machine.python.version[1]:
            found.append((f"needs {name}, this is {machine.python}", "choose the build for this Python", True))
        elif not match and name != "python3.dll" and name not in own | here and not WINDOWS_OWN.match(name):
            found.append((f"needs {name}, which is not on this machine", missing_remedy(name, machine), True))
    return found
