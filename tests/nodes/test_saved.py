"""Graphs that users saved with an earlier version of the pack load, validate and run with today's nodes.

saved/ has the workflows as they were first shipped. They are never brought up to date.
"""

import json
from pathlib import Path

import pytest
from comfyui_trellis2.nodes import NODE_CLASS_MAPPINGS, host

SAVED = Path(__file__).parent / "saved"
NAMES = sorted(path.name.removesuffix(".api.json") for path in SAVED.glob("*.api.json"))
CORE = {"MarkdownNote", "PreviewImage", "Preview3D"}
# What the canvas adds to the widgets of a node that has a seed.
AFTER_GENERATE = ("fixed", "increment", "decrement", "randomize")

saved = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def offered(comfy, monkeypatch, models):
    """The choices of a complete copy of the pack."""
    monkeypatch.setattr(host.folders, "find_built_in", lambda: models)


def widgets_of(node):
    """{name: (type, options)} of the declared inputs that are widgets, in the canvas's order."""
    declared = node.INPUT_TYPES()
    inputs = {**declared.get("required", {}), **declared.get("optional", {})}
    return {
        name: (kind, options)
        for name, (kind, options) in inputs.items()
        if (isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN")) and not options.get("forceInput")
    }


def test_both_forms_of_every_workflow_are_kept():
    assert len(NAMES) >= 4
    assert sorted(p.stem for p in SAVED.glob("*.json") if not p.name.endswith(".api.json")) == NAMES


@saved
def test_the_api_form_is_accepted(name, offered, runner):
    prompt = json.loads((SAVED / f"{name}.api.json").read_text(encoding="utf-8"))
    for node_id in prompt:
        runner.validate(node_id, prompt)


@saved
def test_the_canvas_gives_every_widget_its_value(name, offered):
    """The canvas has values by their place alone: a widget may be added behind the others, not before one."""
    canvas = json.loads((SAVED / f"{name}.json").read_text(encoding="utf-8"))
    api = json.loads((SAVED / f"{name}.api.json").read_text(encoding="utf-8"))
    kinds = {node["id"]: node["type"] for node in canvas["nodes"]}
    for node in canvas["nodes"]:
        if node["type"] in CORE:
            continue
        widgets = widgets_of(NODE_CLASS_MAPPINGS[node["type"]])
        values = [value for value in node["widgets_values"] if value not in AFTER_GENERATE]
        assert len(values) <= len(widgets)
        for (widget, (kind, _)), value in zip(widgets.items(), values, strict=False):
            # The choices of a loader are the files that are there; one that has gone is told when the graph is queued.
            assert not isinstance(kind, list) or widget == "file" or value in kind, (node["type"], widget, value)
            if widget in api[str(node["id"])]["inputs"]:
                assert api[str(node["id"])]["inputs"][widget] == value
    for _, source, output, target, _, socket in canvas["links"]:
        if kinds[source] not in CORE:
            assert NODE_CLASS_MAPPINGS[kinds[source]].RETURN_TYPES[output] == socket
        assert kinds[target] in (*CORE, *NODE_CLASS_MAPPINGS)


@saved
def test_sockets_of_the_canvas_are_declared(name):
    canvas = json.loads((SAVED / f"{name}.json").read_text(encoding="utf-8"))
    for node in canvas["nodes"]:
        if node["type"] not in CORE:
            kind = NODE_CLASS_MAPPINGS[node["type"]]
            declared = {**kind.INPUT_TYPES().get("required", {}), **kind.INPUT_TYPES().get("optional", {})}
            for socket in node["inputs"]:
                assert socket["name"] in declared, (node["type"], socket["name"])
                wanted = declared[socket["name"]][0]
                # The loaders' file was a STRING, and one may still be connected.
                allowed = ["COMBO", "STRING"] if socket["name"] == "file" else ["COMBO"]
                assert socket["type"] in (allowed if isinstance(wanted, list) else wanted.split(","))
            # Outputs may be added behind the others: links hold their places.
            assert tuple(output["type"] for output in node["outputs"]) == kind.RETURN_TYPES[: len(node["outputs"])]


def test_explicit_sampler_settings_keep_their_numbers(offered, runner, workflow):
    """The defaults that this node had first, which graphs saved with it hold."""
    prompt = workflow("image_to_3d", SAVED)
    numbers = {"guidance_rescale": 0.5, "interval_start": 0.6, "interval_end": 1.0, "rescale_t": 3.0}
    prompt["20"] = {"class_type": "T2Sampler", "inputs": numbers}
    prompt["9"]["inputs"]["sampler"] = ["20", 0]
    for node_id in ("20", "9"):
        runner.validate(node_id, prompt)
    (found,) = NODE_CLASS_MAPPINGS["T2Sampler"]().settings(**numbers)
    assert {name: getattr(found, name) for name in numbers} == numbers
    assert not found.step_cache


@pytest.mark.slow
def test_a_saved_graph_runs(comfy, runner, workflow):
    runner.run(workflow("image_to_3d_one_node", SAVED, n5_pipeline_type="512"))
    assert [path.read_bytes()[:4] for path in comfy.rglob("*.glb")] == [b"glTF"]
