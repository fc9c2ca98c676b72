"""The rows of a batch: the pictures of a folder, or of a CSV file whose columns replace settings row by row.

Standard library only, so that the command line can list its choices without torch.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# What a row's `resolution` says -> pipeline type.
RESOLUTIONS = {"512": "512", "1024": "1024_cascade", "1536": "1536_cascade", "2048": "2048_cascade"}
TYPES = ("512", "1024", "1024_cascade", "1536_cascade", "2048_cascade")
# Names of the command line -> those of `image.cut_out`, which are good too.
BACKGROUNDS = {"auto": "auto", "plain": "plain background", "rembg": "rembg", "none": "alpha or mask only"}
SAMPLERS = ("euler", "heun", "rk4")
PRESETS = ("preview", "game low", "game high", "film", "3D print")
SURFACES = ("auto", "cleaned", "hidden removed", "remeshed", "outer shell")
FORMATS = ("glb", "obj", "ply", "stl")
LONGEST_TABLE = 64 << 20  # bytes: some hundred thousand rows
MOST_TOKENS, MOST_STEPS, MOST_FACES, LARGEST_TEXTURE = 1 << 20, 200, 20_000_000, 16_384
MOST_FOV = 170.0  # degrees
# A file name that every system takes, without folders.
PLAIN = re.compile(r"[^\x00-\x1f/\\:*?\"<>|]{1,200}")


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """Settings of one object; a CSV file's columns have these names.

    seed: of the starting noise.  background: what is cut out, see `image.cut_out`.  pipeline_type, steps, max_tokens,
    step_cache: see `Pipeline.sample`.  sampler: integrator.  fov: degrees, of checkpoints that project; None: 49.13.
    preset: of `make_asset`, None for the decoded surface with vertex colours.  faces, texture_size, surface: in place
    of the preset's.  project_picture: the picture's own detail on the texture.  format: one of FORMATS.
    """

    seed: int = 42
    background: str = "auto"
    pipeline_type: str | None = None
    steps: int | None = None
    max_tokens: int | None = None
    step_cache: bool = False
    sampler: str = "euler"
    fov: float | None = None
    preset: str | None = None
    faces: int | None = None
    texture_size: int | None = None
    surface: str | None = None
    project_picture: bool = False
    format: str = "glb"

    def __post_init__(self) -> None:
        if self.step_cache and self.sampler != "euler":
            raise ValueError(f"step_cache: expected sampler euler, got {self.sampler}; leave one of them out")
        if self.project_picture and self.preset is None:
            raise ValueError("project_picture: expected a preset too, since only finished assets have textures")

    def given(self) -> dict[str, object]:
        """Returns those that differ from the defaults, and the seed, by name."""
        plain = RowOptions()
        names = [field.name for field in fields(self)]
        return {name: getattr(self, name) for name in names if name == "seed" or self._differs(plain, name)}

    def _differs(self, plain: RowOptions, name: str) -> bool:
        return getattr(self, name) != getattr(plain, name)


@dataclass(frozen=True)
class Row:
    """One object to make. name: of its file, without suffix.  problem: why it cannot be made, found while reading."""

    name: str
    image: Path
    options: RowOptions
    problem: str = ""

    @property
    def file(self) -> str:
        """Name of the file that it becomes."""
        return f"{self.name}.{self.options.format}"


def read_rows(source: Path, options: RowOptions, allowed: Callable[[Path], bool] | None = None) -> list[Row]:
    """Returns the pictures of a folder in the order of their names, or the rows of a CSV file, each with its own name.

    A CSV file has a column `image`, of files relative to it, and may have `name`, `seed`, `resolution` and the names of
    `RowOptions`; an empty cell keeps `options`. Commas or semicolons separate. A wrong cell is the row's `problem`.
    allowed: whether a picture may be read at all.
    Raises ValueError for a source without rows, or a table with an unknown or without the needed column.
    """
    if source.is_dir():
        found = sorted(path for path in source.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
        rows = [Row(path.stem, path, options) for path in found if not path.name.startswith(".")]
        if not rows:
            raise ValueError(f"{source}: expected pictures ({', '.join(PICTURES)}) in this folder, got none")
    elif source.suffix.lower() == ".csv" and source.is_file():
        rows = _table(source, options)
    else:
        raise ValueError(f"{source}: expected a folder of pictures, or a .csv file with a column image")
    if allowed is not None:
        outside = "expected a picture in ComfyUI's folders; other places are closed to graphs"
        rows = [row if row.problem or allowed(row.image) else replace(row, problem=outside) for row in rows]
    return _named_apart(rows)


def _table(source: Path, options: RowOptions) -> list[Row]:
    if source.stat().st_size > LONGEST_TABLE:
        raise ValueError(f"{source}: expected a table of at most {LONGEST_TABLE >> 20} MiB; divide it")
    try:
        text = source.read_text(encoding="utf-8-sig")
        head = text.partition("\n")[0]
        separator = ";" if head.count(";") > head.count(",") else ","
        reader = csv.DictReader(text.splitlines(), delimiter=separator, restkey="", restval="")
        columns = [(column or "").strip().lower() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        lines = [line for line in reader if any(isinstance(cell, str) and cell.strip() for cell in line.values())]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: expected a table as text (UTF-8): {error}") from error
    known = {"image", "name", *PARSERS}
    unknown = [column for column in columns if column and column not in known]
    if "image" not in columns or unknown:
        wanted = f"unknown columns {unknown}" if "image" in columns else f"columns {columns} without image"
        raise ValueError(f"{source}: expected the columns image and any of {', '.join(sorted(known))}; got {wanted}")
    if not lines:
        raise ValueError(f"{source}: expected a row for each picture, got none")
    return [_row(source.parent, line, options) for line in lines]


def _row(folder: Path, line: Mapping[str, str], options: RowOptions) -> Row:
    cells = {name: (cell or "").strip() for name, cell in line.items() if name and isinstance(cell, str)}
    image, name = cells.pop("image"), cells.pop("name", "")
    path = folder / image
    name = name or Path(image.replace("\\", "/")).stem or "unnamed"
    problem = "" if image else "image: expected a file name, got an empty cell"
    if not PLAIN.fullmatch(name) or name.startswith("."):
        name, problem = "unnamed", f"name: expected a file name without folders, got {name!r}"
    changes = {}
    for column, cell in cells.items():
        if cell:
            try:
                field = "pipeline_type" if column == "resolution" else column
                changes[field] = PARSERS[column](cell)
            except ValueError as error:
                problem = f"{column}: expected {error}, got {cell!r}"
    try:
        return Row(name, path, replace(options, **changes), problem)
    except ValueError as error:
        return Row(name, path, options, str(error))


def _named_apart(rows: Sequence[Row]) -> list[Row]:
    """Gives rows of one name, whatever the case, names of their own: the picture's suffix is added, then a number."""
    stems = Counter(row.file.lower() for row in rows)
    taken: set[str] = set()
    made = []
    for row in rows:
        if stems[row.file.lower()] > 1 and row.name == row.image.stem:
            row = replace(row, name=f"{row.name}_{row.image.suffix[1:].lower()}")
        base, number = row.name, 1
        while row.file.lower() in taken:
            number += 1
            row = replace(row, name=f"{base}_{number}")
        taken.add(row.file.lower())
        made.append(row)
    return made


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        wanted = f"a whole number from {least} to {most}"
        try:
            value = int(text)
        except ValueError:
            raise ValueError(wanted) from None
        if not least <= value <= most:
            raise ValueError(wanted)
        return value

    return parse


