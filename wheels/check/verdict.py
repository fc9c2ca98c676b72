"""The check before an install: a wheel's files against this machine, with the reason and the remedy for each
obstacle."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

from ..requirements import parse_requirement
from .contents import Library, judge_elf, judge_pe
from .device import judge_device_code
from .elf import ElfError
from .findings import Finding
from .libraries import map_file
from .machine import Machine
from .pe import PeError
from .tags import WheelName, mismatch, parse_name

BINARY = re.compile(r".*\.(?:so(?:\.\d+)*|pyd|dll)", re.IGNORECASE)
LONGEST_METADATA = 4 << 20  # bytes
LARGEST = 64 << 30  # bytes of binaries in one wheel
MOST_LIBRARIES = 2000
CHUNK = 1 << 20
SHOWN = 4  # remarks


@dataclass(frozen=True)
class Verdict:
    """What the check found. `wheel` is None if the file's name is no wheel's."""

    file: Path
    wheel: WheelName | None
    findings: tuple[Finding, ...]

    @property
    def refused(self) -> bool:
        """True if the wheel would not load, or not run."""
        return any(finding.fatal for finding in self.findings)

    def lines(self) -> list[str]:
        """The verdict for a person."""
        first = f"{self.file.name}: {'refused' if self.refused else 'fits this machine'}"
        remarks = [finding for finding in self.findings if not finding.fatal]
        shown = [finding for finding in self.findings if finding.fatal] + remarks[:SHOWN]
        rest = [f"  note: {len(remarks) - SHOWN} more remarks of this kind"] if remarks[SHOWN:] else []
        return [first, *(f"  {line}" for finding in shown for line in finding.lines()), *rest]


def check_wheel(file: Path, machine: Machine) -> Verdict:
    """Compares a wheel with `machine`. Nothing of it is run. Raises OSError if the file cannot be read or unpacked."""
    try:
        name = parse_name(file.name)
    except ValueError as error:
        return Verdict(file, None, (Finding(str(error), "rename nothing: a wheel's name is part of its format"),))
    reason = mismatch(name, machine.python)
    if reason:
        return Verdict(file, name, (Finding(reason, "choose the build for this Python and system"),))
    try:
        return Verdict(file, name, tuple(_findings(file, name, machine)))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, ValueError) as error:
        damaged = Finding(f"is damaged or no wheel: {error}", "delete it and download it again")
        return Verdict(file, name, (damaged,))


def _findings(file: Path, name: WheelName, machine: Machine) -> list[Finding]:
    with zipfile.ZipFile(file) as archive, tempfile.TemporaryDirectory() as folder:
        required = _requirements(archive)
        entries = [entry for entry in archive.infolist() if BINARY.fullmatch(entry.filename)]
        _check_room(entries, Path(folder))
        libraries = [_unpack(archive, entry, Path(folder, f"{i}.bin")) for i, entry in enumerate(entries)]
        try:
            found = judge_elf(libraries, machine, required) + judge_pe(libraries, machine)
            found += judge_device_code(libraries, machine)
            found += _torch_requirement(required, machine, links=any(library.links_torch for library in libraries))
        finally:
            for library in libraries:
                library.close()
    return sorted(found, key=lambda finding: not finding.fatal)


def _check_room(entries: list[zipfile.ZipInfo], folder: Path) -> None:
    """Refuses what would fill the disk, or take minutes, before anything is written."""
    if len(entries) > MOST_LIBRARIES:
        raise ValueError(f"expected up to {MOST_LIBRARIES} libraries, got {len(entries)}")
    needed = sum(entry.file_size for entry in entries)
    if needed > LARGEST:
        raise ValueError(f"its libraries would take {needed / 1e9:.0f} GB")
    if (free := shutil.disk_usage(folder).free) < needed:
        raise OSError(f"{folder}: the check unpacks {needed / 1e9:.1f} GB there, {free / 1e9:.1f} GB are free")


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> Library:
    """Writes one member, whose checksum zipfile compares, and maps it."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{entry.filename}: expected a stored or deflated member")
    with archive.open(entry) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
    if target.stat().st_size == 0:
        return Library(PurePosixPath(entry.filename), b"", None, None, f"{entry.filename} is empty")
    data = map_file(target)
    try:
        return Library.read(PurePosixPath(entry.filename), data)
    except (ElfError, PeError) as error:
        return Library(PurePosixPath(entry.filename), data, None, None, f"{entry.filename}: {error}")


def _requirements(archive: zipfile.ZipFile) -> list[str]:
    """The lines of Requires-Dist, without those of extras."""
    metadata = [entry for entry in archive.infolist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", entry.filename)]
    if len(metadata) != 1 or metadata[0].file_size > LONGEST_METADATA:
        raise ValueError(f"expected one METADATA file of up to {LONGEST_METADATA} bytes, got {len(metadata)}")
    text = archive.read(metadata[0]).decode("utf-8", "replace")
    lines = HeaderParser().parsestr(text, headersonly=True).get_all("Requires-Dist") or []
    return [line for line in lines if "extra" not in line.partition(";")[2]]


def _torch_requirement(required: list[str], machine: Machine, *, links: bool) -> list[Finding]:
    """A wheel that links torch was built for the one that its metadata asks for; another package may be less strict."""
    for line in required:
        try:
            wanted = parse_requirement(re.sub(r"[()]", "", line.partition(";")[0]).strip())
        except ValueError:
            continue
        if wanted.name != "torch":
            continue
        here = machine.torch.version if machine.torch else None
        if here is None or not wanted.allows(here):
            got = f"torch {here} is installed" if here else "torch is not installed"
            return [Finding(f"requires {wanted}; {got}", "choose the build for this torch", fatal=links)]
    return []
