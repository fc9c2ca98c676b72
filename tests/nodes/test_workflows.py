"""The shipped workflows, run for real on a tiny checkpoint."""

import itertools
import json
import shutil

import pytest
import torch
import trimesh
from comfyui_trellis2.nodes import NODE_CLASS_MAPPINGS, host, sockets
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.voxels.from_mesh import fitted
from comfyui_trellis2.tools import blueprint
from comfyui_trellis2.tools.workflows import FOLDER, PAGE, page, texts
from comfyui_trellis2.trellis2.checkpoint.builtin import find_built_in

NAMES = sorted(path.stem for path in (FOLDER / "api").glob("*.json"))
FAST = {"n8_max_tokens": 1024}


def digest(value: object) -> list[bytes]:
    """The bytes of every tensor and picture inside a socket's value."""
    if isinstance(value, torch.Tensor):
        return [value.cpu().contiguous().numpy().tobytes()]
    if isinstance(value, (list, tuple)):
        return [part for item in value for part in digest(item)]
    if hasattr(value, "tobytes"):
        return [value.tobytes()]
    if hasattr(value, "rows"):
        return digest(value.rows)
    fields = getattr(value, "__dataclass_fields__", {})
    return [part for name in fields for part in digest(getattr(value, name))]


def test_files_are_what_the_tools_write():
    """After a change of a node or of tools/workflows.py: python tools/write.py."""
    for name, text in texts(NODE_CLASS_MAPPINGS).items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, name
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == NAMES
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_workflow_has_a_picture_for_the_template_browser():
    assert sorted(path.stem for path in FOLDER.glob("*.jpg")) == NAMES


def test_the_blueprint_is_what_the_tools_write():
    for name, text in blueprint.texts(NODE_CLASS_MAPPINGS).items():
        assert (blueprint.FOLDER / name).read_text(encoding="utf-8") == text, name
        whole = json.loads(text)
        (definition,) = whole["definitions"]["subgraphs"]
        nodes = {node["id"]: node for node in definition["nodes"]}
        for link in definition["links"]:
            if link["target_id"] > 0:
                assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
            if link["origin_id"] > 0:
                assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        for number, widget in whole["nodes"][0]["properties"]["proxyWidgets"]:
            assert widget in [entry["name"] for entry in nodes[int(number)]["inputs"] if "widget" in entry]


