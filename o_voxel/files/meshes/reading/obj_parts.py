"""Which object or group of an OBJ each triangle belongs to.

trimesh joins the faces of each material and makes triangles of them, and says nothing of the objects. It is asked by a
second file with the same lines, whose corners stand for the objects.
"""

from __future__ import annotations

import io
import re

import numpy as np

from ....names import stored_name
from .pieces import Parts

# Lines that begin an object or group: the keyword, then the name.
OBJECT, GROUP = (re.compile(rb"^%b(?:[ \t]+(.*))?$" % keyword, re.M) for keyword in (b"o", b"g"))
# What the second file does not need, or has of its own.
ROWS = re.compile(rb"^(?:v[ntp]?|mtllib)\b.*\n?", re.M)
FACE = re.compile(rb"^f", re.M)
FACES = re.compile(rb"(?:^f.*\n?)+", re.M)
NUMBER = re.compile(rb"-?\d+")
DIGITS = b"0123456789"


def obj_parts(content: bytes) -> Parts:
    """Returns the parts of an OBJ's content, UTF-8: its objects or, without any, its groups, with the part of each
    triangle of each mesh that trimesh makes of it.

    Each line of an object begins a new one; a group goes on where its name comes again. Objects without faces do not
    count. Raises what trimesh raises for a malformed file.
    """
    text = content.replace(b"\r\n", b"\n").replace(b"\\\n", b"")
    begun = list(OBJECT.finditer(text))
    grouped = not begun
    begun = begun or list(GROUP.finditer(text))
    starts = [0, *(match.start() for match in begun)]
    titles = ["", *(stored_name((match[1] or b"").decode(errors="replace").strip()) for match in begun)]
    numbers: dict[object, int] = {}
    names: list[str] = []
    spans: list[tuple[bytes, int]] = []
    for place, (title, start, stop) in enumerate(zip(titles, starts, [*starts[1:], len(text)], strict=True)):
        lines, key = text[start:stop], title if grouped else place
        if FACE.search(lines) and key not in numbers:
            numbers[key] = len(names)
            names.append(title)
        spans.append((lines, numbers.get(key, 0)))
    if len(names) < 2:
        return Parts(tuple(names))
    keywords = [keyword for keyword in (b"v", b"vt", b"vn") if re.search(rb"^%b " % keyword, text, re.M)]
    table = [b"%b %d 0 0\n" % (keyword, number) for keyword in keywords for number in range(len(names))]
    return Parts(tuple(names), _asked(b"".join([*table, *(_pointing(*span) for span in spans)])))


def _pointing(lines: bytes, part: int) -> bytes:
    """The lines of an object with all corners of its faces at the vertex of `part`."""
    corner = b"%d" % (part + 1)

    def run(found: re.Match[bytes]) -> bytes:
        faces = found[0]
        first = faces[: faces.find(b"\n") + 1]
        count = faces.count(b"\n")
        # Most runs have lines of one form; to number each would take most of the time.
        if first and faces.translate(None, DIGITS) == first.translate(None, DIGITS) * count:
            return NUMBER.sub(corner, first) * count
        return NUMBER.sub(corner, faces)

    return FACES.sub(run, ROWS.sub(b"", lines))


def _asked(content: bytes) -> tuple[np.ndarray, ...]:
    """The part of each triangle, [F] int32, of each mesh that trimesh makes of the second file."""
    import trimesh

    scene = trimesh.load_scene(io.BytesIO(content), file_type="obj", process=False, skip_materials=True)
    meshes = (scene.geometry[scene.graph[node][1]] for node in scene.graph.nodes_geometry)
    return tuple(
        np.rint(mesh.vertices[mesh.faces[:, 0], 0]).astype(np.int32)
        for mesh in meshes
        if len(getattr(mesh, "faces", ())) > 0
    )
