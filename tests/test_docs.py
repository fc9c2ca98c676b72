"""The documents: links and paths in them exist, and the README has every node, preset and command."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from comfyui_trellis2.nodes import NODE_DISPLAY_NAME_MAPPINGS
from comfyui_trellis2.o_voxel.asset import PRESETS
from comfyui_trellis2.tools.node_docs import short_title

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "wheels" / "README.md"])
TOP = ("nodes", "trellis2", "o_voxel", "wheels", "tests", "docs", "web", "workflows", "assets", ".ci")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

documents = pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))


def anchors(text: str) -> set[str]:
    """The anchors that a renderer gives to the headings of a document."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {heading.strip().replace(" ", "-") for heading in plain}


def missing_links(file: Path, text: str) -> list[str]:
    """Links of a document to files that do not exist, or to headings that they do not have."""
    wrong = []
    for link in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            wrong.append(link)
    return wrong


def missing_paths(text: str) -> list[str]:
    """Paths of the tree in backticks that do not exist. After `folder/` bare names on its line are files of it."""
    wrong = []
    for line in re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines():
        folder = None
        for name in re.findall(r"`([\w./-]+)`", line):
            path = ROOT / name
            if name.split("/")[0] in TOP and "/" in name:
                folder = path if path.is_dir() else path.parent
            elif name.endswith(".py") and folder is not None:
                path = folder / name
            else:
                continue
            if not path.exists():
                wrong.append(f"{name}: {line[:80]}")
    return wrong


@documents
def test_links_lead_somewhere(file: Path):
    assert missing_links(file, file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_paths_exist(name: str):
    assert missing_paths((ROOT / name).read_text(encoding="utf-8")) == []


def test_missing_links_and_paths_are_found(tmp_path: Path):
    (tmp_path / "a.md").write_text("# One two\n")
    text = "[x](a.md#one-two) [y](a.md#three) [z](b.md) [w](https://example.org/c.md)"
    assert missing_links(tmp_path / "a.md", text) == ["a.md#three", "b.md"]
    text = "`nodes/a.py`, `b.py`\n`nodes/`: `__init__.py`, `c.py`\n`d.py`\n```\n`nodes/e.py`\n```\n"
    assert [found.partition(":")[0] for found in missing_paths(text)] == ["nodes/a.py", "b.py", "c.py"]


def test_the_readme_names_every_node_and_preset():
    readme, nodes = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/nodes.md"))
    titles = [short_title(title) for title in NODE_DISPLAY_NAME_MAPPINGS.values()]
    plain = [title for title in titles if title.split()[0] not in ("To", "From")]
    assert [title for title in plain if title not in nodes or f"**{title}**" not in readme] == []
    assert [title for title in titles if title not in nodes] == []
    assert [name for name in PRESETS if f"| {name} |" not in readme] == []


def test_the_readme_starts_with_the_two_commands():
    block = (ROOT / "README.md").read_text(encoding="utf-8").partition("```\n")[2].partition("```")[0]
    commands = [line.partition("#")[0].strip() for line in block.splitlines()]
    assert commands == ["python3 install.py --demo", "python3 install.py --test"]


def test_the_readme_snippet_imports_what_exists():
    code = (ROOT / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    ours = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom) and "." in node.module]
    assert ours
    for node in ours:
        module = importlib.import_module(node.module)
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
