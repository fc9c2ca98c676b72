"""Nodes that show textures, layouts and figures, and the camera that comes from ComfyUI."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.nodes.preview import MeshInfo, RenderPreview, UVAtlas, comfy_camera
from comfyui_trellis2.nodes.project import ProjectPicture
from comfyui_trellis2.nodes.textures import ImagesToTextures, TexturesToImages
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.render import Camera
from comfyui_trellis2.o_voxel.values import Mesh

CORNERS = torch.tensor([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
SQUARE = Mesh(CORNERS, torch.tensor([[0, 1, 2], [0, 2, 3]]))
MAPS = ("base_color", "orm", "normal", "emissive", "alpha")


def noise(channels: int) -> Texture:
    generator = torch.Generator().manual_seed(channels)
    return Texture(torch.randint(256, (8, 8, channels), dtype=torch.uint8, generator=generator))


@pytest.fixture
def painted() -> TexturedMesh:
    paint = Material(base_color_texture=noise(3), roughness_texture=noise(1), metallic_factor=0.3)
    return TexturedMesh(SQUARE, (paint,), uv=CORNERS[:, [0, 2]] + 0.5)


def test_textures_go_round_without_a_change(painted):
    images = dict(zip(MAPS, TexturesToImages().convert(painted, 0), strict=True))
    assert [tuple(image.shape) for image in images.values()] == [(1, 8, 8, 3)] * 4 + [(1, 8, 8)]
    assert all(image.dtype == torch.float32 and 0 <= image.min() <= image.max() <= 1 for image in images.values())
    (back,) = ImagesToTextures().convert(painted, 0, **images)
    assert back is painted


def test_an_upscaled_picture_comes_back_in(painted):
    base_color = TexturesToImages().convert(painted, 0)[0]
    larger = base_color.repeat_interleave(2, 1).repeat_interleave(2, 2)
    (back,) = ImagesToTextures().convert(painted, 0, base_color=larger)
    assert torch.equal(back.materials[0].base_color_texture.image[::2, ::2], noise(3).image)
    assert back.materials[0].roughness_texture is painted.materials[0].roughness_texture
    with_alpha = torch.cat((larger, torch.zeros(1, 16, 16, 1)), -1)
    (same,) = ImagesToTextures().convert(painted, 0, base_color=with_alpha)
    assert torch.equal(same.materials[0].base_color_texture.image, back.materials[0].base_color_texture.image)


def test_pictures_that_do_not_fit_are_refused(painted):
    with pytest.raises(ValueError, match="base_color: expected one image, got a batch of 2"):
        ImagesToTextures().convert(painted, 0, base_color=torch.rand(2, 8, 8, 3))
    with pytest.raises(ValueError, match="normal: expected an image of 1, 3 or 4 channels, got 2"):
        ImagesToTextures().convert(painted, 0, normal=torch.rand(1, 8, 8, 2))
    with pytest.raises(ValueError, match="UV coordinates"):
        ImagesToTextures().convert(TexturedMesh(SQUARE), 0, base_color=torch.rand(1, 8, 8, 3))
    with pytest.raises(ValueError, match="material: expected 0 to 0, got 3"):
        TexturesToImages().convert(painted, 3)
    with pytest.raises(TypeError, match="T2_TEXTURED_MESH"):
        TexturesToImages().convert("mesh", 0)


def test_the_atlas_and_its_figures(painted):
    found = UVAtlas().draw(painted, 64, 0)
    image, figures = found["result"]
    assert image.shape == (1, 64, 64, 3)
    assert found["ui"]["text"] == figures.split("\n") and "100.0% of the texture filled" in figures


@pytest.mark.parametrize("plain", [True, False])
def test_info_passes_the_mesh_on(painted, plain):
    mesh = painted.mesh if plain else painted
    found = MeshInfo().measure(mesh)
    passed, triangles, parts, watertight, text = found["result"]
    assert passed.mesh is painted.mesh if plain else passed is painted
    assert (triangles, parts, watertight) == (2, 1, False)
    assert found["ui"]["text"] == text.split("\n") and ("base color: 8 × 8" in text) is not plain
    with pytest.raises(TypeError, match="T2_MESH"):
        MeshInfo().measure("mesh")


def place(x, y, z):
    return {"x": x, "y": y, "z": z}


@pytest.mark.parametrize(
    ("position", "yaw", "pitch"),
    [((0, 0, 5), 0, 0), ((5, 0, 0), 90, 0), ((0, 3, -3), 180, 45), ((-1, 0, 1), -45, 0), ((0, 5, 0), 0, 90)],
)
def test_comfyuis_camera_looks_the_same_way(position, yaw, pitch):
    moved = [a + b for a, b in zip(position, (1, 2, 3), strict=True)]
    info = {"position": place(*moved), "target": place(1, 2, 3), "fov": 35, "cameraType": "perspective", "zoom": 1}
    camera = comfy_camera(info)
    assert (camera.yaw_deg, camera.pitch_deg) == (pytest.approx(yaw), pytest.approx(pitch))
    assert camera.fov_deg == 35 and not camera.orthographic and camera.distance is None
    assert comfy_camera({**info, "cameraType": "orthographic"}).orthographic


def test_a_connected_camera_replaces_the_angles():
    info = {"position": place(0, 0, 2), "target": place(0, 0, 0), "fov": Camera().fov_deg}
    (given,) = RenderPreview().render(SQUARE, 1, 64, 77.0, 33.0, camera=info)
    (same,) = RenderPreview().render(SQUARE, 1, 64, 0.0, 0.0)
    (other,) = RenderPreview().render(SQUARE, 1, 64, 77.0, 33.0)
    assert torch.equal(given, same) and not torch.equal(given, other)


def test_cameras_that_say_nothing_are_refused():
    with pytest.raises(TypeError, match="camera: expected ComfyUI's camera_info"):
        comfy_camera({"fov": 30})
    with pytest.raises(ValueError, match="camera: expected its position apart"):
        comfy_camera({"position": place(1, 1, 1), "target": place(1, 1, 1)})


def test_several_materials_are_chosen_by_number(painted):
    two = replace(painted, materials=(*painted.materials, Material(base_color_factor=(1.0, 0.0, 0.0))))
    red = TexturesToImages().convert(two, 1)[0]
    assert red[0, 0, 0].tolist() == [1, 0, 0]
    (back,) = ImagesToTextures().convert(two, 1, base_color=torch.zeros(1, 4, 4, 3))
    assert back.materials[0] is two.materials[0] and back.materials[1].base_color_factor == (1.0, 1.0, 1.0)


@pytest.mark.slow
def test_a_picture_is_put_on_the_side_that_it_shows(painted):
    image = torch.zeros(1, 48, 48, 3)
    image[:, 8:40, 8:40] = torch.tensor([0.9, 0.2, 0.1])
    mask = (image.sum(-1) == 0).float()
    widgets = {
        key: options["default"]
        for key, (_, options) in ProjectPicture.INPUT_TYPES()["required"].items()
        if "default" in options
    }
    widgets |= {"camera": "as given below", "elevation_deg": 0.0, "fov_deg": 30.0, "color_match": "none"}
    done = ProjectPicture().project(painted, image, **widgets, mask=mask)
    made, preview, text = done["result"]
    assert text.startswith("camera: azimuth 0.0, elevation 0.0")
    assert preview.shape == (1, 512, 512, 3)
    middle = made.materials[0].base_color_texture.image
    side = len(middle)
    assert (middle[side // 2, side // 2].int() - torch.tensor([230, 51, 26])).abs().max() <= 3
    assert made.materials[0].roughness_texture is painted.materials[0].roughness_texture
    with pytest.raises(ValueError, match="expected one picture for a given camera, got 2"):
        ProjectPicture().project(painted, image.repeat(2, 1, 1, 1), **widgets, mask=mask)
    with pytest.raises(ValueError, match="put Unwrap before this node"):
        ProjectPicture().project(SQUARE, image, **widgets, mask=mask)
    assert ProjectPicture().project(painted, image, **{**widgets, "strength": 0.0}, mask=mask)["result"][0] is painted
