"""An install that is whole or undone: what was there is kept until the new one works, also through a kill.

Everything lies in one folder beside the packages: the lock, the files of the installed version, and a journal of what
the wheel adds. The journal is written before pip starts and deleted when the new one works; found at the next start, it
means that an install did not end, and what it says is undone.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .environment import InstallError, Machine, pip, say
from .requirements import canonical

FOLDER = ".trellis2-install"
BUSY = "another install of an accelerator into this Python is running; wait for it to end"


def site_packages() -> Path:
    """Returns the folder that pip installs wheels into."""
    return Path(sysconfig.get_path("platlib"))


@contextlib.contextmanager
def locked(site: Path) -> Iterator[Path]:
    """Yields the folder of the journal, held by this process alone. Raises InstallError if another one holds it.

    The lock is the operating system's, on an open file, so that it ends with the process.
    """
    folder = site / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+b")
    except OSError as error:
        raise InstallError(f"{site} cannot be written to: {error.strerror}; nothing was changed") from error
    try:
        with file:
            if not _lock(file):
                raise InstallError(BUSY)
            yield folder
    finally:
        if not (folder / "journal.json").exists():
            _delete_unless_held(folder)


def _delete_unless_held(folder: Path) -> None:
    """Deletes the folder, but not from under another process."""
    with contextlib.suppress(OSError):
        with (folder / "lock").open("a+b") as file:
            if not _lock(file):
                return
        shutil.rmtree(folder)


def _lock(file: IO[bytes]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def begin(folder: Path, site: Path, name: str, wheel: Path) -> None:
    """Copies the files of the installed `name`, if there is one, and writes the journal. Nothing else changes."""
    kept = folder / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    saved = []
    for i, path in enumerate(_files_of(site, name)):
        shutil.copy2(path, kept / str(i))
        saved.append(str(path))
    with zipfile.ZipFile(wheel) as archive:
        added = [entry for entry in archive.namelist() if not entry.endswith("/")]
    new = folder / "journal.new"
    new.write_text(json.dumps({"name": name, "saved": saved, "added": added}), encoding="utf-8")
    new.replace(folder / "journal.json")


def commit(folder: Path) -> None:
    """Ends the journal: the new one stays."""
    (folder / "journal.json").unlink()
    shutil.rmtree(folder / "kept", ignore_errors=True)


def undo(machine: Machine, folder: Path, site: Path) -> bool:
    """Takes away what the journal's wheel added and puts back what was there. False if there is no journal.

    May itself be killed and repeated: the journal goes last.
    """
    journal = folder / "journal.json"
    if not journal.exists():
        return False
    entry = json.loads(journal.read_text(encoding="utf-8"))
    if distribution(site, entry["name"]) is not None:  # knows scripts too, where its record is whole
        machine.run([*pip(machine), "uninstall", "-q", "-y", entry["name"]])
    _remove(site, entry["added"])
    _remove_aside(site, [*entry["added"], *(os.path.relpath(path, site) for path in entry["saved"])])
    for i, path in enumerate(entry["saved"]):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(folder / "kept" / str(i), path)
    commit(folder)
    importlib.invalidate_caches()
    return True


def recover(machine: Machine, folder: Path, site: Path) -> None:
    """Undoes an install that was killed."""
    if undo(machine, folder, site):
        say("an earlier install was interrupted; what it had changed is as it was before")


def distribution(site: Path, name: str) -> importlib.metadata.Distribution | None:
    """Returns the distribution `name` in `site`."""
    importlib.invalidate_caches()
    for found in importlib.metadata.distributions(path=[str(site)]):
        if found.metadata["Name"] and canonical(found.metadata["Name"]) == canonical(name):
            return found
    return None


def _files_of(site: Path, name: str) -> list[Path]:
    found = distribution(site, name)
    paths = [Path(str(found.locate_file(file))).resolve() for file in found.files or ()] if found else []
    return sorted({path for path in paths if path.is_file()})


def _remove_aside(site: Path, files: list[str]) -> None:
    """Deletes what a killed pip had moved aside: it puts ~ for the first letters of a folder's name."""
    tops = {Path(file).parts[0] for file in files}
    for path in site.glob("~*"):
        rest = path.name.lstrip("~")
        if rest and any(top.endswith(rest) for top in tops):
            shutil.rmtree(path, ignore_errors=True)


def _remove(site: Path, added: list[str]) -> None:
    """Deletes the wheel's files and the folders that they leave empty. A name that leads out of `site` is passed
    over."""
    site = site.resolve()
    folders = set()
    for entry in added:
        path = (site / entry).resolve()
        if site not in path.parents:
            continue
        path.unlink(missing_ok=True)
        folders.update(parent for parent in path.parents if site in parent.parents)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink(missing_ok=True)
    for info in {Path(entry).parts[0] for entry in added if ".dist-info/" in entry}:
        shutil.rmtree(site / info, ignore_errors=True)  # pip adds files of its own to it
    for path in sorted(folders, key=lambda folder: -len(folder.parts)):
        for empty in (path / "__pycache__", path):
            with contextlib.suppress(OSError):
                empty.rmdir()
