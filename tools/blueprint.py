"""The subgraph blueprint "Image to asset": the whole way as one node that opens, in ComfyUI's node library.

A blueprint is a workflow file in subgraphs/ with one node, whose type is the id of the subgraph that it defines.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .canvas import BLUE, GREEN, PURPLE, WIDTH, Canvas, Node

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "subgraphs"
NAME = "Image to asset (TRELLIS.2)"
ABOUT = "A picture to a textured, game-ready mesh: background, sampling, simplification, UVs and textures in one node."
# The pseudo nodes of a subgraph that its inputs leave and its outputs enter.
INPUT, OUTPUT = -10, -20
EDGE_WIDTH, EDGE_ROW = 120, 20


def texts(types: Mapping[str, type]) -> dict[Path, str]:
    """Every file to write, below subgraphs/, with its text."""
    canvas, prepared, asset, widgets = _graph(types)
    inside = canvas.canvas()
    nodes = {node["id"]: node for node in inside["nodes"] if node["type"] != "MarkdownNote"}
    links = [
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
        for link in inside["links"]
    ]
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values())
    inputs = [_enter(nodes[prepared.id], links, name, row) for row, name in enumerate(("image", "mask"))]
    output = _leave(nodes[asset.id], links, "textured_mesh", right)
    key = _id("definition")
    definition = {
        "id": key,
        "version": 1,
        "state": {"lastGroupId": 3, "lastNodeId": max(nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": NAME,
        "inputNode": {"id": INPUT, "bounding": [-EDGE_WIDTH - 80, 0, EDGE_WIDTH, 40 + 2 * EDGE_ROW]},
        "outputNode": {"id": OUTPUT, "bounding": [right + 80, 0, EDGE_WIDTH, 40 + EDGE_ROW]},
        "inputs": inputs,
        "outputs": [output],
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": inside["groups"],
        "links": links,
        "extra": {},
        "category": "TRELLIS.2",
        "description": ABOUT,
    }
    outside = {
        "id": 1,
        "type": key,
        "pos": [0, 0],
        "size": [WIDTH, 220],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": entry["name"], "type": entry["type"], "link": None} for entry in inputs],
        "outputs": [{"name": output["name"], "type": output["type"], "links": []}],
        "properties": {"proxyWidgets": [[str(node.id), widget] for node, widget in widgets]},
        "widgets_values": [],
        "title": NAME,
    }
    whole = {
        "id": _id("workflow"),
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [outside],
        "links": [],
        "groups": [],
        "version": 0.4,
        "definitions": {"subgraphs": [definition]},
        "extra": {},
    }
    return {Path(f"{NAME}.json"): json.dumps(whole, indent=1, ensure_ascii=False) + "\n"}


def _graph(types: Mapping[str, type]) -> tuple[Canvas, Node, Node, list[tuple[Node, str]]]:
    """(graph, node that takes the image, node that gives the asset, widgets shown outside)."""
    canvas = Canvas(NAME, "", types)
    with canvas.group("Picture", BLUE):
        model = canvas.add("T2LoadModel")
        prepared = canvas.add("T2PrepareImage")
    with canvas.group("Object", GREEN):
        surface = canvas.add("T2ImageTo3D", pipeline=model["pipeline"], images=prepared["images"])
    with canvas.group("Asset", PURPLE):
        asset = canvas.add("T2GameReadyAsset", mesh=surface["mesh"], voxels=surface["voxels"], preset="game low")
    widgets = [(model, "model"), (prepared, "background"), (surface, "seed"), (asset, "preset"), (asset, "faces")]
    return canvas, prepared, asset, widgets


def _enter(node: dict[str, Any], links: list[dict[str, Any]], name: str, row: int) -> dict[str, Any]:
    """Connects an input of the subgraph to the node's input of the same name; returns the subgraph's."""
    slot = [entry["name"] for entry in node["inputs"]].index(name)
    entry = node["inputs"][slot]
    number = len(links) + 1
    links.append({"id": number, "origin_id": INPUT, "origin_slot": row, "target_id": node["id"], "target_slot": slot,
                  "type": entry["type"]})  # fmt: skip
    entry["link"] = number
    return {
        "id": _id(name),
        "name": name,
        "type": entry["type"],
        "linkIds": [number],
        "pos": [-100, 20 + EDGE_ROW * row],
    }


def _leave(node: dict[str, Any], links: list[dict[str, Any]], name: str, right: int) -> dict[str, Any]:
    """Connects the node's output to the subgraph's of the same name; returns that."""
    slot = [entry["name"] for entry in node["outputs"]].index(name)
    entry = node["outputs"][slot]
    number = len(links) + 1
    links.append({"id": number, "origin_id": node["id"], "origin_slot": slot, "target_id": OUTPUT, "target_slot": 0,
                  "type": entry["type"]})  # fmt: skip
    entry["links"] = [*(entry["links"] or []), number]
    return {"id": _id(name), "name": name, "type": entry["type"], "linkIds": [number], "pos": [right + 100, 20]}


def _id(part: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"trellis2/subgraphs/{part}"))
