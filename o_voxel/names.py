"""Names of parts and materials: as files store them, as text to show, and as tokens of an OBJ or MTL."""

from __future__ import annotations

from collections.abc import Sequence

# Characters of a name that are kept. Exporters stop at 63; names are for people.
MAX_NAME = 255
# Characters of one in a line of text.
LABEL = 60
REPLACEMENT = "\ufffd"


def stored_name(value: object) -> str:
    """Returns a name of a file as it is there, its first MAX_NAME characters; "" if it is no text.

    Halves of surrogate pairs, which are no Unicode text and which no file can hold, are replaced.
    """
    if not isinstance(value, str):
        return ""
    return value[:MAX_NAME].encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def printable(name: str) -> str:
    """Returns a name to show: control and format characters, which move a terminal's cursor or turn text around, are
    replaced, and line ends and other spaces become plain spaces."""
    return "".join(c if c.isprintable() else " " if c.isspace() else REPLACEMENT for c in name)


def tokens(names: Sequence[str], blank: str) -> list[str]:
    """Returns a name for each of `names` that an OBJ and its MTL can hold: without spaces, control characters,
    backslashes (they join lines) and # (it begins a comment), and unlike all others.

    blank: what a nameless one is called, followed by its number.
    """
    numbers: dict[str, int] = {}
    taken: set[str] = set()
    made = []
    for number, name in enumerate(names):
        base = "_".join(printable(name).split()).translate({ord("\\"): "_", ord("#"): "_"}) or f"{blank}{number}"
        token = base
        while token in taken:
            numbers[base] = numbers.get(base, 0) + 1
            token = f"{base}_{numbers[base]}"
        taken.add(token)
        made.append(token)
    return made


def listed(names: Sequence[str], most: int = 20) -> str:
    """Returns names as one line of text, nameless ones left out, after `most` of them how many more there are."""
    found = [_short(name) for name in names if name]
    rest = len(found) - most
    return ", ".join(found[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def material_label(number: int, name: str) -> str:
    """Returns what a line of text calls a material: its number and, in brackets, its name."""
    return f"material {number} ({_short(name)})" if name else f"material {number}"


def _short(name: str) -> str:
    text = printable(name)
    return text if len(text) <= LABEL else f"{text[: LABEL - 1]}…"