@pytest.mark.parametrize("name", NAMES)
def test_the_canvas_is_tidy(name):
    """What ComfyUI's own templates keep: wires from left to right, no overlap, every node in a group, a note above."""
    canvas = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in canvas["nodes"]}
    assert len(nodes) == len(canvas["nodes"]) and len({link[0] for link in canvas["links"]}) == len(canvas["links"])
    boxes = {i: (*n["pos"], n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1]) for i, n in nodes.items()}
    title = 30
    for a, b in itertools.combinations(boxes.values(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] - title or b[3] <= a[1] - title
    for _, source, output, target, slot, kind in canvas["links"]:
        assert boxes[source][2] < boxes[target][0]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert kind in nodes[target]["inputs"][slot]["type"].split(",")
    (note,) = (node for node in canvas["nodes"] if node["type"] == "MarkdownNote")
    assert "**Change first:**" in note["widgets_values"][0]
    for number, (left, top, right, bottom) in boxes.items():
        inside = [
            group
            for group in canvas["groups"]
            if group["bounding"][0] <= left
            and group["bounding"][1] <= top
            and right <= group["bounding"][0] + group["bounding"][2]
            and bottom <= group["bounding"][1] + group["bounding"][3]
        ]
        assert len(inside) == (number != note["id"]), number


@pytest.mark.parametrize("name", NAMES)
def test_canvas_and_api_form_are_the_same_graph(name):
    api = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    canvas = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    muted = 2
    shown = [node for node in canvas["nodes"] if node["type"] != "MarkdownNote" and node["mode"] != muted]
    nodes = {str(node["id"]): node for node in shown}
    links = {link[0]: link for link in canvas["links"]}
    assert {k: n["type"] for k, n in nodes.items()} == {k: n["class_type"] for k, n in api.items()}
    for node_id, node in nodes.items():
        wired = {i["name"]: i["link"] for i in node["inputs"] if i.get("link") is not None}
        expected = {k: v for k, v in api[node_id]["inputs"].items() if isinstance(v, list)}
        assert {k: [str(links[link][1]), links[link][2]] for k, link in wired.items()} == expected
        values = [v for v in node["widgets_values"] if v not in ("fixed", "image")]
        widgets = [i["name"] for i in node["inputs"] if "widget" in i]
        settings = {k: v for k, v in zip(widgets, values, strict=True) if k not in wired}
        assert settings == {k: v for k, v in api[node_id]["inputs"].items() if k not in wired}


@pytest.mark.slow
def test_graph_from_picture_to_glb_and_what_a_change_redoes(comfy, runner, workflow):
    first = runner.run(workflow("image_to_3d", **FAST))
    assert sorted(runner.executed, key=int) == [str(i) for i in range(1, 13)]
    (file,) = comfy.rglob("*.glb")
    assert file.read_bytes()[:4] == b"glTF"
    assert first["11"][0] == ["3d/trellis2_00001_.glb"]
    before = {k: digest(v) for k, v in first.items()}

    runner.run(workflow("image_to_3d", **FAST))
    assert runner.executed == []
    runner.run(workflow("image_to_3d", n9_seed=7, **FAST))
    assert runner.executed == ["9", "10", "11", "12"]
    runner.run(workflow("image_to_3d", n8_resolution="1536", **FAST))
    assert runner.executed == ["8", "9", "10", "11", "12"]
    runner.run(workflow("image_to_3d", n11_filename_prefix="other", **FAST))
    assert runner.executed == ["11", "12"]
    assert {k: digest(v) for k, v in first.items()} == before, "a node wrote to a cached value"


@pytest.mark.slow
def test_one_node_equals_the_stages(comfy, runner, workflow):
    stages = runner.run(workflow("image_to_3d"))
    whole = runner.run(workflow("image_to_3d_one_node"))
    assert digest(stages["10"][0]) == digest(whole["5"][0])
    assert digest(stages["10"][1]) == digest(whole["5"][1])


@pytest.mark.slow
def test_a_model_for_512_alone_takes_the_same_graphs(comfy, runner, workflow, models, tmp_path, monkeypatch):
    """Its own settings instead of the published ones, and no cascade; what it lacks is said."""
    shutil.copytree(models / "trellis2" / "tiny", tmp_path / "trellis2" / "tiny")
    file = tmp_path / "trellis2" / "tiny" / "pipeline.json"
    pipeline = json.loads(file.read_text())
    pipeline["args"]["default_pipeline_type"] = "512"
    pipeline["args"]["shape_slat_sampler"]["params"]["guidance_strength"] = 1.0
    pipeline["args"]["models"] = {k: v for k, v in pipeline["args"]["models"].items() if not k.endswith("1024")}
    file.write_text(json.dumps(pipeline))
    monkeypatch.setattr(host.folders, "models_folder", lambda: tmp_path)
    own = {f"n{node}_guidance": -1.0 for node in (6, 7, 8, 9)}
    stages = runner.run(workflow("image_to_3d", n8_resolution="the model's own", **own))
    assert stages["8"][0][0] is stages["7"][0][0]
    whole = runner.run(workflow("image_to_3d_one_node", n5_pipeline_type="the model's own"))
    assert digest(stages["10"][0]) == digest(whole["5"][0])
    with pytest.raises(ValueError, match=r"resolution 1024: this checkpoint has no shape network above 512"):
        runner.run(workflow("image_to_3d", **FAST, n8_resolution="1024"))


@pytest.mark.skipif(find_built_in() is None, reason="the built-in checkpoint's weights are not in this tree")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "mesh_to_asset" and "pixal3d" not in name])
def test_workflows_run_without_a_download(name):
    prompt = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    (model,) = (node["inputs"]["model"] for node in prompt.values() if node["class_type"] == "T2LoadModel")
    assert model == host.BUILT_IN == host.model_choices()[0]


SMALL = {"n7_preset": "preview", "n7_faces": 500, "n7_texture_size": "512"}


