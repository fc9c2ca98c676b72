"""The help pages of the nodes, web/docs/<node id>.md, which ComfyUI shows beside the canvas.

A page has a part by hand, above MARKER, that stays; below it inputs and outputs follow from the node's declaration.
The tables of docs/nodes.md, one for each group of the node menu, follow from the declarations too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "web" / "docs"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
MARKER = "<!-- Below: written by tools/write.py from the node's declaration. -->"
OVERVIEW = ROOT / "docs" / "nodes.md"
TABLE = re.compile(r"(<!-- nodes of (TRELLIS\.2/\w+), by tools/write\.py -->\n).*?(<!-- end -->)", re.DOTALL)
BRAND = re.compile(r"^TRELLIS\.2 |:[^(]*(?= \()| \(TRELLIS\.2\)$")
PICTURE = "![{title} on the canvas](pictures/{name}.svg)"


def short_title(title: str) -> str:
    """Returns a node's title as prose calls it: without the brand and without a list after a colon."""
    return BRAND.sub("", title)


def page(name: str, node: type, title: str, by_hand: str) -> str:
    """Returns the page of node `name`; `by_hand`: its own part, without heading and picture."""
    lines = [f"# {title}", "", node.DESCRIPTION, "", PICTURE.format(title=title, name=name)]
    if by_hand.strip():
        lines += ["", by_hand.strip()]
    lines += ["", MARKER, *_inputs(node), *_outputs(node)]
    return "\n".join(lines) + "\n"


def by_hand(text: str) -> str:
    """Returns the part of a page that was written by hand: between the picture and the marker."""
    above = text.split(MARKER, 1)[0]
    lines = above.splitlines()
    pictures = [number for number, line in enumerate(lines) if line.startswith("![") and "](pictures/" in line]
    return "\n".join(lines[pictures[0] + 1 :]).strip() if pictures else ""


def texts(nodes: Mapping[str, type], titles: Mapping[str, str], folder: Path = FOLDER) -> dict[Path, str]:
    """Every page with its text, the parts by hand as they are in `folder`."""
    pages = {}
    for name, node in nodes.items():
        path = Path(f"{name}.md")
        old = (folder / path).read_text(encoding="utf-8") if (folder / path).is_file() else ""
        pages[path] = page(name, node, titles[name], by_hand(old))
    return pages


def overview(text: str, nodes: Mapping[str, type], titles: Mapping[str, str]) -> str:
    """Returns the overview `text` with the table of every group between its markers written anew."""

    def table(found: re.Match[str]) -> str:
        members = [name for name, node in nodes.items() if found[2] == node.CATEGORY]
        rows = [_row(name, nodes[name], short_title(titles[name])) for name in members]
        return "\n".join((found[1] + "| node | in → out | what it does |", "|---|---|---|", *rows, found[3]))

    return TABLE.sub(table, text)


def _row(name: str, node: type, title: str) -> str:
    declared = node.INPUT_TYPES()
    sockets = [
        key
        for part in ("required", "optional")
        for key, (kind, *options) in declared.get(part, {}).items()
        if isinstance(kind, str) and kind not in WIDGETS and not _option(options, "forceInput")
    ]
    wires = f"{', '.join(sockets)} → {', '.join(node.RETURN_NAMES)}".strip()
    return f"| [{title}](../web/docs/{name}.md) | {wires} | {node.DESCRIPTION} |"


def _option(options: Sequence[Mapping[str, Any]], key: str) -> Any:
    return options[0].get(key) if options else None


def _inputs(node: type) -> list[str]:
    declared = node.INPUT_TYPES()
    rows = [
        f"| `{name}`{_notes(part, *options)} | {_kind(kind)} | {_default(kind, *options)} | {_cell(*options)} |"
        for part in ("required", "optional")
        for name, (kind, *options) in declared.get(part, {}).items()
    ]
    if not rows:
        return []
    return ["", "## Inputs", "", "| input | type | default | |", "|---|---|---|---|", *rows]


def _outputs(node: type) -> list[str]:
    names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
    tooltips = getattr(node, "OUTPUT_TOOLTIPS", ("",) * len(names))
    if not names:
        return []
    rows = [
        f"| `{name}` | {_kind(kind)} | {text} |"
        for name, kind, text in zip(names, node.RETURN_TYPES, tooltips, strict=True)
    ]
    return ["", "## Outputs", "", "| output | type | |", "|---|---|---|", *rows]


def _notes(part: str, options: Mapping[str, Any] | None = None) -> str:
    """Says of an input that it is optional, or advanced: Nodes 2.0 then show it on demand."""
    notes = [*(["optional"] if part == "optional" else []), *(["advanced"] if (options or {}).get("advanced") else [])]
    return f" ({', '.join(notes)})" if notes else ""


def _kind(kind: Any) -> str:
    return "choice" if isinstance(kind, list) else str(kind).replace(",", " or ")


def _default(kind: Any, options: Mapping[str, Any] | None = None) -> str:
    options = options or {}
    default = options.get("default")
    if default is None:
        return ""
    bounds = f", {options['min']} to {options['max']}" if "min" in options and "max" in options else ""
    return f"`{default}`{bounds}"


def _cell(options: Mapping[str, Any] | None = None) -> str:
    return str((options or {}).get("tooltip", "")).replace("|", "\\|").replace("\n", " ")
