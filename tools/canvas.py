"""Builds ComfyUI workflows: a graph by node and output names, laid out in groups, as canvas and as API JSON.

Layout: groups from left to right; inside a group a node stands in the column after its sources, so that every wire runs
from left to right; nodes of a column stand below each other. Same graph, same bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# Pixels. ComfyUI draws a title of TITLE pixels above a node's position; ROW is a socket's height, WIDGET a widget's.
WIDTH, TITLE, ROW, WIDGET, PADDING = 330, 30, 20, 27, 26
COLUMN_GAP, NODE_GAP, GROUP_MARGIN, GROUP_TITLE, GROUP_GAP = 60, 56, 26, 44, 50
NOTE_WIDTH, NOTE_LINE, NOTE_CHARACTERS = 760, 21, 92

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
# Group colours of ComfyUI's own palette.
BLUE, GREEN, PURPLE, ORANGE, GREY = "#3f789e", "#3f9e5a", "#88479e", "#b58b2a", "#6f6f6f"


@dataclass(frozen=True)
class Socket:
    """An input or output. kind: its type on the wire; a combo's is COMBO. default: of a widget."""

    name: str
    kind: str
    is_widget: bool = False
    default: Any = None
    extra: tuple[Any, ...] = ()  # values that the canvas stores behind the widget's own, e.g. "fixed" behind a seed


@dataclass(frozen=True)
class NodeType:
    """A node's declaration. size: overrides the estimated [width, height]."""

    inputs: tuple[Socket, ...]
    outputs: tuple[Socket, ...]
    size: tuple[int, int] | None = None


# Core nodes in the example graphs, with the sockets that ComfyUI 0.3.64 and 0.33 have in common.
CORE = {
    "LoadImage": NodeType(
        (Socket("image", "COMBO", True, "example.png", extra=("image",)),),
        (Socket("IMAGE", "IMAGE"), Socket("MASK", "MASK")),
        (WIDTH, 330),
    ),
    "PreviewImage": NodeType((Socket("images", "IMAGE"),), (), (WIDTH, 330)),
    "Preview3D": NodeType((Socket("model_file", "STRING", True, ""),), (), (560, 620)),
    "JoinImageWithAlpha": NodeType((Socket("image", "IMAGE"), Socket("alpha", "MASK")), (Socket("IMAGE", "IMAGE"),)),
    "ImageFromBatch": NodeType(
        (Socket("image", "IMAGE"), Socket("batch_index", "INT", True, 0), Socket("length", "INT", True, 1)),
        (Socket("IMAGE", "IMAGE"),),
    ),
    "LoadBackgroundRemovalModel": NodeType(
        (Socket("bg_removal_name", "COMBO", True, "birefnet.safetensors"),),
        (Socket("bg_model", "BACKGROUND_REMOVAL"),),
    ),
    "RemoveBackground": NodeType(
        (Socket("bg_removal_model", "BACKGROUND_REMOVAL"), Socket("image", "IMAGE")), (Socket("mask", "MASK"),)
    ),
}


def declared(node: type) -> NodeType:
    """Reads a node class of the pack."""
    groups = node.INPUT_TYPES()
    inputs = [
        _input(name, *declaration)
        for part in ("required", "optional")
        for name, declaration in groups.get(part, {}).items()
    ]
    names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
    return NodeType(
        tuple(inputs), tuple(Socket(name, kind) for name, kind in zip(names, node.RETURN_TYPES, strict=True))
    )


def _input(name: str, kind: Any, options: Mapping[str, Any] | None = None) -> Socket:
    options = options or {}
    if isinstance(kind, list):
        extra = ("image",) if options.get("image_upload") else ()
        return Socket(name, "COMBO", True, options.get("default", kind[0] if kind else ""), extra)
    is_widget = kind in WIDGET_TYPES and not options.get("forceInput")
    if not is_widget:
        return Socket(name, kind)
    empty = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(kind)
    extra = ("fixed",) if options.get("control_after_generate") else ()
    return Socket(name, kind, True, options.get("default", empty), extra)