def _angle(text: str) -> float:
    wanted = f"an angle from 1 to {MOST_FOV:g} degrees"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(wanted) from None
    if not 1 <= value <= MOST_FOV:
        raise ValueError(wanted)
    return value


def _choice(*choices: str, other: Mapping[str, str] | None = None) -> Callable[[str], str]:
    names = {choice.lower(): choice for choice in choices} | dict(other or {})

    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return names[text.lower()]

    return parse


def _flag(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("yes or no")
    return words[text.lower()]


# Column of a table -> what its cells mean.
PARSERS: Mapping[str, Callable[[str], object]] = {
    "seed": _whole(0, 2**64 - 1),
    "background": _choice(*BACKGROUNDS.values(), other=BACKGROUNDS),
    "resolution": _choice(other=RESOLUTIONS),
    "pipeline_type": _choice(*TYPES),
    "steps": _whole(1, MOST_STEPS),
    "max_tokens": _whole(1024, MOST_TOKENS),
    "step_cache": _flag,
    "sampler": _choice(*SAMPLERS),
    "fov": _angle,
    "preset": _choice(*PRESETS),
    "faces": _whole(1, MOST_FACES),
    "texture_size": _whole(0, LARGEST_TEXTURE),
    "surface": _choice(*SURFACES),
    "project_picture": _flag,
    "format": _choice(*FORMATS),
}
