"""The encodings of the texts of OBJ, MTL and STL files."""

from __future__ import annotations

import codecs


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
