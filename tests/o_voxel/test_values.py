"""Values move between devices whole, and stay what they are."""

import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField, tensor_bytes, to_device
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor
from comfyui_trellis2.trellis2.values import ShapeLatent


def painted() -> TexturedMesh:
    mesh = Mesh(torch.rand(3, 3), torch.tensor([[0, 1, 2]], dtype=torch.int32))
    texture = Texture(torch.zeros(4, 4, 3, dtype=torch.uint8), wrap=("clamp", "mirror"))
    return TexturedMesh(mesh, (Material(), Material(base_color_texture=texture)), uv=torch.rand(3, 2))


def test_every_tensor_moves_and_the_rest_stays():
    before = painted()
    moved = to_device(before, "meta")
    places = (moved.mesh.vertices, moved.mesh.faces, moved.uv, moved.materials[1].base_color_texture.image)
    assert {tensor.device.type for tensor in places} == {"meta"}
    assert moved.materials[1].base_color_texture.wrap == ("clamp", "mirror")
    assert moved.materials[0] is before.materials[0]
    assert before.mesh.vertices.device.type == "cpu"


def test_what_is_there_already_is_not_copied():
    field = VoxelField(torch.zeros(2, 3, dtype=torch.int32), torch.rand(2, 6), Grid.cube(4))
    assert to_device(field, "cpu") is field
    assert to_device(painted().materials, "cpu") is not None
    assert to_device(None, "meta") is None


def test_what_is_not_known_is_refused():
    for value in ([torch.zeros(1)], {"a": torch.zeros(1)}, object(), torch.nn.Linear(1, 1), Mesh):
        with pytest.raises(TypeError, match=r"to_device: expected a tensor.*got "):
            to_device(value, "cpu")
        with pytest.raises(TypeError, match="to_device"):
            to_device((1, value), "cpu")


def test_voxels_of_a_batch_move_without_what_is_derived():
    coords = CoordSet.from_items([torch.tensor([[1, 2, 3], [1, 2, 4]])])
    feats = torch.rand(2, 8)
    latent = ShapeLatent(SparseTensor(feats, coords), (512,), (((2, 8),),))
    coords.neighbors()
    assert to_device(latent, "cpu") is latent
    assert tensor_bytes(latent) == 2 * 4 * 4 + 2 * 8 * 4
    moved = to_device(latent, "meta")
    assert isinstance(moved, ShapeLatent)
    assert moved.slat.coords.rows.device.type == moved.slat.feats.device.type == "meta"
    assert moved.slat.coords.lengths == (2,) and moved.resolutions == (512,) and moved.noise_history == (((2, 8),),)
    assert moved.slat.coords._derived == {}
    assert coords.rows.device.type == "cpu" and coords._derived


def test_bytes_count_every_tensor():
    assert tensor_bytes(painted()) == 9 * 4 + 3 * 4 + 4 * 4 * 3 + 6 * 4
    assert tensor_bytes(None) == 0
