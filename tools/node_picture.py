"""Pictures of the nodes for their help pages: SVG of sockets and widgets with their defaults, as on the canvas."""

from __future__ import annotations

from html import escape
from pathlib import Path

from .canvas import NodeType, Socket, declared

# Pixels.
WIDTH, TITLE, ROW, WIDGET, MARGIN, RADIUS = 340, 30, 22, 26, 12, 5
TEXT_LIMIT = 26  # characters of a widget's value
COLORS = {
    "T2_MESH": "#5bbf8a",
    "T2_TEXTURED_MESH": "#8fd6a8",
    "T2_VOXELS": "#4fa3a5",
    "T2_O_VOXEL": "#3d8f9c",
    "IMAGE": "#64b5f6",
    "MASK": "#81c784",
    "T2_PIPELINE": "#b39ddb",
    "T2_CONDITION": "#ffa931",
}
LATENT, OTHER = "#ff9cf9", "#9a9a9a"
LATENTS = ("T2_STRUCTURE", "T2_SHAPE", "T2_TEXTURE")


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
    color = LATENT if kind in LATENTS else COLORS.get(kind, OTHER)
    at = x + (MARGIN if anchor == "start" else -MARGIN)
    return [
        f'<circle cx="{x}" cy="{y}" r="{RADIUS}" fill="{color}"/>',
        f'<text x="{at}" y="{y + 4}" fill="#bbb" text-anchor="{anchor}">{escape(socket.name)}</text>',
    ]
