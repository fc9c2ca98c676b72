"""The table of a batch's results, results.csv: a line is added when an object is done, and lost by no kill.

A line is one write to the end of the file; a line that a kill cut short is dropped at the next start. At both ends of
a run the table is written anew, in the order of the rows.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ...o_voxel.core.atomic_io import atomic_write
from .rows import Row

TABLE = "results.csv"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table. file: what was made, beside the table.  image: the picture, as the batch found it.
    seconds: of the whole row; prepare_s (cut out; may overlap the row before), sample_s, finish_s (asset and file): of
    its parts.  bytes, triangles: of the file.  error: empty if done.  notes: what was cut out, chosen or left out.
    settings: JSON of all that decides the result.  input_sha256: of the picture.  key: of picture and settings.
    device: where it was made.  finished: when, UTC.
    """

    file: str
    image: str
    seed: int
    status: str
    seconds: float = 0.0
    prepare_s: float = 0.0
    sample_s: float = 0.0
    finish_s: float = 0.0
    bytes: int = 0
    triangles: int = 0
    error: str = ""
    notes: str = ""
    settings: str = ""
    input_sha256: str = ""
    key: str = ""
    device: str = ""
    finished: str = ""


COLUMNS = tuple(field.name for field in fields(Result))
_KINDS = {field.name: {"int": int, "float": float}.get(str(field.type), str) for field in fields(Result)}


def one_line(error: BaseException) -> str:
    """Returns an error's words in one line, with the file of an error of the system, and the type of one that is not
    the user's."""
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f"{error.filename}: "
        return f"{place}{error.strerror}"
    text = " ".join(str(error).split())[:2000]
    if text and isinstance(error, (ValueError, ImportError, MemoryError, OSError)):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def settings_of(row: Row, common: Mapping[str, str]) -> str:
    """Returns all that decides a row's result, as JSON. common: of the whole batch, the checkpoint and how it runs."""
    return json.dumps({**common, **row.options.given()}, sort_keys=True)


def key_of(digest: str, settings: str) -> str:
    """Returns what is the same for the same picture (its SHA-256 `digest`) and settings."""
    return hashlib.sha256(f"{digest} {settings}".encode()).hexdigest()[:32]


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class ResultsTable:
    """The results in a folder, by the names of their files. Made by `opened`."""

    def __init__(self, folder: Path, known: dict[str, Result]) -> None:
        self.folder, self.path, self.known = folder, folder / TABLE, known

    def finished(self, row: Row, common: Mapping[str, str]) -> Result | None:
        """Returns the result of a row that was made of the same picture with the same settings, and whose file is there
        as it was written; else None."""
        result = self.known.get(row.file)
        if result is None or result.status != DONE or row.problem:
            return None
        settings = settings_of(row, common)
        try:
            if settings != result.settings or (self.folder / row.file).stat().st_size != result.bytes:
                return None
            return result if key_of(sha256_of(row.image), settings) == result.key else None
        except OSError:
            return None

    def add(self, result: Result) -> None:
        """Adds a line, on the disk when this returns. Raises OSError."""
        self.known[result.file] = result
        line = io.StringIO()
        _writer(line).writerow(asdict(result))
        with self.path.open("ab") as file:
            file.write(line.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())

    def write(self, order: Sequence[str]) -> None:
        """Writes the table anew, the files of `order` first."""
        place = {name: number for number, name in enumerate(order)}
        results = sorted(self.known.values(), key=lambda result: place.get(result.file, len(place)))
        text = io.StringIO()
        writer = _writer(text)
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)
        content = text.getvalue().encode()
        if not self.path.is_file() or self.path.read_bytes() != content:
            with atomic_write(self.path) as file:
                file.write(content)


@contextmanager
def opened(folder: Path, order: Sequence[str]) -> Iterator[ResultsTable]:
    """Opens the table of a folder, which is made, for one batch at a time. order: names of the rows' files.

    Raises ValueError if another process writes to the folder, or results.csv is something else; OSError.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f".{TABLE}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{folder}: another batch writes to this folder; wait for it, or choose another") from None
    except NotImplementedError:
        pass  # a file system without locks
    try:
        table = ResultsTable(folder, _read(folder / TABLE))
        table.write(order)  # and removes what a kill cut short, as `atomic_write` does
        try:
            yield table
        finally:
            table.write(order)
    finally:
        with suppress(OSError):
            (folder / f".{TABLE}.lock").unlink(missing_ok=True)
        lock.release()


def to_make_again(folder: Path) -> list[str]:
    """Returns what the next run makes again of the table of a folder: files that are not there as they were written,
    and failures, with the times of their last try. Raises ValueError, OSError."""
    known = _read(folder / TABLE)
    gone = (name for name, result in known.items() if result.status == DONE and _size(folder / name) != result.bytes)
    failed = (f"{name} {result.finished}" for name, result in known.items() if result.status == FAILED)
    return sorted([*gone, *failed])


def _size(path: Path) -> int | None:
    """Bytes of a file, None where there is none."""
    return path.stat().st_size if path.is_file() else None


def _writer(file: io.StringIO) -> csv.DictWriter:
    return csv.DictWriter(file, COLUMNS, lineterminator="\n")


def _read(path: Path) -> dict[str, Result]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    whole = content[: content.rfind(b"\n") + 1].decode("utf-8", errors="replace")
    try:
        reader = csv.DictReader(io.StringIO(whole))
        if content and not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{path}: expected the results of a batch, got another table; move it, or choose another -o"
            )
        return {result.file: result for result in _results(reader)}
    except csv.Error as error:
        raise ValueError(f"{path}: expected the results of a batch, got a damaged table: {error}; move it") from error


def _results(lines: Iterable[Mapping[str, str]]) -> Iterator[Result]:
    for line in lines:
        with suppress(ValueError, TypeError):  # a line that somebody edited; its row is made again
            yield Result(**{name: _KINDS[name](line[name]) for name in COLUMNS})