@pytest.mark.slow
def test_picture_to_game_ready_asset(comfy, runner, workflow):
    first = runner.run(workflow("game_ready_asset", n5_pipeline_type="512", **SMALL))
    (file,) = comfy.rglob("*.glb")
    assert first["9"][0] == ["3d/asset_00001_.glb"]
    loaded = load_textured_mesh(file)
    assert len(loaded.mesh.faces) <= 500
    assert loaded.materials[0].base_color_texture.image.shape == (512, 512, 3)
    before = {k: digest(v) for k, v in first.items()}
    runner.run(workflow("game_ready_asset", n5_pipeline_type="512", **{**SMALL, "n7_faces": 400}))
    assert runner.executed == ["7", "8", "9", "10"]
    assert {k: digest(v) for k, v in first.items()} == before, "a node wrote to a cached value"


@pytest.mark.slow
def test_any_mesh_made_light(comfy, runner, workflow, tmp_path, monkeypatch):
    ball = trimesh.creation.icosphere(3)
    ball.visual.vertex_colors = [200, 100, 50, 255]
    ball.export(tmp_path / "mesh.glb")
    monkeypatch.setattr("comfyui_trellis2.nodes.files.meshes.EXAMPLE_MESHES", tmp_path)
    small = {
        "n1_mesh": "mesh",
        "n2_resolution": 64,
        "n5_faces": 400,
        "n6_texture_size": "512",
        "n7_texture_size": "512",
    }
    runner.run(workflow("mesh_to_asset", **small))
    loaded = load_textured_mesh(comfy / "3d" / "asset_00001_.glb")
    assert len(loaded.mesh.faces) <= 400
    (material,) = loaded.materials
    texels = material.base_color_texture.image.float().mean((0, 1))
    # Vertex colours in a file are linear light: 200, 100 and 50 of 255 are these in sRGB.
    assert (texels - texels.new_tensor([229, 168, 122])).abs().max() < 2
    assert material.normal_texture is not None


@pytest.mark.slow
def test_a_mesh_painted_as_a_picture_says(comfy, runner, workflow, tmp_path, monkeypatch):
    box = trimesh.creation.box((2.0, 1.0, 1.0))
    box.export(tmp_path / "mesh.glb")
    monkeypatch.setattr("comfyui_trellis2.nodes.files.meshes.EXAMPLE_MESHES", tmp_path)
    runner.run(workflow("texture_a_mesh", n6_mesh="mesh", n7_resolution="512", n10_texture_size="512"))
    given, loaded = (load_textured_mesh(file) for file in (tmp_path / "mesh.glb", comfy / "3d" / "asset_00001_.glb"))
    corners = [mesh.mesh.vertices[mesh.mesh.faces] for mesh in (fitted(given), loaded)]
    assert torch.equal(*corners)
    assert loaded.materials[0].base_color_texture.image.shape == (512, 512, 3)


@pytest.mark.slow
def test_the_same_seed_writes_the_same_bytes(comfy, workflow, runner):
    runner.run(workflow("image_to_3d_one_node", n5_pipeline_type="512"))
    runner.cache.clear()
    runner.run(workflow("image_to_3d_one_node", n5_pipeline_type="512"))
    first, second = sorted(comfy.rglob("*.glb"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_cancelling_stops_within_a_step_and_caches_nothing(comfy, runner, workflow, monkeypatch):
    class Cancelled(Exception):
        pass

    calls = []

    def progress():
        def report(fraction):
            calls.append(fraction)
            if len(calls) == 4:
                raise Cancelled

        return report

    monkeypatch.setattr(host, "progress", progress)
    with pytest.raises(Cancelled):
        runner.run(workflow("image_to_3d", n6_steps=12))
    # Two calls for the two token sizes of one picture are one; the structure's steps come next.
    assert len(calls) == 4
    assert "6" not in runner.executed


def test_sockets_of_the_graph_match_what_the_nodes_say():
    for name, node in NODE_CLASS_MAPPINGS.items():
        for socket in node.RETURN_TYPES:
            known = ("IMAGE", "MASK", "STRING", "INT", "BOOLEAN", "FILE_3D", "FILE_3D_GLB", sockets.COMFY_MESH)
            kinds = socket.split(",")
            assert all(kind in (*sockets.VALUES, *known, sockets.TRIMESH) for kind in kinds), name
