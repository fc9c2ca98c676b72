"""Pictures put on textures: what is seen and what is not, light, and the camera that is found."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.o_voxel.bake.projection import (
    MOST_APART,
    CameraFit,
    FitOptions,
    Picture,
    ProjectOptions,
    fit_camera,
    overlay,
    project_found,
    project_pictures,
)
from comfyui_trellis2.o_voxel.bake.projection.light import matched
from comfyui_trellis2.o_voxel.bake.projection.picture import Seen, outlines_apart
from comfyui_trellis2.o_voxel.core.color import to_linear, to_srgb
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.render import Camera
from comfyui_trellis2.o_voxel.render.surface_materials import SurfaceMaterials
from comfyui_trellis2.o_voxel.values import Mesh, to_device

SIDE = 96  # texels and pixels
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")]
)
PLAIN = ProjectOptions(color_match="none", max_texture=0, full_angle=65.0)


def boxes(*boxes: tuple[tuple[float, ...], tuple[float, ...]]) -> TexturedMesh:
    """Boxes (low, high), outward, each side with a square of its own in a 4 x 4 atlas; the texture is noise."""
    vertices, faces, uv = [], [], []
    for number, (low, high) in enumerate(boxes):
        for side in range(6):
            axis, positive = divmod(side, 2)
            across, upward = ((axis + 1) % 3, (axis + 2) % 3) if positive else ((axis + 2) % 3, (axis + 1) % 3)
            cell = 6 * number + side
            for a, b in ((0, 0), (1, 0), (1, 1), (0, 1)):
                point = [0.0] * 3
                point[axis] = (low, high)[positive][axis]
                point[across], point[upward] = (low, high)[a][across], (low, high)[b][upward]
                vertices.append(point)
                uv.append([(cell % 4 + 0.1 + 0.8 * a) / 4, (cell // 4 + 0.1 + 0.8 * b) / 4])
            first = len(vertices) - 4
            faces += [[first, first + 1, first + 2], [first, first + 2, first + 3]]
    noise = torch.randint(40, 216, (24, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    noise = noise.repeat_interleave(SIDE // 24, 0).repeat_interleave(SIDE // 24, 1)
    paint = Material(base_color_texture=Texture(noise), roughness_texture=Texture(noise[..., :1].contiguous()))
    return TexturedMesh(Mesh(torch.tensor(vertices), torch.tensor(faces)), (paint,), uv=torch.tensor(uv))


def grey(mesh: TexturedMesh, level: int = 128) -> TexturedMesh:
    old = mesh.materials[0]
    flat = torch.full_like(old.base_color_texture.image, level)
    return replace(mesh, materials=(replace(old, base_color_texture=Texture(flat)),))


def taken(mesh: TexturedMesh, camera: Camera, side: int = 2 * SIDE) -> Picture:
    """What `camera` sees of the base colours, without light."""
    blank = Picture(torch.zeros(side, side, 3), torch.ones(side, side))
    seen = Seen.of(mesh.mesh, blank, camera)
    base = SurfaceMaterials.of(mesh).read(seen.face.clamp_min(0).flatten(), seen.bary.view(-1, 3).T.contiguous())
    return Picture(base[:3].T.reshape(side, side, 3).contiguous(), (seen.face >= 0).float())


def side_of(cell: int, image: torch.Tensor, inset: int = 6) -> torch.Tensor:
    """The texels of the square `cell` of the atlas, without its margin."""
    unit = SIDE // 4
    row, column = SIDE - (cell // 4 + 1) * unit, cell % 4 * unit
    return image[row + inset : row + unit - inset, column + inset : column + unit - inset].int()


BOX = boxes(((-0.4, -0.3, -0.2), (0.4, 0.3, 0.2)))
FRONT, TOP, BACK, BOTTOM, LEFT = 2, 5, 3, 4, 0
CAMERA = Camera(10.0, 45.0, 2.0)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_what_is_seen_takes_the_picture_and_nothing_else_changes(device):
    rough, picture = to_device(grey(BOX), device), taken(BOX, CAMERA).to(device)
    before = rough.materials[0].base_color_texture.image.clone()
    made = project_pictures(rough, [(picture, CAMERA)], PLAIN)
    image, truth = made.materials[0].base_color_texture.image.cpu(), BOX.materials[0].base_color_texture.image
    for cell in (FRONT, TOP):
        error = (side_of(cell, image) - side_of(cell, truth)).abs().float().mean()
        assert error < 0.25 * (128 - side_of(cell, truth)).abs().float().mean()
    for cell in (BACK, BOTTOM, LEFT):
        assert (side_of(cell, image, 0) == 128).all()
    assert made.mesh is rough.mesh
    assert made.uv is rough.uv
    assert made.materials[0].roughness_texture is rough.materials[0].roughness_texture
    assert torch.equal(rough.materials[0].base_color_texture.image, before)
    again = project_pictures(rough, [(picture, CAMERA)], PLAIN, progress=lambda fraction: None)
    assert torch.equal(again.materials[0].base_color_texture.image.cpu(), image)


def test_what_stands_behind_keeps_its_colour():
    small, large = ((-0.1, -0.4, -0.1), (0.1, -0.3, 0.1)), ((-0.4, 0.2, -0.4), (0.4, 0.3, 0.4))
    mesh, camera = boxes(small, large), Camera(0.0, 0.0, 3.0, 20.0)
    picture = taken(mesh, camera, 4 * SIDE)
    made = project_pictures(grey(mesh), [(picture, camera)], PLAIN)
    wall = side_of(6 + FRONT, made.materials[0].base_color_texture.image, 3)
    middle = len(wall) // 2
    assert (wall[middle - 1 : middle + 1, middle - 1 : middle + 1] == 128).all()
    assert (wall[:3] != 128).any(-1).float().mean() > 0.9


def test_a_picture_finer_than_the_texture_enlarges_it():
    picture = taken(BOX, CAMERA, 4 * SIDE)
    made = project_pictures(grey(BOX), [(picture, CAMERA)], replace(PLAIN, max_texture=4 * SIDE))
    material = made.materials[0]
    assert material.base_color_texture.image.shape[0] in (2 * SIDE, 4 * SIDE)
    assert material.roughness_texture.image.shape[0] == SIDE
    kept = project_pictures(grey(BOX), [(picture, CAMERA)], PLAIN)
    assert kept.materials[0].base_color_texture.image.shape[0] == SIDE


def test_a_file_takes_an_enlarged_colour_beside_a_smaller_alpha(tmp_path):
    alpha = Texture(torch.randint(256, (SIDE, SIDE, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)))
    cut = replace(BOX, materials=(Material(alpha_mode="MASK", alpha_texture=alpha),))
    made = project_pictures(cut, [(taken(BOX, CAMERA), CAMERA)], replace(PLAIN, max_texture=256))
    assert made.materials[0].base_color_texture.image.shape[0] > SIDE
    save_mesh(tmp_path / "cut.glb", made)
    back = load_textured_mesh(tmp_path / "cut.glb").materials[0].base_color_texture
    assert torch.equal(back.image, made.materials[0].base_color_texture.image)


def test_a_factor_and_a_material_without_a_texture_give_the_same_look():
    picture = taken(BOX, CAMERA)
    plain = replace(BOX, materials=(Material(base_color_factor=(0.5, 0.25, 1.0)),))
    made = project_pictures(plain, [(picture, CAMERA)], replace(PLAIN, max_texture=256))
    image = made.materials[0].base_color_texture.image
    assert made.materials[0].base_color_factor == (1.0, 1.0, 1.0)
    assert image[0, 0].tolist() == [128, 64, 255]
    assert (image != image[0, 0]).any()


def test_two_pictures_cover_two_sides():
    back = Camera(180.0, 0.0, 2.0)
    made = project_pictures(grey(BOX), [(taken(BOX, c), c) for c in (CAMERA, back)], PLAIN)
    image, truth = made.materials[0].base_color_texture.image, BOX.materials[0].base_color_texture.image
    for cell in (FRONT, BACK):
        assert (side_of(cell, image) - side_of(cell, truth)).abs().float().mean() < 15


def test_light_that_depends_on_the_normal_is_taken_out():
    picture = taken(BOX, CAMERA)
    seen = Seen.of(BOX.mesh, picture, CAMERA)
    corner = BOX.mesh.vertices[BOX.mesh.faces[seen.face.clamp_min(0)]]
    along = (corner[..., k, :] - corner[..., 0, :] for k in (1, 2))
    normal = torch.nn.functional.normalize(torch.linalg.cross(*along), dim=-1)
    light = 0.5 + 0.45 * normal[..., 2] + 0.2 * normal[..., 1]
    lit = replace(picture, color=to_srgb(to_linear(picture.color) * light[..., None]))
    inside = (seen.face >= 0) & (seen.border > 4)

    def error(how: str) -> float:
        return float((matched(BOX, lit, seen, how) - picture.color).abs()[inside].mean())

    assert error("none") > 0.05
    assert error("light") < 0.3 * error("exposure")


@pytest.mark.slow
def test_the_camera_is_found():
    step = boxes(((-0.4, -0.3, -0.3), (0.4, 0.3, 0.0)), ((-0.4, 0.0, 0.0), (0.0, 0.3, 0.3)))
    true = Camera(-40.0, 25.0, 2.2, 30.0, (0.05, 0.0, 0.02), roll_deg=2.0)
    picture = taken(step, true)
    fit = fit_camera(step, picture, FitOptions(fov_deg=30.0))
    assert fit.good
    assert fit.overlap > 0.95
    assert abs(fit.camera.yaw_deg + 40) < 2
    assert abs(fit.camera.pitch_deg - 25) < 2
    assert abs(fit.camera.roll_deg - 2) < 1.5
    assert fit == fit_camera(step, picture, FitOptions(fov_deg=30.0))
    line = (overlay(step.mesh, picture, fit.camera, 128) == torch.tensor([255, 120, 0])).all(-1)
    assert 100 < int(line.sum()) < 2000


@pytest.mark.slow
def test_the_camera_is_near_where_it_is_said_to_be():
    block = boxes(((-0.4, -0.2, -0.3), (0.4, 0.2, 0.3)))  # half a turn changes nothing to see
    picture = taken(block, Camera(10.0, 20.0, 2.2, 30.0))
    for near, wanted in ((0.0, 10.0), (180.0, -170.0)):
        found = fit_camera(block, picture, FitOptions(fov_deg=30.0, near_yaw_deg=near)).camera
        assert abs(found.yaw_deg - wanted) < 3


@pytest.mark.slow
def test_a_picture_of_something_else_is_refused():
    row, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    cross = ((row - 48).abs() < 5) | ((column - 48).abs() < 5)
    matte = torch.nn.functional.pad(cross[4:-4, 4:-4].float(), (4, 4, 4, 4))
    picture = Picture.cropped(torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(3)), matte)
    rough = grey(BOX)
    made, (fit,) = project_found(rough, [picture], FitOptions(pitch_deg=0.0))
    assert made is rough
    assert not fit.good
    assert "not trusted" in fit.line()


def test_outlines_part_where_areas_overlap():
    shown = taken(BOX, CAMERA)
    assert outlines_apart(BOX.mesh, shown, CAMERA) < 0.002
    place = torch.linspace(-1, 1, shown.side)
    y, x = (float((shown.matte.sum(1 - k) * place).sum() / shown.matte.sum()) for k in (0, 1))
    away = torch.hypot(place[:, None] - y, place - x)
    disc = (away <= away.flatten().sort().values[int(shown.matte.sum())]).float()
    other = replace(shown, matte=disc)
    inside = shown.matte > 0
    assert float((disc * inside).sum() / torch.maximum(disc, shown.matte).sum()) > FitOptions().min_overlap
    assert outlines_apart(BOX.mesh, other, CAMERA) > MOST_APART
    assert outlines_apart(BOX.mesh, shown, replace(CAMERA, target=(9.0, 0.0, 0.0))) == 1.0


def test_a_face_over_several_tiles_takes_the_picture_on_each():
    """A square whose texture repeats twice across: both halves of the picture land on the same texels."""
    corners = torch.tensor([[-0.5, 0.0, -0.25], [0.5, 0.0, -0.25], [0.5, 0.0, 0.25], [-0.5, 0.0, 0.25]])
    paint = Material(base_color_texture=Texture(torch.full((64, 64, 3), 128, dtype=torch.uint8)))
    uv = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]])
    mesh = TexturedMesh(Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]])), (paint,), uv=uv)
    camera = Camera(0.0, 0.0, 3.0, 30.0)
    shown = taken(mesh, camera)
    red = replace(shown, color=torch.zeros_like(shown.color) + torch.tensor([1.0, 0.0, 0.0]))
    image = project_pictures(mesh, [(red, camera)], PLAIN).materials[0].base_color_texture.image
    inner = image[12:-12]
    assert (inner[:, 12:-12].int() - torch.tensor([255, 0, 0])).abs().max() <= 2


def test_a_crop_holds_the_object_and_no_background():
    color, matte = torch.zeros(60, 100, 3, dtype=torch.uint8), torch.zeros(60, 100, dtype=torch.uint8)
    color[..., 0], matte[10:50, 5:25] = 255, 255  # red background
    color[10:50, 5:25] = torch.tensor([0, 200, 0], dtype=torch.uint8)
    picture = Picture.cropped(color, matte)
    assert picture.side == round(40 * 1.12)
    assert int(picture.matte.sum()) == 800
    assert picture.resized(17).color[..., 0].max() < 1e-3
    with pytest.raises(ValueError, match="expected an object in front of something, got everything"):
        Picture.cropped(color, torch.ones(60, 100))
    with pytest.raises(ValueError, match="alpha channel or a mask"):
        Picture.cropped(color)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="texture coordinates to project onto"):
        project_pictures(TexturedMesh(BOX.mesh), [(taken(BOX, CAMERA), CAMERA)])
    with pytest.raises(ValueError, match="full_angle < last_angle"):
        ProjectOptions(full_angle=80.0)
    with pytest.raises(ValueError, match="color_match"):
        ProjectOptions(color_match="best")
    with pytest.raises(ValueError, match="fov_deg"):
        FitOptions(fov_deg=0.0)
    assert "trusted" not in CameraFit(CAMERA, 0.9, 0.5, True).line()
