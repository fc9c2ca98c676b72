"""Writes all files that are made from the nodes. Run `python tools/write.py` after a change of a node; a test compares.

The pack is loaded under a name of its own, since its folder may have any.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PACK = "comfyui_trellis2"


def load_pack() -> ModuleType:
    """Imports the tree as the package PACK."""
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])
    return sys.modules[PACK]


def main() -> None:
    """Writes workflows with their page and API form, help pages with pictures, and the tables of docs/nodes.md."""
    pack = load_pack()
    workflows = importlib.import_module(f"{PACK}.tools.workflows")
    blueprint = importlib.import_module(f"{PACK}.tools.blueprint")
    node_docs = importlib.import_module(f"{PACK}.tools.node_docs")
    node_picture = importlib.import_module(f"{PACK}.tools.node_picture")
    nodes, titles = pack.NODE_CLASS_MAPPINGS, pack.NODE_DISPLAY_NAME_MAPPINGS
    for folder, files in (
        (workflows.FOLDER, workflows.texts(nodes)),
        (blueprint.FOLDER, blueprint.texts(nodes)),
        (node_docs.FOLDER, node_docs.texts(nodes, titles)),
        (node_docs.FOLDER, node_picture.texts(nodes, titles)),
    ):
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    workflows.PAGE.write_text(workflows.page(), encoding="utf-8")
    text = node_docs.OVERVIEW.read_text(encoding="utf-8")
    node_docs.OVERVIEW.write_text(node_docs.overview(text, nodes, titles), encoding="utf-8")


if __name__ == "__main__":
    main()
