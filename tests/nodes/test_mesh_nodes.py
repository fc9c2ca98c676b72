"""The mesh nodes as a chain: raw surface to a file, step by step and in one node."""

import pytest
import torch
import trimesh
from comfyui_trellis2.nodes import host
from comfyui_trellis2.nodes import mesh as mesh_module
from comfyui_trellis2.nodes.asset import FROM_PRESET, BakeTextures, GameReadyAsset, Unwrap
from comfyui_trellis2.nodes.files import LoadMesh, SaveMesh
from comfyui_trellis2.nodes.mesh import CleanMesh, FillHoles, Remesh, SimplifyMesh
from comfyui_trellis2.nodes.voxels import MeshToVoxels, VoxelsToMesh
from comfyui_trellis2.o_voxel import asset as asset_module
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.values import Mesh


@pytest.fixture
def ball(tmp_path, monkeypatch):
    """(raw surface, voxels) of a ball, red above and blue below, from a file."""
    mesh = trimesh.creation.icosphere(3)
    colors = [[255, 0, 0, 255] if y > 0 else [0, 0, 255, 255] for y in mesh.vertices[:, 1]]
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colors)
    mesh.export(tmp_path / "ball.glb")
    monkeypatch.setattr(host, "input_path", lambda name: tmp_path / name)
    textured, _ = LoadMesh().load("ball.glb", True)
    (voxels,) = MeshToVoxels().voxelize(textured, 48, True)
    return VoxelsToMesh().extract(voxels, 0)


@pytest.mark.slow
def test_step_by_step(ball, comfy):
    raw, voxels = ball
    (clean,) = CleanMesh().clean(raw, 1e-6, 1e-5, 0, 0.03, "volume")
    (whole,) = FillHoles().fill(clean, 0.1, True)
    (light,) = SimplifyMesh().simplify(whole, 500, 0.0)
    assert len(light.faces) <= 500
    (unwrapped,) = Unwrap().unwrap(light, "512", 2, 60.0)
    (painted,) = BakeTextures().bake(unwrapped, clean, voxels, "512", "1", True, True, "auto")
    found = SaveMesh().save(painted, "balls/one", "glb")
    assert found["result"][0] == "balls/one_00001_.glb"
    loaded = load_textured_mesh(comfy / "balls/one_00001_.glb")
    texels = loaded.materials[0].base_color_texture.image
    middle, at = (part[loaded.mesh.faces.long()].mean(1) for part in (loaded.mesh.vertices, loaded.uv))
    x, y = (at[:, 0] * 512).long(), ((1 - at[:, 1]) * 512).long()
    top, low = middle[:, 2] > 0.1, middle[:, 2] < -0.1
    assert texels[y[top], x[top]].float().mean(0)[0] > 240
    assert texels[y[low], x[low]].float().mean(0)[2] > 240


def test_what_falls_short_is_shown_on_the_node(comfy, monkeypatch):
    rings = trimesh.util.concatenate(
        [trimesh.creation.torus(0.1, 0.03, 24, 12).apply_translation((x, 0, 0)) for x in (-0.3, 0.0, 0.3)]
    )
    mesh = Mesh(torch.tensor(rings.vertices, dtype=torch.float32), torch.tensor(rings.faces))
    for module in (asset_module, mesh_module):
        monkeypatch.setattr(module, "simplify", lambda mesh, faces, **options: mesh)
    found = GameReadyAsset().make(mesh, "preview", 1200, FROM_PRESET, FROM_PRESET)
    (line,) = found["ui"]["text"]
    assert "parts" in line
    textured, light = found["result"]
    assert len(light.faces) == len(textured.mesh.faces) == 1152
    found = SimplifyMesh().simplify(mesh, 5, 0.0)
    (light,) = found["result"]
    assert len(light.faces) == 1728
    assert found["ui"]["text"][0].startswith("1,728 triangles instead of 5")


@pytest.mark.slow
def test_game_ready_asset_in_one(ball, comfy):
    textured, mesh = GameReadyAsset().make(ball[0], "preview", 400, "512", FROM_PRESET, ball[1])
    assert len(mesh.faces) <= 400
    assert textured.materials[0].base_color_texture.image.shape == (512, 512, 3)
    textured, _ = GameReadyAsset().make(ball[0], "game low", 400, "512", "cleaned", ball[1])
    assert textured.materials[0].normal_texture is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["glb", "obj", "ply", "stl"])
def test_every_format(ball, comfy, kind):
    textured, _ = GameReadyAsset().make(ball[0], "preview", 400, "512", FROM_PRESET, ball[1])
    name, _ = SaveMesh().save(textured, "ball", kind)["result"]
    loaded = load_textured_mesh(comfy / name)
    assert len(loaded.mesh.faces) == len(textured.mesh.faces)
    torch.testing.assert_close(loaded.mesh.vertices.amax(0), textured.mesh.vertices.amax(0), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_file_size_budget(ball, comfy):
    textured, _ = GameReadyAsset().make(ball[0], "game low", 400, "512", FROM_PRESET, ball[1])
    name, _ = SaveMesh().save(textured, "small", "glb", max_mib=0.1)["result"]
    assert (comfy / name).stat().st_size <= 0.1 * 2**20


@pytest.mark.slow
def test_remesh(ball):
    (shell,) = Remesh().remesh(ball[0], "outer shell", 32)
    assert trimesh.Trimesh(shell.vertices.numpy(), shell.faces.numpy()).is_watertight
    (both,) = Remesh().remesh(ball[0], "both sides", 32)
    assert len(both.faces) > len(shell.faces)


def test_wrong_objects():
    for call in (
        lambda: CleanMesh().clean("mesh", 0.0, 0.0, 0, 0.0, "volume"),
        lambda: SimplifyMesh().simplify(None, 4, 0.0),
        lambda: Unwrap().unwrap({}, "512", 2, 60.0),
    ):
        with pytest.raises(TypeError, match="T2_MESH"):
            call()


def test_baking_wants_texture_coordinates(ball):
    textured, mesh = GameReadyAsset().make(ball[0], "3D print", 400, FROM_PRESET, "cleaned", None)
    with pytest.raises(ValueError, match="put Unwrap before"):
        BakeTextures().bake(textured, mesh, ball[1], "512", "1", False, False, "auto")