@dataclass
class Node:
    """A node of a graph. links: input name to (source id, output slot). muted: shown, not run."""

    id: int
    kind: str
    declaration: NodeType
    values: dict[str, Any]
    links: dict[str, tuple[int, int]]
    muted: bool = False
    position: tuple[int, int] = (0, 0)

    def __getitem__(self, output: str) -> tuple[int, int]:
        """(id, slot) of an output by its name. Raises KeyError."""
        names = [socket.name for socket in self.declaration.outputs]
        if output not in names:
            raise KeyError(f"{self.kind}: expected one of the outputs {names}, got {output!r}")
        return self.id, names.index(output)

    @property
    def size(self) -> tuple[int, int]:
        """Estimated [width, height] in pixels, without the title."""
        if self.declaration.size:
            return self.declaration.size
        widgets = sum(1 + (socket.extra == ("fixed",)) for socket in self.declaration.inputs if socket.is_widget)
        sockets = sum(not socket.is_widget for socket in self.declaration.inputs)
        return WIDTH, ROW * max(sockets, len(self.declaration.outputs)) + WIDGET * widgets + PADDING


@dataclass
class Group:
    title: str
    color: str
    nodes: list[Node] = field(default_factory=list)
    bounds: tuple[int, int, int, int] = (0, 0, 0, 0)


