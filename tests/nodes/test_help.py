"""What users find of the nodes without running them: menu, search, tooltips and help pages."""

import re
from typing import Any

import pytest
from comfyui_trellis2.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from comfyui_trellis2.nodes.widgets import GROUPS
from comfyui_trellis2.tools import node_docs, node_picture

nodes = pytest.mark.parametrize("name", list(NODE_CLASS_MAPPINGS))
FIRST = 3  # results that a user looks at

# What users type -> the nodes that answer it.
WORDS = {
    "trellis": set(NODE_CLASS_MAPPINGS),
    "image to 3d": {"T2ImageTo3D"},
    "photo": {"T2PrepareImage"},
    "remove background": {"T2PrepareImage"},
    "background": {"T2PrepareImage"},
    "decimate": {"T2SimplifyMesh"},
    "reduce polygons": {"T2SimplifyMesh"},
    "retopo": {"T2Remesh"},
    "low poly": {"T2SimplifyMesh"},
    "uv": {"T2Unwrap"},
    "unwrap": {"T2Unwrap"},
    "bake": {"T2BakeTextures"},
    "normal map": {"T2BakeTextures"},
    "glb": {"T2SaveGLB"},
    "stl": {"T2SaveMesh"},
    "voxel": {"T2VoxelsToMesh", "T2MeshToVoxels"},
    "fill holes": {"T2FillHoles"},
    "watertight": {"T2Remesh"},
    "turntable": {"T2RenderPreview"},
    "texture": {"T2BakeTextures", "T2SampleTexture"},
}


def name_rank(query: str, text: str) -> tuple[float, ...]:
    """The part of a result's rank that follows from one name: equal, at its start, a word of it, inside, its words.

    ComfyUI's search ranks by id and title this way, shorter first; a node found by its aliases alone is of class 9.
    """
    words = [word.lower() for word in re.split(r"\W+|(?<=[a-z])(?=[A-Z])|(?=[A-Z][a-z])", text) if word]
    text, parts = text.lower(), query.split()
    middle = len(text) / 2
    short = 0.2 * (1 - min(len(text), len(query)) / max(len(text), len(query)))
    if text == query:
        return (0, 0, 0, short)
    if text.startswith(query):
        return (1, 0, len(text), short)
    if query in words:
        return (2, text.index(query) + middle, len(text), short)
    if query in text:
        return (3, text.index(query) + middle, len(text), short)
    if all(part in words for part in parts):
        places = [words.index(part) for part in parts]
        return (4, max(places) - min(places) + max(places) / 2 + middle, len(text), short)
    return (9, 0, 0, short)


def alias_distance(query: str, aliases: tuple[str, ...]) -> float | None:
    """0 for an alias that is the query, more for one with other words too, None without any that has all its words."""
    found = [alias for alias in aliases if all(part in alias for part in query.split())]
    return min((1 - len(query) / len(alias) for alias in found), default=None)


def search(query: str) -> list[str]:
    """The ids of our nodes that ComfyUI's search finds for `query`, best first."""
    results = []
    for name, node in NODE_CLASS_MAPPINGS.items():
        main, *rest, short = min(name_rank(query, text) for text in (name, NODE_DISPLAY_NAME_MAPPINGS[name]))
        distance = alias_distance(query, node.SEARCH_ALIASES)
        if main < 9 or distance is not None:
            results.append(((main, *rest, short + (distance or 0)), name))
    return [name for _, name in sorted(results, key=lambda result: result[0])]


def widgets(node: type) -> dict[str, dict[str, Any]]:
    """Inputs of a node by name, sockets too, with their options."""
    declared = node.INPUT_TYPES()
    inputs = [*declared.get("required", {}).items(), *declared.get("optional", {}).items()]
    return {name: dict(*options) for name, (_, *options) in inputs}


@pytest.mark.parametrize("word", list(WORDS))
def test_words_that_users_type_find_the_node(word):
    assert WORDS[word] & set(search(word)[:FIRST])


def test_the_search_ranks_names_before_aliases_and_finds_nothing_for_another_word():
    assert name_rank("bake", "Bake") < name_rank("bake", "Bake Textures") < name_rank("bake", "TRELLIS.2 Bake Textures")
    assert name_rank("uv", "TRELLIS.2 UV Atlas") < name_rank("uv", "A YUV") < name_rank("uv", "Unwrap")
    assert alias_distance("uv", ("uv",)) < alias_distance("uv", ("charts", "uv map"))
    assert search("zebra") == []


