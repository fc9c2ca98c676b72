"""Makes PLY files readable for trimesh: line ends and encoding of the header, triangle strips, polygons of several
sizes; and refuses those that are cut short."""

from __future__ import annotations

import re

import numpy as np

from .ply_rows import TYPES, Element, whole_binary, whole_text

# Ends a strip of a PLY and begins another.
RESTART = -1
FIRST_LINE = re.compile(rb"[^\r\n]*(\r\n|\r|\n)")
LINE_END = re.compile(r"\r\n|\r|\n")


def plain_ply(content: bytes) -> bytes:
    """Returns a PLY with a header in ASCII, lines ended as trimesh reads them, its strips and the polygons of a binary
    one that have several sizes as triangles, and the rows of a text without blank lines.

    Strips follow VRIP's convention: element `tristrips`, -1 between strips. Raises ValueError for a malformed one, and
    where the file has fewer rows than its header says.
    """
    first = FIRST_LINE.match(content)
    end = content.find(b"end_header")
    # Some programs end lines by CR alone; the first byte behind such a header may happen to be an LF.
    newline = b"\r" if first is not None and first[1] == b"\r" else b"\n"
    stop = content.find(newline, end)
    if end < 0 or stop < 0:
        return content
    lines = [line for line in LINE_END.split(content[:end].decode("latin-1")) if line.strip()]
    body = content[stop + 1 :]
    elements = _elements(lines)
    if "tristrips" in [element.name for element in elements]:
        return _without_strips(lines, elements, body)
    if any(line.split()[:2] == ["format", "ascii"] for line in lines):
        body = whole_text(elements, body)
    else:
        lines, body = whole_binary(lines, elements, body, _order(lines))
    return "\n".join([*lines, "end_header", ""]).encode("ascii", "replace") + body


def _order(lines: list[str]) -> str:
    return ">" if any("big_endian" in line for line in lines) else "<"


def _elements(lines: list[str]) -> list[Element]:
    elements: list[Element] = []
    for place, line in enumerate(lines):
        words = line.split()
        if words[:1] == ["element"] and len(words) == 3 and words[2].isdigit():
            elements.append(Element(words[1], int(words[2]), place))
        elif words[:1] == ["property"] and elements and len(words) in (3, 5):
            kinds = words[2:4] if words[1] == "list" else words[1:2]
            elements[-1].properties.append((words[-1], *kinds))
    return elements


def _without_strips(lines: list[str], elements: list[Element], body: bytes) -> bytes:
    """The file of the elements before the strips, and the strips' triangles."""
    row = [element.name for element in elements].index("tristrips")
    ascii_text = any(line.split()[:2] == ["format", "ascii"] for line in lines)
    order = _order(lines)
    before, strips = elements[:row], elements[row]
    if any(len(p) != 2 or p[1] not in TYPES for e in before for p in e.properties):
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
        sizes = [e.count * sum(int(TYPES[p[1]][1]) for p in e.properties) for e in before]
        start, rest = body[: sum(sizes)], body[sum(sizes) :]
        _, count_type, type_ = strips.properties[0]
        faces = _strip_faces(_lists(rest, strips.count, order + TYPES[count_type], order + TYPES[type_]), 0)
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
