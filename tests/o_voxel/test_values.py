"""Values move between devices whole, and stay what they are."""

import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField, tensor_bytes, to_device


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


def test_bytes_count_every_tensor():
    assert tensor_bytes(painted()) == 9 * 4 + 3 * 4 + 4 * 4 * 3 + 6 * 4
    assert tensor_bytes(None) == 0
