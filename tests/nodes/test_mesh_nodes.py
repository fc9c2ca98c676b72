"""The mesh nodes as a chain: raw surface to a file, step by step and in one node."""

import pytest
import torch
import trimesh
from comfyui_trellis2.nodes import host
from comfyui_trellis2.nodes import mesh as mesh_module
from comfyui_trellis2.nodes.asset import FROM_PRESET, GameReadyAsset, Unwrap
from comfyui_trellis2.nodes.bake import BakeTextures, TransferTextures
from comfyui_trellis2.nodes.files.engine import CollisionMesh, SaveForEngine
from comfyui_trellis2.nodes.files.meshes import LoadMesh, SaveMesh
from comfyui_trellis2.nodes.mesh import CleanMesh, FillHoles, Remesh, SimplifyMesh
from comfyui_trellis2.nodes.voxels import MeshToVoxels, VoxelsToMesh
from comfyui_trellis2.o_voxel import asset as asset_module
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
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
    _choice, line = found["ui"]["text"]
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


@pytest.fixture
def square():
    """A red square of two triangles with a texture, 1 long."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    mesh = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    paint = Material(base_color_texture=Texture(torch.tensor([220, 10, 10], dtype=torch.uint8).expand(4, 4, 3)))
    return TexturedMesh(mesh, (paint,), uv=corners[:, :2].contiguous())


def test_textures_go_from_mesh_to_mesh(square):
    plain = Mesh(square.mesh.vertices, square.mesh.faces.flip(1))
    options = {"normal_map": False, "occlusion": False, "supersample": "1", "gutter": 2, "crease_deg": 60.0}
    options |= {"alpha_mode": "auto", "max_distance": 0.0}
    (made,) = TransferTextures().transfer(plain, square, "textures", "512", **options, texture_size_override=64)
    assert made.materials[0].base_color_texture.image[32, 32].tolist() == [220, 10, 10]
    assert made.materials[0].base_color_texture.image.shape[0] == 64
    (made,) = TransferTextures().transfer(plain, square, "vertex colours", "512", **options)
    assert (made.vertex_colors[:, 0] * 255).round().tolist() == [220.0] * 4


def test_a_textured_mesh_needs_no_voxels(square):
    (unwrapped,) = Unwrap().unwrap(square, "512", 2, 60.0)
    (made,) = BakeTextures().bake(unwrapped, square, None, "512", "1", False, False, "auto", 64)
    assert made.materials[0].base_color_texture.image[32, 32].tolist() == [220, 10, 10]
    (made,) = BakeTextures().bake(square, square.mesh, None, "512", "1", True, False, "auto", 64)
    assert made.materials[0].base_color_texture is square.materials[0].base_color_texture
    assert made.materials[0].normal_texture.image[32, 32].tolist() == [128, 128, 255]
    made, _ = GameReadyAsset().make(square, "preview", 100, FROM_PRESET, "cleaned", None, 64)
    assert made.materials[0].base_color_texture.image[32, 32].tolist() == [220, 10, 10]


def test_an_engine_gets_levels_and_hulls(comfy, square):
    ball = trimesh.creation.icosphere(2, 0.4)
    mesh = Mesh(torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces))
    (hull,) = CollisionMesh().make(mesh, 1, 0.05)
    save = SaveForEngine().save
    found = save(mesh, "engine/ball", 2, 0.5, "a file per level", "base", "opengl", 1.0, hull)
    assert found["result"][0] == "engine/ball_00001_lod0.glb"
    names = sorted(path.name for path in (comfy / "engine").iterdir())
    assert names == ["ball_00001_collision.glb", "ball_00001_lod0.glb", "ball_00001_lod1.glb"]
    assert len(load_textured_mesh(comfy / "engine" / names[2]).mesh.faces) == 160
    found = save(mesh, "engine/ball", 2, 0.5, "one file", "base", "opengl", 1.0, hull)
    assert found["result"][0] == "engine/ball_00001_.glb"
    assert CollisionMesh.VALIDATE_INPUTS(1) is True
    assert "expected 1 to" in CollisionMesh.VALIDATE_INPUTS(0)
