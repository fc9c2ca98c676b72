"""Negative indices of an OBJ, which count back from the line that they stand in.

trimesh counts them from the end of the file, which is the same only where no element follows.
"""

from __future__ import annotations

import io
import re

# Patterns begin with a letter that is searched for fast: most files have no negative index.
ELEMENT = re.compile(rb"\n[flp][ \t]")
NEGATIVE = re.compile(rb"\n[flp][ \t][^\n#-]*-")
CONTINUED = re.compile(rb"\\\r?\n")
# Keywords of the lists that the fields of a corner, such as 1/2/3, point into; trimesh wants the blank, too.
LISTS = (b"v ", b"vt ", b"vn ")


def positive_indices(content: bytes) -> bytes:
    """Returns an OBJ's content with the negative indices of its faces, lines and points as positive ones, and with
    continued lines joined by a blank.

    Raises ValueError for an index that points before the first element, or is no integer.
    """
    if b"\\" in content:
        content = CONTINUED.sub(b" ", content)
    if content[:1] not in (b"f", b"l", b"p"):
        first = ELEMENT.search(content)
        # Vertices have signs, too, and mostly stand before all faces.
        if first is None or content.find(b"-", first.start()) < 0 or not NEGATIVE.search(content, first.start()):
            return content
    lines = []
    corners = _Corners([0, 0, 0])
    for line in io.BytesIO(content):
        if line.startswith(LISTS):
            if corners:
                corners = _Corners(corners.counts)
            corners.counts[LISTS.index(line[:2] if line[1:2] == b" " else line[:3])] += 1
        elif line[:1] in (b"f", b"l", b"p") and line[1:2] in (b" ", b"\t") and b"-" in line:
            keyword, *words = line.partition(b"#")[0].split()
            line = b" ".join([keyword, *map(corners.__getitem__, words)]) + b"\n"
        lines.append(line)
    return b"".join(lines)


class _Corners(dict[bytes, bytes]):
    """Corners of faces to the same with positive indices; each is made once until the next element.

    counts: of the vertices, texture coordinates and normals so far.
    """

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        self.counts = counts

    def __missing__(self, corner: bytes) -> bytes:
        fields = corner.split(b"/")
        for place, (field, count) in enumerate(zip(fields, self.counts, strict=False)):
            if field.startswith(b"-"):
                index = count + 1 + int(field)
                if index < 1:
                    kind = ("vertices", "texture coordinates", "normals")[place]
                    raise ValueError(
                        f"a face has the index {field.decode()}, which counts back over {-int(field):,} {kind}: "
                        f"expected at most the {count:,} above its line; export it again"
                    )
                fields[place] = b"%d" % index
        self[corner] = b"/".join(fields)
        return self[corner]