class Canvas:
    """A workflow. name: its file. note: Markdown at the top. types: node id to class, of the pack."""

    def __init__(self, name: str, note: str, types: Mapping[str, type]) -> None:
        self.name, self.note = name, note
        self._types = types
        self._groups: list[Group] = []

    @contextmanager
    def group(self, title: str, color: str) -> Iterator[None]:
        """Nodes added inside stand in this group."""
        self._groups.append(Group(title, color))
        yield

    def add(self, kind: str, *, muted: bool = False, **inputs: Any) -> Node:
        """Adds a node. inputs: by name, a source's output (`node["mesh"]`) or a widget's value; others keep defaults.

        Raises KeyError for an unknown input or output, ValueError for a socket given a value.
        """
        declaration = CORE[kind] if kind in CORE else declared(self._types[kind])
        sockets = {socket.name: socket for socket in declaration.inputs}
        if unknown := set(inputs) - set(sockets):
            raise KeyError(f"{kind}: no inputs {sorted(unknown)}; it has {sorted(sockets)}")
        links = {name: value for name, value in inputs.items() if isinstance(value, tuple)}
        values = {name: value for name, value in inputs.items() if name not in links}
        if bare := [name for name in values if not sockets[name].is_widget]:
            raise ValueError(f"{kind}: expected a source for {bare}")
        defaults = {socket.name: socket.default for socket in declaration.inputs if socket.is_widget}
        node = Node(len(self._nodes) + 1, kind, declaration, {**defaults, **values}, links, muted)
        self._groups[-1].nodes.append(node)
        return node

    @property
    def _nodes(self) -> list[Node]:
        return [node for group in self._groups for node in group.nodes]

    def api(self) -> dict[str, Any]:
        """The graph as ComfyUI's /prompt takes it, without muted nodes and what hangs on them."""
        left_out = {node.id for node in self._nodes if node.muted}
        return {
            str(node.id): {
                "class_type": node.kind,
                "inputs": {
                    socket.name: [str(node.links[socket.name][0]), node.links[socket.name][1]]
                    if socket.name in node.links
                    else node.values[socket.name]
                    for socket in node.declaration.inputs
                    if (socket.is_widget or socket.name in node.links)
                    and node.links.get(socket.name, (0, 0))[0] not in left_out
                },
            }
            for node in self._nodes
            if not node.muted
        }

    def canvas(self) -> dict[str, Any]:
        """The graph as ComfyUI's canvas saves it."""
        self._lay_out()
        links: list[list[Any]] = []
        incoming: dict[tuple[int, str], int] = {}
        outgoing: dict[tuple[int, int], list[int]] = {}
        by_id = {node.id: node for node in self._nodes}
        for node in self._nodes:
            for slot, socket in enumerate(node.declaration.inputs):
                if socket.name not in node.links:
                    continue
                source, output = node.links[socket.name]
                number = len(links) + 1
                kind = by_id[source].declaration.outputs[output].kind
                links.append([number, source, output, node.id, slot, kind])
                incoming[node.id, socket.name] = number
                outgoing.setdefault((source, output), []).append(number)
        entries = [self._entry(node, order, incoming, outgoing) for order, node in enumerate(self._nodes)]
        note_id = len(entries) + 1
        groups = [
            {"id": number, "title": group.title, "bounding": list(group.bounds), "color": group.color,
             "font_size": 24, "flags": {}}
            for number, group in enumerate(self._groups, 1)
        ]  # fmt: skip
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"trellis2/workflows/{self.name}")),
            "revision": 0,
            "last_node_id": note_id,
            "last_link_id": len(links),
            "nodes": [*entries, self._note_entry(note_id)],
            "links": links,
            "groups": groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [60, 360]}},
            "version": 0.4,
        }

    def _lay_out(self) -> None:
        left = 0
        seen: dict[int, int] = {}  # id -> index of the group
        for index, group in enumerate(self._groups):
            depth: dict[int, int] = {}
            for node in group.nodes:
                sources = [source for source, _ in node.links.values()]
                if late := [source for source in sources if source not in depth and source not in seen]:
                    raise ValueError(f"{self.name}: node {node.id} comes before its sources {late}")
                depth[node.id] = 1 + max((depth[source] for source in sources if source in depth), default=-1)
            x, bottom = left + GROUP_MARGIN, 0
            for column in range(1 + max(depth.values())):
                stack = [node for node in group.nodes if depth[node.id] == column]
                y = GROUP_TITLE + TITLE
                for node in stack:
                    node.position = (x, y)
                    y += node.size[1] + NODE_GAP
                bottom = max(bottom, y - NODE_GAP + GROUP_MARGIN)
                x += max(node.size[0] for node in stack) + COLUMN_GAP
            right = x - COLUMN_GAP + GROUP_MARGIN
            group.bounds = (left, 0, right - left, bottom)
            left = right + GROUP_GAP
            seen.update({node.id: index for node in group.nodes})

    def _entry(
        self,
        node: Node,
        order: int,
        incoming: Mapping[tuple[int, str], int],
        outgoing: Mapping[tuple[int, int], list[int]],
    ) -> dict[str, Any]:
        inputs = []
        for socket in node.declaration.inputs:
            entry: dict[str, Any] = {"name": socket.name, "type": socket.kind}
            if socket.is_widget:
                entry["widget"] = {"name": socket.name}
            inputs.append({**entry, "link": incoming.get((node.id, socket.name))})
        outputs = [
            {"name": socket.name, "type": socket.kind, "links": outgoing.get((node.id, slot))}
            for slot, socket in enumerate(node.declaration.outputs)
        ]
        values = []
        for socket in node.declaration.inputs:
            if socket.is_widget:
                values += [node.values[socket.name], *socket.extra]
        return {
            "id": node.id,
            "type": node.kind,
            "pos": list(node.position),
            "size": list(node.size),
            "flags": {},
            "order": order,
            "mode": 2 if node.muted else 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": {"Node name for S&R": node.kind},
            "widgets_values": values,
        }

    def _note_entry(self, number: int) -> dict[str, Any]:
        lines = sum(1 + len(line) // NOTE_CHARACTERS for line in self.note.splitlines())
        height = NOTE_LINE * lines + 40
        return {
            "id": number,
            "type": "MarkdownNote",
            "pos": [0, -height - 40],
            "size": [NOTE_WIDTH, height],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": "Start here",
            "properties": {},
            "widgets_values": [self.note],
            "color": "#432",
            "bgcolor": "#653",
        }