@nodes
def test_every_node_stands_in_one_of_the_groups(name):
    assert NODE_CLASS_MAPPINGS[name].CATEGORY in GROUPS


def test_every_group_has_nodes():
    assert {node.CATEGORY for node in NODE_CLASS_MAPPINGS.values()} == set(GROUPS)


@nodes
def test_every_node_has_search_words(name):
    aliases = NODE_CLASS_MAPPINGS[name].SEARCH_ALIASES
    assert isinstance(aliases, (tuple, list)) and len(aliases) >= 3
    assert len(set(aliases)) == len(aliases)
    # The search ignores what stands beyond about 30 letters of a text.
    assert all(alias == alias.lower().strip() and 0 < len(alias) <= 30 for alias in aliases)


@nodes
def test_every_output_has_a_tooltip(name):
    node = NODE_CLASS_MAPPINGS[name]
    assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_NAMES) == len(node.RETURN_TYPES)
    assert all(text.endswith(".") for text in node.OUTPUT_TOOLTIPS)


@nodes
def test_every_input_has_a_tooltip(name):
    assert [key for key, options in widgets(NODE_CLASS_MAPPINGS[name]).items() if not options.get("tooltip")] == []


@nodes
def test_a_node_shows_at_least_one_of_its_widgets(name):
    options = widgets(NODE_CLASS_MAPPINGS[name]).values()
    assert not options or not all(option.get("advanced") for option in options)
    # Nodes 2.0 hide it until asked for, so it must have a value.
    assert all("default" in option for option in options if option.get("advanced"))


@nodes
def test_the_description_is_one_or_a_few_sentences(name):
    text = NODE_CLASS_MAPPINGS[name].DESCRIPTION
    assert text.endswith(".") and len(text) <= 200


@nodes
def test_every_node_has_a_current_page(name):
    text = (node_docs.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    own = node_docs.by_hand(text)
    page = node_docs.page(name, NODE_CLASS_MAPPINGS[name], NODE_DISPLAY_NAME_MAPPINGS[name], own)
    assert text == page, "run tools/write.py"
    assert len(re.findall(r"\w[^.:]{10,}?[.:](?=\s|$)", own)) >= 2
    assert max(map(len, own.splitlines())) <= 140


@nodes
def test_pages_name_inputs_and_nodes_that_exist(name):
    own = node_docs.by_hand((node_docs.FOLDER / f"{name}.md").read_text(encoding="utf-8"))
    titles = {node_docs.short_title(title) for title in NODE_DISPLAY_NAME_MAPPINGS.values()}
    core = {
        "Load Image",
        "Save Image",
        "Remove Background",
        "Preview 3D",
        "Load 3D",
        "Image From Batch",
        "Join Image with Alpha",
    }
    assert set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*", re.sub(r"\s+", " ", own))) <= titles | core
    inputs = {key for node in NODE_CLASS_MAPPINGS.values() for key in widgets(node)}
    outputs = {output for node in NODE_CLASS_MAPPINGS.values() for output in node.RETURN_NAMES}
    words = set(re.findall(r"`([a-z_]+)`", own)) - {"rembg"}
    assert words <= inputs | outputs


def test_no_page_is_left_of_a_node_that_is_gone():
    assert {path.stem for path in node_docs.FOLDER.glob("*.md")} == set(NODE_CLASS_MAPPINGS)


def test_the_tables_of_the_overview_are_current():
    text = node_docs.OVERVIEW.read_text(encoding="utf-8")
    assert node_docs.overview(text, NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS) == text, "run tools/write.py"
    assert [text.count(f"](../web/docs/{name}.md)") for name in NODE_CLASS_MAPPINGS] == [1] * len(NODE_CLASS_MAPPINGS)
    assert re.findall(r"<!-- nodes of (\S+),", text) == list(GROUPS)


@nodes
def test_a_page_has_the_nodes_picture(name):
    (path, text), *_ = node_picture.texts({name: NODE_CLASS_MAPPINGS[name]}, NODE_DISPLAY_NAME_MAPPINGS).items()
    assert (node_docs.FOLDER / path).read_text(encoding="utf-8") == text
    assert f"({path.as_posix()})" in (node_docs.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert all(f">{word}<" in text for word in getattr(NODE_CLASS_MAPPINGS[name], "RETURN_NAMES", ()))
