"""Values that other nodes pass around: there and back."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from comfyui_trellis2.nodes.interop import FromComfyMesh, FromTrimesh, ToComfyMesh, ToTrimesh
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh


def image(channels, seed, size=8):
    return Texture(
        torch.randint(0, 256, (size, size, channels), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    )


@pytest.fixture
def square():
    """Two triangles with a texture row of their own for one corner."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0.5], [0, 1, 0.25]])
    material = Material(
        base_color_factor=(1.0, 0.5, 0.25),
        base_color_texture=image(3, 1),
        metallic_factor=0.75,
        metallic_texture=image(1, 2),
        roughness_texture=image(1, 3),
        occlusion_texture=image(1, 4),
        normal_texture=image(3, 5),
        double_sided=True,
    )
    return TexturedMesh(
        Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)),
        (material,),
        uv=torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 0.75], [0.25, 0.5]]),
        uv_faces=torch.tensor([[0, 1, 2], [4, 2, 3]], dtype=torch.int32),
        normals=torch.nn.functional.normalize(torch.rand(4, 3) + 0.1, dim=1),
    )


def corners(mesh):
    """What each corner of each face has: place, texture coordinates, normal."""
    faces = mesh.mesh.faces.long()
    uv_faces = faces if mesh.uv_faces is None else mesh.uv_faces.long()
    return mesh.mesh.vertices[faces], mesh.uv[uv_faces], mesh.normals[faces]


@pytest.mark.slow
def test_comfy_mesh_is_in_the_gltf_frame_and_comes_back(square):
    (mesh,) = ToComfyMesh().convert(square)
    assert mesh.vertices.shape == (1, 5, 3)
    assert mesh.vertices[0, :, 1].max() == 0.5  # our z
    assert mesh.texture.shape == (1, 8, 8, 3)
    assert mesh.occlusion_in_mr
    assert torch.equal(mesh.metallic_roughness[0, ..., 1] * 255, square.materials[0].roughness_texture.image[..., 0])
    (back,), (plain,) = FromComfyMesh().convert(mesh)
    for found, expected in zip(corners(back), corners(square), strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(plain.vertices, back.mesh.vertices)
    found, expected = back.materials[0], square.materials[0]
    for name in ("base_color", "metallic", "roughness", "occlusion", "normal"):
        pixels = getattr(found, f"{name}_texture").image, getattr(expected, f"{name}_texture").image
        assert torch.equal(*pixels), name
    assert (found.metallic_factor, found.roughness_factor, found.double_sided) == (0.75, 1.0, True)


def test_every_factor_comes_back_from_a_comfy_mesh(square):
    """Those of a MESH are linear light, ours sRGB; emission may be above 1."""
    factors = {
        "base_color_factor": (0.9, 0.5, 0.0),
        "metallic_factor": 0.25,
        "roughness_factor": 0.75,
        "normal_scale": -0.5,
        "emissive_factor": (0.0, 0.5, 3.0),
        "double_sided": False,
    }
    material = Material(**factors, emissive_texture=image(3, 6), normal_texture=image(3, 7))
    (mesh,) = ToComfyMesh().convert(replace(square, materials=(material,)))
    assert mesh.material["base_color_factor"] == pytest.approx([0.787412, 0.214041, 0.0, 1.0], abs=1e-6)
    (back,), _ = FromComfyMesh().convert(mesh)
    for name, value in factors.items():
        assert getattr(back.materials[0], name) == pytest.approx(value, abs=1e-7), name


def test_a_comfy_mesh_without_factors(square):
    """A MESH may have no dictionary, or numbers below 0, for none."""
    (mesh,) = ToComfyMesh().convert(square)
    mesh.emissive = torch.rand(1, 8, 8, 3)
    for factors in (None, {"metallic_factor": -1.0, "base_color_factor": [-1.0] * 4, "emissive_factor": None}):
        mesh.material = factors
        (back,), _ = FromComfyMesh().convert(mesh)
        found = back.materials[0]
        assert found.base_color_factor == found.emissive_factor == (1.0, 1.0, 1.0)
        assert found.metallic_factor == found.roughness_factor == found.normal_scale == 1.0
    mesh.emissive = mesh.metallic_roughness = None
    (back,), _ = FromComfyMesh().convert(mesh)
    assert back.materials[0].emissive_factor == (0.0, 0.0, 0.0)
    assert back.materials[0].metallic_factor == 0.0


def test_a_padded_batch_of_comfy_meshes(square):
    vertices, faces = torch.rand(2, 6, 3), torch.randint(0, 3, (2, 4, 3))
    batch = SimpleNamespace(
        vertices=vertices,
        faces=faces,
        vertex_counts=torch.tensor([3, 6]),
        face_counts=torch.tensor([1, 4]),
        vertex_colors=torch.full((2, 6, 3), 0.21404114),
    )
    found, meshes = FromComfyMesh().convert(batch)
    assert [len(mesh.vertices) for mesh in meshes] == [3, 6]
    assert [len(mesh.faces) for mesh in meshes] == [1, 4]
    torch.testing.assert_close(found[0].vertex_colors, torch.tensor([[0.5, 0.5, 0.5, 1.0]]).expand(3, 4))


def test_trimesh_there_and_back(square):
    (mesh,) = ToTrimesh().convert(square)
    assert isinstance(mesh, trimesh.Trimesh)
    back, plain = FromTrimesh().convert(mesh, "y")
    for found, expected in zip(corners(back), corners(square), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(back.materials[0].base_color_texture.image, square.materials[0].base_color_texture.image)
    assert torch.equal(back.materials[0].normal_texture.image, square.materials[0].normal_texture.image)
    assert len(plain.faces) == 2


def test_vertex_colors_to_trimesh():
    colors = torch.tensor([[1.0, 0.5, 0.25, 0.5]]).expand(3, 4)
    mesh = TexturedMesh(Mesh(torch.rand(3, 3), torch.tensor([[0, 1, 2]])), vertex_colors=colors)
    (found,) = ToTrimesh().convert(mesh)
    assert np.abs(found.visual.vertex_colors[0].astype(int) - (255, 128, 64, 128)).max() <= 1


def test_what_is_refused(square):
    several = TexturedMesh(square.mesh, (Material(), Material()), uv=square.uv, uv_faces=square.uv_faces)
    with pytest.raises(ValueError, match="expected one material, got 2"):
        ToComfyMesh().convert(several)
    with pytest.raises(TypeError, match="T2_TEXTURED_MESH"):
        ToTrimesh().convert("mesh")
    with pytest.raises(TypeError, match=r"expected ComfyUI's MESH, got builtins\.dict"):
        FromComfyMesh().convert({})
    with pytest.raises(TypeError, match="expected a trimesh mesh or scene"):
        FromTrimesh().convert(3, "y")
