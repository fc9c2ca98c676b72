"""The rows of a PLY against the counts of its header."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

NAMES = {
    "i1": ("char", "int8"),
    "u1": ("uchar", "uint8"),
    "i2": ("short", "int16"),
    "u2": ("ushort", "uint16"),
    "i4": ("int", "int32"),
    "u4": ("uint", "uint32"),
    "f4": ("float", "float32"),
    "i8": ("int64", "int64"),
    "u8": ("uint64", "uint64"),
    "f2": ("float16", "float16"),
    "f8": ("double", "float64"),
}
TYPES = {name: code for code, names in NAMES.items() for name in names}


@dataclass(frozen=True)
class Element:
    """An element of a PLY.  line: of the header, that declares it.
    properties: (name, type) or (name, type of its count, type)."""

    name: str
    count: int
    line: int
    properties: list[tuple[str, ...]] = field(default_factory=list)


def whole_text(elements: list[Element], body: bytes) -> bytes:
    """Returns the rows of a text PLY, a line each, without blank lines. Raises ValueError if rows are missing, or the
    last one of an element is shorter than its first."""
    if any(element.count and not element.properties for element in elements):
        return body  # its rows are blank lines
    lines = [line for line in body.splitlines() if line.strip()]
    start = 0
    for element in elements:
        rows = len(lines) - start
        if rows < element.count:
            raise _cut(element, max(rows, 0))
        if element.count > 1:
            first, last = lines[start], lines[start + element.count - 1]
            # Some programs write fewer values than they declare, in all rows.
            if not _is_full(element, last) and _is_full(element, first):
                raise _cut(element, element.count - 1)
        start += element.count
    return b"\n".join(lines) + b"\n"


def _is_full(element: Element, line: bytes) -> bool:
    """Whether a row of text has a value for each property."""
    words, needed = line.split(), 0
    for row in element.properties:
        if len(row) > 2 and needed < len(words):
            needed += int(float(words[needed]))
        needed += 1
    return len(words) >= needed


def _cut(element: Element, rows: int) -> ValueError:
    return ValueError(
        f"expected {element.count:,} rows of the element {element.name!r:.40}, as its header says, got {rows:,}: the "
        "file is cut short; copy or export it again"
    )


def whole_binary(lines: list[str], elements: list[Element], body: bytes, order: str) -> tuple[list[str], bytes]:
    """Returns the lines of the header and the rows of a binary PLY; faces of several sizes become triangles, which
    trimesh wants of one. order: "<" or ">". Raises ValueError if rows are missing."""
    lines, parts, start = list(lines), [], 0
    for element in elements:
        if any(kind not in TYPES for _, *kinds in element.properties for kind in kinds):
            break  # trimesh says so
        kinds = [tuple(np.dtype(order + TYPES[kind]) for kind in row[1:]) for row in element.properties]
        stop = _end_of_equal_rows(element, kinds, body, start)
        if stop is None:
            offsets, lengths, stop = _walked(element, kinds, body, start)
            if element.name == "face":
                triangles = _triangles(element, kinds, body, offsets, lengths)
                _declare(lines, element, len(triangles))
                parts.append(triangles.tobytes())
                start = stop
        parts.append(body[start:stop])
        start = stop
    return lines, b"".join([*parts, body[start:]])


def _end_of_equal_rows(element: Element, kinds: list[tuple[np.dtype, ...]], body: bytes, start: int) -> int | None:
    """Where the rows of an element end, if all have the size of the first; else None."""
    counts: list[tuple[int, np.dtype, int]] = []
    size = 0
    for kind in kinds if element.count else ():
        length = 1
        if len(kind) == 2:
            if start + size + kind[0].itemsize > len(body):
                raise _cut(element, 0)
            length = int(np.frombuffer(body, kind[0], 1, start + size)[0])
            counts.append((start + size, kind[0], length))
            size += kind[0].itemsize
        size += max(length, 0) * kind[-1].itemsize
    stop = start + size * element.count
    if stop > len(body):
        if counts:
            return None
        raise _cut(element, (len(body) - start) // size)
    for offset, kind, length in counts:
        if (np.ndarray((element.count,), kind, body, offset, (size,)) != length).any() or length < 0:
            return None
    return stop


def _walked(
    element: Element, kinds: list[tuple[np.dtype, ...]], body: bytes, start: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The offset in `body` and the length of each property of each row, [N, P] int64 both, and where the rows end."""
    offsets: list[int] = []
    lengths: list[int] = []
    for row in range(element.count):
        for kind in kinds:
            length = 1
            if len(kind) == 2:
                if start + kind[0].itemsize > len(body):
                    raise _cut(element, row)
                length = int(np.frombuffer(body, kind[0], 1, start)[0])
                if length < 0:
                    raise ValueError(f"expected lists of 0 or more values, got {length} in {element.name!r:.40}")
                start += kind[0].itemsize
            offsets.append(start)
            lengths.append(length)
            start += length * kind[-1].itemsize
        if start > len(body):
            raise _cut(element, row)
    shape = (element.count, len(kinds))
    return np.array(offsets, np.int64).reshape(shape), np.array(lengths, np.int64).reshape(shape), start


def _triangles(
    element: Element, kinds: list[tuple[np.dtype, ...]], body: bytes, offsets: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """The rows of polygons as those of the triangles of a fan each; other properties are repeated."""
    polygons = [place for place, kind in enumerate(kinds) if len(kind) == 2]
    if len(polygons) > 1:
        raise ValueError("expected faces of one size beside further lists; triangulate the mesh before it is exported")
    count = (lengths[:, polygons[0]] - 2).clip(0)
    rows = np.repeat(np.arange(len(count)), count)
    step = np.arange(len(rows)) - np.repeat(count.cumsum() - count, count)
    data = np.frombuffer(body, np.uint8)

    def values(place: int, index: np.ndarray | int) -> np.ndarray:
        kind = kinds[place][-1]
        first = offsets[rows, place] + index * kind.itemsize
        return data[first[:, None] + np.arange(kind.itemsize)].view(kind)[:, 0]

    fields: list[tuple] = []
    for place, kind in enumerate(kinds):
        lists = len(kind) == 2
        fields += [("count", "u1"), ("corners", kind[1], 3)] if lists else [(f"value {place}", kind[0])]
    table = np.zeros(len(rows), fields)
    for place, kind in enumerate(kinds):
        if len(kind) == 2:
            table["count"] = 3
            table["corners"] = np.stack([values(place, index) for index in (0, step + 1, step + 2)], 1)
        else:
            table[f"value {place}"] = values(place, 0)
    return table


def _declare(lines: list[str], element: Element, count: int) -> None:
    """Declares `count` triangles in place of the polygons of an element."""
    lines[element.line] = f"element {element.name} {count}"
    (listed,) = (row for row in element.properties if len(row) == 3)
    rows = range(element.line + 1, len(lines))
    place = next(row for row in rows if lines[row].split()[:2] == ["property", "list"])
    lines[place] = f"property list uchar {listed[2]} {listed[0]}"
