"""The O-Voxel nodes as a chain: mesh file, voxels, file, voxels, mesh, picture."""

import pytest
import torch
import trimesh
from comfyui_trellis2.nodes import host
from comfyui_trellis2.nodes.files.meshes import LoadMesh
from comfyui_trellis2.nodes.preview import RenderPreview
from comfyui_trellis2.nodes.voxels import LoadVoxels, MeshToVoxels, SaveVoxels, VoxelsToMesh


@pytest.fixture
def ball(tmp_path, monkeypatch):
    """A ball's GLB in ComfyUI's input folder, red on top."""
    mesh = trimesh.creation.icosphere(3)
    mesh.apply_scale(3.0)
    colors = [[255, 0, 0, 255] if z > 0 else [0, 0, 255, 255] for z in mesh.vertices[:, 1]]
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colors)
    mesh.export(tmp_path / "ball.glb")
    monkeypatch.setattr(host, "input_path", lambda name: tmp_path / name)
    return "ball.glb"


@pytest.mark.slow
def test_mesh_to_voxels_to_file_and_back(ball, comfy, monkeypatch):
    textured, mesh = LoadMesh().load(ball, True)
    assert (mesh.vertices.amax(0) - mesh.vertices.amin(0)).amax().item() == pytest.approx(1, abs=1e-4)
    (voxels,) = MeshToVoxels().voxelize(textured, 64, True)
    top = voxels.field.attrs[voxels.field.coords[:, 2] > 40]
    assert top[:, 0].mean() > 0.9
    assert top[:, 2].mean() < 0.1

    (name,) = SaveVoxels().save(voxels, "balls/one", "vxz")["result"]
    assert name == "balls/one_00001_.vxz"
    monkeypatch.setattr(host, "input_path", lambda name: comfy / name)
    (again,) = LoadVoxels().load(name, 64)
    key = [
        (c[:, 0].long() << 32) + (c[:, 1].long() << 16) + c[:, 2]
        for c in (voxels.dual_grid.coords, again.dual_grid.coords)
    ]
    first, second = (k.argsort() for k in key)
    assert torch.equal(voxels.dual_grid.coords[first], again.dual_grid.coords[second])
    assert torch.equal(voxels.dual_grid.intersected[first], again.dual_grid.intersected[second])
    assert (voxels.dual_grid.dual[first] - again.dual_grid.dual[second]).abs().max() <= 1 / 255
    assert (voxels.field.attrs[first] - again.field.attrs[second]).abs().max() <= 0.5 / 255 + 1e-6

    whole, field = VoxelsToMesh().extract(again, 0)
    tiled, _ = VoxelsToMesh().extract(again, 16)
    assert torch.equal(whole.faces, tiled.faces)
    radius = (whole.vertices[whole.faces.unique().long()]).norm(dim=1)
    assert (radius - 0.5).abs().max() < 1 / 64
    (images,) = RenderPreview().render(whole, 2, 64, 30.0, 20.0, field)
    assert images.shape == (2, 64, 64, 3)
    assert images.min() >= 0 and images.max() <= 1
    assert images.std() > 0.05


def test_without_materials(ball):
    textured, _ = LoadMesh().load(ball, False)
    assert textured.mesh.vertices.abs().max() > 2
    (voxels,) = MeshToVoxels().voxelize(LoadMesh().load(ball, True)[0], 32, False)
    assert voxels.field is None


def test_wrong_objects_and_missing_files(comfy):
    with pytest.raises(FileNotFoundError, match=r"absent\.glb: there is no such file"):
        LoadMesh().load("absent.glb", True)
    with pytest.raises(TypeError, match="T2_TEXTURED_MESH"):
        MeshToVoxels().voxelize("mesh", 32, True)
    with pytest.raises(TypeError, match="T2_O_VOXEL"):
        VoxelsToMesh().extract({}, 0)
    with pytest.raises(TypeError, match="T2_MESH"):
        RenderPreview().render(None, 1, 64, 0.0, 0.0)
