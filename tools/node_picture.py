"""Pictures of the nodes for their help pages: SVG of sockets and widgets with their defaults, as on the canvas."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from .canvas import NodeType, Socket, declared

# Pixels.
WIDTH, TITLE, ROW, WIDGET, MARGIN, RADIUS = 340, 30, 22, 26, 12, 5
TEXT_LIMIT = 26  # characters of a widget's value
OTHER = "#9a9a9a"
# The canvas has its colours from here, those of ComfyUI's own types from its palette.
SCRIPT = Path(__file__).resolve().parents[1] / "web" / "trellis2.js"
COLORS = dict(re.findall(r'(T2_\w+): "(#\w{6})"', SCRIPT.read_text(encoding="utf-8")))
COLORS |= {"IMAGE": "#64b5f6", "MASK": "#81c784"}


def texts(nodes: dict[str, type], titles: dict[str, str]) -> dict[Path, str]:
    """Every picture with its text, by its path below web/docs."""
    return {Path("pictures", f"{name}.svg"): picture(declared(node), titles[name]) for name, node in nodes.items()}


def picture(node: NodeType, title: str) -> str:
    """Returns the SVG of a node."""
    sockets = [socket for socket in node.inputs if not socket.is_widget]
    widgets = [socket for socket in node.inputs if socket.is_widget]
    rows = max(len(sockets), len(node.outputs))
    height = TITLE + ROW * rows + WIDGET * len(widgets) + 2 * MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Inter, Arial, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#353535"/>',
        f'<path d="M0 {TITLE}V8a8 8 0 0 1 8-8h{WIDTH - 16}a8 8 0 0 1 8 8v{TITLE - 8}z" fill="#2a2a2a"/>',
        f'<text x="{MARGIN}" y="20" fill="#ddd" font-weight="600">{escape(title)}</text>',
    ]
    top = TITLE + MARGIN
    for row, socket in enumerate(sockets):
        lines += _socket(socket, MARGIN, top + ROW * row + ROW // 2, "start")
    for row, socket in enumerate(node.outputs):
        lines += _socket(socket, WIDTH - MARGIN, top + ROW * row + ROW // 2, "end")
    for row, widget in enumerate(widgets):
        y = top + ROW * rows + WIDGET * row
        value = str(widget.default)
        value = value if len(value) <= TEXT_LIMIT else value[: TEXT_LIMIT - 1] + "…"
        lines += [
            f'<rect x="{MARGIN}" y="{y + 2}" width="{WIDTH - 2 * MARGIN}" height="{WIDGET - 5}" rx="10" fill="#222"/>',
            f'<text x="{2 * MARGIN}" y="{y + 17}" fill="#999">{escape(widget.name)}</text>',
            f'<text x="{WIDTH - 2 * MARGIN}" y="{y + 17}" fill="#ddd" text-anchor="end">{escape(value)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _socket(socket: Socket, x: int, y: int, anchor: str) -> list[str]:
    kind = socket.kind.split(",")[0]
    color = COLORS.get(kind, OTHER)
    at = x + (MARGIN if anchor == "start" else -MARGIN)
    return [
        f'<circle cx="{x}" cy="{y}" r="{RADIUS}" fill="{color}"/>',
        f'<text x="{at}" y="{y + 4}" fill="#bbb" text-anchor="{anchor}">{escape(socket.name)}</text>',
    ]
