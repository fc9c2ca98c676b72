"""Makes OBJ, MTL, PLY and STL files readable for trimesh: text encodings, and triangle strips of a PLY."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

import numpy as np

PLY_NAMES = {
    "i1": ("char", "int8"),
    "u1": ("uchar", "uint8"),
    "i2": ("short", "int16"),
    "u2": ("ushort", "uint16"),
    "i4": ("int", "int32"),
    "u4": ("uint", "uint32"),
    "f4": ("float", "float32"),
    "f8": ("double", "float64"),
}
PLY_TYPES = {name: code for code, names in PLY_NAMES.items() for name in names}
# Ends a strip of a PLY and begins another.
RESTART = -1


def utf8(content: bytes) -> bytes:
    """Returns text as UTF-8 without a mark: from UTF-16 and UTF-32 by their marks, else from Latin-1 if it is no UTF-8,
    so that names still match between files."""
    marks = {
        "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
        "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
        "utf-8-sig": (codecs.BOM_UTF8,),
    }
    for encoding, starts in marks.items():
        if content.startswith(starts):
            return content.decode(encoding).encode()
    try:
        content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1").encode()
    return content


def utf8_stl(content: bytes) -> bytes:
    """Returns a text STL as UTF-8; a binary one, which is as long as its count says, unchanged."""
    if len(content) >= 84 and 84 + 50 * int.from_bytes(content[80:84], "little") == len(content):
        return content
    return utf8(content) if b"facet" in content else content


@dataclass(frozen=True)
class _Element:
    """An element of a PLY.  properties: (name, type) or (name, type of its count, type)."""

    name: str
    count: int
    properties: list[tuple[str, ...]] = field(default_factory=list)


def plain_ply(content: bytes) -> bytes:
    """Returns a PLY with a header in ASCII, lines ended as trimesh reads them, and its strips as triangles.

    Strips follow VRIP's convention: element `tristrips`, -1 between strips. Raises ValueError for a malformed one.
    """
    end = content.find(b"end_header")
    stop = content.find(b"\n", end)
    if end < 0 or stop < 0:
        return content
    lines = content[:end].decode("latin-1").splitlines()
    header = "\n".join([*lines, "end_header", ""]).encode("ascii", "replace")
    body = content[stop + 1 :]
    elements = _elements(lines)
    if "tristrips" not in [element.name for element in elements]:
        return header + body
    return _without_strips(lines, elements, body)


def _elements(lines: list[str]) -> list[_Element]:
    elements: list[_Element] = []
    for line in lines:
        words = line.split()
        if words[:1] == ["element"] and len(words) == 3 and words[2].isdigit():
            elements.append(_Element(words[1], int(words[2])))
        elif words[:1] == ["property"] and elements and len(words) in (3, 5):
            kinds = words[2:4] if words[1] == "list" else words[1:2]
            elements[-1].properties.append((words[-1], *kinds))
    return elements


def _without_strips(lines: list[str], elements: list[_Element], body: bytes) -> bytes:
    """The file of the elements before the strips, and the strips' triangles."""
    row = [element.name for element in elements].index("tristrips")
    ascii_text = any(line.split()[:2] == ["format", "ascii"] for line in lines)
    order = ">" if any("big_endian" in line for line in lines) else "<"
    before, strips = elements[:row], elements[row]
    if any(len(p) != 2 or p[1] not in PLY_TYPES for e in before for p in e.properties):
        raise ValueError("tristrips: expected elements without lists before them")
    if len(strips.properties) != 1 or len(strips.properties[0]) != 3:
        raise ValueError("tristrips: expected one list of vertex indices")
    kept = lines[: next(i for i, line in enumerate(lines) if line.split()[:2] == ["element", "tristrips"])]
    if ascii_text:
        words = np.array(body.split(), "S")
        size = sum(element.count * len(element.properties) for element in before)
        faces = _strip_faces(words[size:].astype(np.float64).astype(np.int64), strips.count)
        start = b"\n".join(body.splitlines()[: sum(element.count for element in before)]) + b"\n"
        tail = "\n".join(f"3 {a} {b} {c}" for a, b, c in faces.tolist()).encode() + b"\n"
    else:
        sizes = [e.count * sum(int(PLY_TYPES[p[1]][1]) for p in e.properties) for e in before]
        start, rest = body[: sum(sizes)], body[sum(sizes) :]
        _, count_type, type_ = strips.properties[0]
        faces = _strip_faces(_lists(rest, strips.count, order + PLY_TYPES[count_type], order + PLY_TYPES[type_]), 0)
        table = np.zeros(len(faces), [("count", "u1"), ("corners", f"{order}i4", 3)])
        table["count"], table["corners"] = 3, faces
        tail = table.tobytes()
    kept += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    return "\n".join(kept).encode("ascii", "replace") + start + tail


def _lists(data: bytes, count: int, count_type: str, type_: str) -> np.ndarray:
    """Reads `count` binary lists to one array int64 with RESTART between them."""
    parts, position = [], 0
    for _ in range(count):
        head = np.frombuffer(data, count_type, 1, position)
        position += head.nbytes
        values = np.frombuffer(data, type_, int(head[0]), position)
        position += values.nbytes
        parts += [values.astype(np.int64), np.array([RESTART])]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _strip_faces(values: np.ndarray, lists: int) -> np.ndarray:
    """Returns the triangles [F, 3] int64 of strips that RESTART separates. lists: how many counts stand between."""
    if lists:
        parts, position = [], 0
        for _ in range(lists):
            size = int(values[position])
            parts += [values[position + 1 : position + 1 + size], np.array([RESTART])]
            position += 1 + size
        values = np.concatenate(parts)
    faces = np.stack([values[:-2], values[1:-1], values[2:]], 1)
    # The place of each triangle in its strip; odd ones are turned.
    ends = np.flatnonzero(values == RESTART)
    begun = np.concatenate([[0], ends + 1])
    place = np.arange(len(faces)) - begun[np.searchsorted(begun, np.arange(len(faces)), side="right") - 1]
    odd = place % 2 == 1
    faces[odd] = faces[odd][:, [1, 0, 2]]
    a, b, c = faces.T
    return faces[(faces != RESTART).all(1) & (a != b) & (b != c) & (c != a)]
